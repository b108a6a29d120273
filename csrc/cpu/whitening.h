// Whitening of one group of samples with a ridge τ, which is chosen from the samples.
//
// With V the standardized samples, D the deviations and R = VᵀV / M = U Λ Uᵀ the correlations:
//
//   z = (x − mean) D^{−1} U (Λ + τ)^{−1/2},   τ = factor · argmin J(τ)
//
// J is the leave-one-out Hyvärinen objective of the Gaussian score (mige_ext.ops.ridge_whitening).
// The primal form decomposes R, [d, d]. The dual form decomposes VVᵀ / M, [m, m], which has the
// same nonzero eigenvalues. It is used for d > m and does not give the matrix W. Work:
// 4 m d r + 11 r³ flop, r = min(m, d).
#pragma once

#include <cmath>

#include "common/whitening_rule.h"
#include "cpu/product.h"
#include "cpu/scaling.h"

namespace mige::cpu {

// The whitening of one group. `rank` is d in the primal form and m in the dual form.
template <typename T>
struct Whitening {
  int64_t m, d, rank;
  Buffer<T> v{m * d};              // [m, d], standardized samples
  Buffer<T> mean{d};               // [d]
  Buffer<T> inverse{d};            // [d], 1 / deviation; 0 for a constant column
  Buffer<T> rotated{m * rank};     // [m, rank], V U
  Buffer<T> values{rank};          // [rank], Λ
  Buffer<T> vectors{rank * rank};  // [rank, rank], one per row, of VᵀV / M or VVᵀ / M
  double ridge = 1;                // τ
  Support support{};
};

// Fills all members of `w`.
template <typename T>
void whiten(const T* x,  // [m, d]
            double factor, Whitening<T>& w);

// 1 / √(λ_k + τ), or 0 for an excluded direction.
template <typename T>
T whitening_factor(const Whitening<T>& w, int64_t k) {
  if (k < w.support.excluded) return T(0);
  return static_cast<T>(1 / std::sqrt(static_cast<double>(w.values[k]) + w.ridge));
}

}  // namespace mige::cpu
