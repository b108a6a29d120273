// The Student score of one group in whitened coordinates. mige_ext.ops.student_score explains the
// formulas, and student_score.cpp defines the function.
#pragma once

#include "cpu/whitening.h"

namespace mige::cpu {

// Fits a Student distribution to the whitened samples, and returns its ν. An infinite ν stands for
// the Gaussian score. Then the departure is not written, the divergence is 0 and the weights are 1.
template <typename T>
double student_departure(const Whitening<T>& w,
                         const T* z,     // [m, r]
                         T* departure,   // [m, r]
                         T* divergence,  // [m], divergence of the departure
                         T* weights);    // [m], weights of the last EM step

}  // namespace mige::cpu
