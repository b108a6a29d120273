// The Spectral Stein Gradient Estimator (Shi, Sun, Zhu 2018) for one group of samples.
//
//   K_ij = exp(−‖x_i − x_j‖² / 2σ²) = U Λ Uᵀ,   H = −(K X − diag(K 1) X) / σ²
//   out  = −U_J Λ_J^{−p} U_Jᵀ H
//
// p = 1 is the score ∇ log q at the samples, p = 2 the coefficients W of its Nyström extension
// ∇ log q(z) = k(z, X) W. Work: m² d (distances) + 2 m² d (H) + 4 m J d (filter) flop and one
// eigendecomposition, about 9 m³ flop; memory about 4 m² + O(m d), LAPACK's work space included.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/ssge.h"
#include "cpu/group.h"

namespace mige::cpu {

template <typename T>
struct SsgeResult {
  T* out;          // [m, d]
  T* eigenvalues;  // [m], ascending
  T* bandwidth;    // [1]; read instead of written if given_bandwidth
  int64_t* rank;   // [1]
  bool given_bandwidth;
};

template <typename T, typename Runtime>
void ssge(const T* x, int64_t m, int64_t d, const SsgeOptions& options, const SsgeResult<T>& result,
          Runtime& runtime) {
  // A fixed size around 0: exact up to the rounding of the centre, and undone at the end.
  const T scale = normal_scale(largest_magnitude(x, m * d));
  const Buffer<T> centred(m * d);
  centre(x, m, d, scale, centred.get());

  const Buffer<T> k(m * m);
  upper_squared_distances(centred.get(), m, d, T(1), k.get(), runtime);
  if (!result.given_bandwidth) {
    const auto square = static_cast<double>(upper_quantile(k.get(), m, options.quantile));
    const double sigma = options.multiplier * std::sqrt(square) / static_cast<double>(scale);
    *result.bandwidth =
        square > 0 ? std::max(saturate<T>(sigma), std::numeric_limits<T>::min()) : T(0);
  }
  if (!(*result.bandwidth >
        T(0))) {  // all samples are equal: no density, and no direction to move in
    std::fill(result.out, result.out + m * d, T(0));
    std::fill(result.eigenvalues, result.eigenvalues + m, T(0));
    *result.rank = 0;
    return;
  }
  const ScaledBandwidth<T> width(*result.bandwidth, scale);
  upper_to_gram(k.get(), m, width.gamma, runtime);

  const Buffer<T> h(m * d);
  gradient_sum(k.get(), centred.get(), m, d, width.inverse_variance, h.get(), runtime);

  const T* vectors = nullptr;
  runtime.eigh(k.get(), m, result.eigenvalues, vectors);
  auto kept = SpectralRank::of(result.eigenvalues[m - 1], m, options.threshold, options.rank);
  for (int64_t j = m - 1; j >= 0 && kept.add(static_cast<double>(result.eigenvalues[j]));) --j;
  const int64_t rank = *result.rank = kept.rank();

  // −U_J Λ_J^{−p} (U_Jᵀ H): the leading vectors are the last `rank` rows of `vectors`.
  const T* leading = vectors + (m - rank) * m;
  const Buffer<T> projected(rank * d);
  product(leading, false, h.get(), rank, m, d, projected.get(), runtime);
  const Buffer<T> filter(m);
  for (int64_t j = 0; j < rank; ++j) {
    const double value = static_cast<double>(result.eigenvalues[m - rank + j]);
    filter.get()[j] = static_cast<T>(-1 / (options.power == 2 ? value * value : value));
  }
  constexpr T kLargest = std::numeric_limits<T>::max();
  scale_rows(projected.get(), rank, d, filter.get(), kLargest);
  product(leading, true, projected.get(), m, rank, d, result.out, runtime);
  std::fill(filter.get(), filter.get() + m, scale);  // ∇ log q is in units of 1 / x
  // Coefficients leave room for the sum of m of them.
  const T bound = options.power == 2 ? kLargest / static_cast<T>(2 * m) : kLargest;
  scale_rows(result.out, m, d, filter.get(), bound);
}

}  // namespace mige::cpu
