// ssge on the CPU: the Spectral Stein Gradient Estimator (Shi, Sun, Zhu 2018).
//
//   K_ij = exp(−‖x_i − x_j‖² / 2σ²) = U Λ Uᵀ,   H = −(K X − diag(K 1) X) / σ²
//   out  = −U_J Λ_J^{−p} U_Jᵀ H
//
// p = 1 gives the score ∇ log q at the samples, p = 2 the coefficients W of its Nyström extension
// ∇ log q(z) = k(z, X) W. Layout: x, H and out are [m, d]; the eigenvectors are the rows of an
// [m, m] matrix, in ascending order, so the leading J of them are its last rows. Work: m² d
// (distances) + 2 m² d (H) + 4 m J d (filter) flop and one eigendecomposition, about 9 m³ flop;
// memory about 4 m² + O(m d), LAPACK's workspace included.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/distance_quantile.h"
#include "cpu/operators.h"
#include "cpu/rbf_gradient_sum.h"
#include "cpu/rbf_gram.h"
#include "cpu/scaling.h"

namespace mige::cpu {
namespace {

// One group.
template <typename T>
void score_group(const T* x, const T* given_bandwidth, int64_t m, int64_t d,
                 const SsgeOptions& options, T* out, T* eigenvalues, T* bandwidth, int64_t* rank) {
  // A fixed size around 0: exact up to the rounding of the center, and undone at the end.
  const T scale = normal_scale(largest_magnitude(x, m * d));
  const Buffer<T> centered(m * d);
  center(x, m, d, scale, centered.get());

  const Buffer<T> k(m * m);
  upper_squared_distances(centered.get(), m, d, T(1), k.get());
  if (given_bandwidth) {
    *bandwidth = *given_bandwidth;
  } else {
    const auto square = static_cast<double>(upper_quantile(k.get(), m, options.quantile));
    const double sigma = options.multiplier * std::sqrt(square) / static_cast<double>(scale);
    *bandwidth = square > 0 ? std::max(saturate<T>(sigma), kSmallestNormal<T>) : T(0);
  }
  if (!(*bandwidth > T(0))) {  // all samples are equal: there is no density, and the score is 0
    std::fill(out, out + m * d, T(0));
    std::fill(eigenvalues, eigenvalues + m, T(0));
    *rank = 0;
    return;
  }
  const ScaledBandwidth<T> width(*bandwidth, scale);
  upper_to_gram(k.get(), m, width.gamma);

  const Buffer<T> h(m * d);
  gradient_sum(k.get(), centered.get(), m, d, width.inverse_variance, h.get());

  eigh(k.get(), m, eigenvalues);
  auto kept = SpectralRank::of(eigenvalues[m - 1], m, options.threshold, options.rank);
  for (int64_t i = m - 1; i >= 0 && kept.add(static_cast<double>(eigenvalues[i]));) --i;
  const int64_t j = *rank = kept.rank();

  // −U_J Λ_J^{−p} (U_Jᵀ H): the leading eigenvectors are the last J rows.
  const T* leading = k.get() + (m - j) * m;
  const Buffer<T> projected(j * d);
  product(leading, false, h.get(), j, m, d, projected.get());
  const Buffer<T> filter(m);
  for (int64_t i = 0; i < j; ++i) {
    const double value = static_cast<double>(eigenvalues[m - j + i]);
    filter[i] = static_cast<T>(-1 / (options.power == 2 ? value * value : value));
  }
  scale_rows(projected.get(), j, d, filter.get(), kLargestFinite<T>);
  product(leading, true, projected.get(), m, j, d, out);
  std::fill(filter.get(), filter.get() + m, scale);  // ∇ log q is in units of 1 / x
  // The sum of m coefficients must stay finite.
  const T bound =
      options.power == 2 ? kLargestFinite<T> / static_cast<T>(2 * m) : kLargestFinite<T>;
  scale_rows(out, m, d, filter.get(), bound);
}

}  // namespace

template <typename T>
void ssge(const T* x, const T* given_bandwidth, int64_t groups, int64_t m, int64_t d,
          const SsgeOptions& options, T* out, T* eigenvalues, T* bandwidth, int64_t* rank) {
  for_each_group(groups, [&](int64_t g) {
    score_group(x + g * m * d, given_bandwidth ? given_bandwidth + g : nullptr, m, d, options,
                out + g * m * d, eigenvalues + g * m, bandwidth + g, rank + g);
  });
}

template void ssge(const float*, const float*, int64_t, int64_t, int64_t, const SsgeOptions&,
                   float*, float*, float*, int64_t*);
template void ssge(const double*, const double*, int64_t, int64_t, int64_t, const SsgeOptions&,
                   double*, double*, double*, int64_t*);

}  // namespace mige::cpu
