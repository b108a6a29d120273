// The rules of the Student score, for CPU and CUDA: the values of ν, the weight of a sample, and
// the risk. mige_ext.ops.student_score explains the formulas. z is a whitened sample, μ the
// location, P the inverse of the scatter matrix, d the number of dimensions that count
// (Support::dimensions in common/whitening_rule.h), and e the mean of ‖z‖².
#pragma once

#include "common/math.h"

namespace mige {

// ν is chosen among 3, 4, 6, 10, 20, 50 and infinity. The finite values come from a formula,
// because a GPU would put an array into slow local memory.
constexpr int kStudentNus = 6;
MIGE_HOST_DEVICE double student_nu(int i) {
  return i < 3 ? (i == 0 ? 3 : 2 + 2 * i) : (i == 3 ? 10 : (i == 4 ? 20 : 50));
}

// The number of EM steps for the location and the scatter.
constexpr int kStudentSteps = 4;

// The values of a sample from which its risk is computed, with u = z − μ.
struct StudentSample {
  double inner;    // uᵀPu
  double squared;  // ‖Pu‖²
  double z;        // ‖z‖²
};

// w = (ν + e) / (ν − 2 + uᵀPu), with `inner` = uᵀPu. Without a ridge e is d. The ridge makes ‖z‖²
// smaller. With d in place of e, almost all weights would be larger than 1. Larger weights enlarge
// the score, which lowers the estimated risk, but not the error at new samples.
MIGE_HOST_DEVICE double student_weight(double nu, double e, double inner) {
  return (nu + e) / (nu - 2 + inner);
}

// The divergence of the departure R = z − w P u, and the risk ½‖R‖² − z·R + divergence.
struct StudentRisk {
  double divergence, risk;

  // `trace` is the sum of P_kk over the d dimensions that count.
  static MIGE_HOST_DEVICE StudentRisk of(double nu, double d, double e, double trace,
                                         const StudentSample& at) {
    const double weight = student_weight(nu, e, at.inner);
    const double slope = weight / (nu - 2 + at.inner);  // −dw / d(uᵀPu)
    const double divergence = d - weight * trace + 2 * slope * at.squared;
    return {divergence, (weight * weight * at.squared - at.z) / 2 + divergence};
  }
};

}  // namespace mige
