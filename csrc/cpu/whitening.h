// Whitening of one group of samples with a ridge τ that is chosen from the samples.
//
// With the standardized samples V, the standard deviations D and the correlations
// R = VᵀV / M = U Λ Uᵀ:
//
//   z = (x − mean) D^{−1} U (Λ + τ)^{−1/2},   τ = ridge_fraction(factor) · argmin J(τ)
//
// J is the leave-one-out Hyvärinen objective of the Gaussian score (mige_ext.ops.ridge_whitening).
// For d <= m the primal form decomposes R, [d, d]. For d > m the dual form decomposes VVᵀ / M,
// [m, m], which has the same nonzero eigenvalues. Work: 4 m d r + 11 r³ flop, r = min(m, d).
#pragma once

#include <algorithm>
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
  Buffer<T> vectors{rank * rank};  // [rank, rank], eigenvectors of VᵀV / M or VVᵀ / M, one per row
  double ridge = 1;                // τ
  Support support{};
};

// Fills all members of `w`.
template <typename T>
void whiten(const T* x, double factor, Whitening<T>& w);  // x [m, d]

// 1 / √(λ_k + τ), or 0 for an excluded direction.
template <typename T>
T whitening_factor(const Whitening<T>& w, int64_t k) {
  if (k < w.support.excluded) return T(0);
  return static_cast<T>(1 / std::sqrt(static_cast<double>(w.values[k]) + w.ridge));
}

// z = V U (Λ + τ)^{−1/2}.
template <typename T>
void whitened(const Whitening<T>& w,
              T* z) {  // [m, rank]
  const Buffer<T> factor(w.rank);
  for (int64_t k = 0; k < w.rank; ++k) factor[k] = whitening_factor(w, k);
  for (int64_t i = 0; i < w.m; ++i)
    for (int64_t k = 0; k < w.rank; ++k) z[i * w.rank + k] = w.rotated[i * w.rank + k] * factor[k];
}

// In the dual form, the length √(M λ_k) of the vector Vᵀ q_k with the eigenvector q_k of VVᵀ/M, or
// 0 if λ_k is a rounding error. In the primal form, 1.
template <typename T>
T dual_length(const Whitening<T>& w, int64_t k) {
  if (w.rank == w.d) return T(1);
  const double floor = dual_floor<T>(static_cast<double>(w.values[w.rank - 1]), w.d);
  const double value = static_cast<double>(w.values[k]);
  return value > floor ? static_cast<T>(std::sqrt(static_cast<double>(w.m) * value)) : T(0);
}

// Converts scores F of the whitened samples to scores of x, F (Λ + τ)^{−1/2} Uᵀ D^{−1}. In the dual
// form Uᵀ = (M Λ)^{−1/2} Qᵀ V with the eigenvectors Q of VVᵀ/M. Overwrites f.
template <typename T>
void to_samples(const Whitening<T>& w,
                T* f,      // [m, r]
                T* out) {  // [m, d]
  const int64_t m = w.m, d = w.d, r = w.rank;
  const Buffer<T> factor(r);
  for (int64_t k = 0; k < r; ++k) {
    const T length = dual_length(w, k);
    factor[k] = length > T(0) ? whitening_factor(w, k) / length : T(0);
  }
  for (int64_t i = 0; i < m; ++i)
    for (int64_t k = 0; k < r; ++k) f[i * r + k] *= factor[k];
  if (r == d) {
    product(f, false, w.vectors.get(), m, d, d, out);
  } else {
    const Buffer<T> spanned(m * m);
    product(f, false, w.vectors.get(), m, m, m, spanned.get());
    product(spanned.get(), false, w.v.get(), m, m, d, out);
  }
  scale_matrix(out, m, d, w.inverse.get(), false, kLargestFinite<T>);
}

}  // namespace mige::cpu
