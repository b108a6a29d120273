// ssge on the CPU: the Spectral Stein Gradient Estimator (Shi, Sun, Zhu 2018).
//
//   K_ij = exp(−‖x_i − x_j‖² / 2σ²) = U Λ Uᵀ,   H = −(K X − diag(K 1) X) / σ²
//   out  = −U_J Λ_J^{−p} U_Jᵀ H
//
// Here p is SsgeOptions::power. For p = 1 the result is the score ∇ log q at the samples, and for
// p = 2 the matrix W of the Nyström extension ∇ log q(z) = k(z, X) W. Layout: x, H and out are
// [m, d]. The eigenvectors are rows in ascending order of the eigenvalues. Work: 1.5 m² d flop for
// the distances, 2 m² d for H, 4 m J d for the filter, and about 9 m³ for the eigendecomposition.
// Memory: m² values for K, 2 m² for LAPACK's workspace, in float m² for a copy of K, and O(m d).
#include <algorithm>

#include "cpu/distance_quantile.h"
#include "cpu/operators.h"
#include "cpu/rbf.h"
#include "cpu/scaling.h"

namespace mige::cpu {
namespace {

template <typename T>
void score_group(const SsgeArguments<T>& p, int64_t g) {
  const int64_t m = p.m, d = p.d;
  const T* x = p.x + g * m * d;
  T *out = p.out + g * m * d, *eigenvalues = p.values + g * m, *bandwidth = p.bandwidth + g;
  // The samples are centered, and scaled by a power of two, which the end of this function
  // reverses.
  const T scale = normal_scale(largest_magnitude(x, m * d));
  const Buffer<T> centered(m * d);
  center(x, m, d, scale, centered.get());

  Buffer<T> k(m * m);
  squared_distance_matrix<T>(centered.get(), nullptr, m, m, d, T(1), k.get());
  if (p.given) {
    *bandwidth = p.given[g];
  } else {
    const T square = upper_quantile(k.get(), m, p.options.quantile);
    *bandwidth = bandwidth_of(square, scale, p.options.multiplier, kSmallestNormal<T>);
  }
  if (!(*bandwidth > T(0))) {  // all samples are equal: there is no density, and the score is 0
    std::fill(out, out + m * d, T(0));
    std::fill(eigenvalues, eigenvalues + m, T(0));
    p.rank[g] = 0;
    return;
  }
  const ScaledBandwidth<T> width(*bandwidth, scale);
  to_gram(k.get(), m, m, true, width.gamma);

  const Buffer<T> h(m * d);
  gradient_sum(k.get(), centered.get(), m, d, width.inverse_variance, h.get());

  eigh(k, m, eigenvalues);
  auto kept = SpectralRank::of(eigenvalues[m - 1], m, p.options.threshold, p.options.rank);
  for (int64_t i = m - 1; i >= 0 && kept.add(static_cast<double>(eigenvalues[i]));) --i;
  const int64_t j = p.rank[g] = kept.rank();

  // −U_J Λ_J^{−p} (U_Jᵀ H): the leading eigenvectors are the last J rows.
  const T* leading = k.get() + (m - j) * m;
  const Buffer<T> projected(j * d);
  product(leading, false, h.get(), j, m, d, projected.get());
  const Buffer<T> filter(j);
  for (int64_t i = 0; i < j; ++i) {
    const double value = static_cast<double>(eigenvalues[m - j + i]);
    filter[i] = static_cast<T>(-1 / (p.options.power == 2 ? value * value : value));
  }
  scale_matrix(projected.get(), j, d, filter.get(), true, kLargestFinite<T>);
  product(leading, true, projected.get(), m, j, d, out);
  // The multiplication of x by `scale` has divided ∇ log q by `scale`.
  scale_matrix(out, 1, m * d, &scale, true, p.bound());
}

}  // namespace

template <typename T>
void ssge(const SsgeArguments<T>& p) {
  for_each_group(p.groups, [&](int64_t g) { score_group(p, g); });
}

MIGE_INSTANTIATE(ssge, SsgeArguments);

}  // namespace mige::cpu
