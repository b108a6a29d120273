// Squared distances of one group: s_ij = ‖x_i − y_j‖² by direct differences.
//
// Layout: x [m, d] is read by rows, y [n, d] in panels (panels.h). Work: 3 m n d flop, or half as
// many for y = x, where only the upper triangle is computed. (The form ‖x‖² + ‖y‖² − 2 x·y takes
// 2 m n d flop, but loses the digits of small distances.) Invariants: the distance of equal rows is
// exactly 0, no value is negative, and a value that overflows is the largest finite number.
#pragma once

#include <cstdint>

namespace mige::cpu {

// s_ij = scale² ‖x_i − y_j‖² for all pairs. If y is nullptr, y is x, only the entries j >= i are
// computed, and the entries below the diagonal are undefined.
template <typename T>
void squared_distance_matrix(const T* x,  // [m, d]
                             const T* y,  // [n, d] or nullptr
                             int64_t m, int64_t n, int64_t d, T scale,
                             T* s);  // [m, n]

// k_ij = k_ji for j < i: the lower triangle from the upper one.
template <typename T>
void mirror(T* k, int64_t m);  // k [m, m]

}  // namespace mige::cpu
