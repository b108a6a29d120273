// Whitening with a ridge that chooses itself, for one group of samples.
//
// With V the standardised samples, D the deviations and R = VᵀV / M = U Λ Uᵀ the correlations:
//
//   z = (x − mean) D^{−1} U (Λ + τ)^{−1/2},   τ = factor · argmin J(τ)
//
// J is the leave-one-out Hyvärinen objective of the Gaussian score (see mige_ext.ops). For more
// dimensions than samples everything but the map itself needs VVᵀ / M alone, which has the same
// eigenvalues. Work: 4 m d r + 11 r³ flop, r = min(m, d).
#pragma once

#include <algorithm>
#include <cmath>

#include "common/whitening_rule.h"
#include "cpu/group.h"

namespace mige::cpu {

template <typename T>
struct Whitening {
  Whitening(int64_t m, int64_t d, bool primal)
      : v(m * d),
        mean(d),
        inverse(d),
        rotated(m * (primal ? d : m)),
        values(primal ? d : m),
        vectors((primal ? d : m) * (primal ? d : m)),
        rank(primal ? d : m) {}

  Buffer<T> v;        // [m, d], standardised samples
  Buffer<T> mean;     // [d]
  Buffer<T> inverse;  // [d], 1 / deviation; 0 where that is 0
  Buffer<T> rotated;  // [m, rank], V U
  Buffer<T> values;   // [rank], Λ
  Buffer<T> vectors;  // [rank, rank], a row each: of VᵀV / M, or of VVᵀ / M
  int64_t rank;
  double ridge = 1;  // τ
  Support support{};
};

// J of every τ of the grid, and its minimiser.
template <typename T, typename Runtime>
double best_ridge(const Whitening<T>& w, int64_t m, Runtime& runtime) {
  const int64_t r = w.rank;
  const double c1 = static_cast<double>(m) / static_cast<double>(m - 1);
  const double c2 = c1 / static_cast<double>(m - 1);
  const Buffer<T> squares(m * r), table(r * 2 * kRidges), sums(m * 2 * kRidges);
  for (int64_t i = 0; i < m * r; ++i) squares.get()[i] = w.rotated.get()[i] * w.rotated.get()[i];
  double trace[kRidges], objective[kRidges];
  for (int t = 0; t < kRidges; ++t) {
    const double tau = std::pow(10.0, kRidgeLowest + kRidgeStep * t);
    trace[t] = static_cast<double>(w.support.beyond(r)) / tau;
    for (int64_t k = 0; k < r; ++k) {
      const bool counts = k >= w.support.first(r);
      const double shrunk = counts ? 1 / (c1 * static_cast<double>(w.values.get()[k]) + tau) : 0;
      trace[t] += shrunk;
      table.get()[k * 2 * kRidges + t] = static_cast<T>(shrunk);
      table.get()[k * 2 * kRidges + kRidges + t] = static_cast<T>(shrunk * shrunk);
    }
  }
  product(squares.get(), false, table.get(), m, r, 2 * kRidges, sums.get(), runtime);
  for (int t = 0; t < kRidges; ++t) {
    double sum = 0;
    for (int64_t i = 0; i < m; ++i) {
      const double q = static_cast<double>(sums.get()[i * 2 * kRidges + t]);
      const double q2 = static_cast<double>(sums.get()[i * 2 * kRidges + kRidges + t]);
      // Positive in exact arithmetic: 1 − q_i c₂ >= τ / (τ + c₂‖v_i‖²).
      const double left = std::max(1 - c2 * q, static_cast<double>(kEpsilon<T>));
      sum += c1 * c1 * q2 / (2 * left * left) - c2 * q2 / left;
    }
    objective[t] = sum / static_cast<double>(m) - trace[t];
  }
  return std::pow(10.0, lowest_ridge(objective));
}

// All of it; `primal` by the d×d matrix, otherwise by the m×m one.
template <typename T, typename Runtime>
void whiten(const T* x, int64_t m, int64_t d, double factor, Whitening<T>& w, Runtime& runtime) {
  const bool primal = w.rank == d;
  const int64_t r = w.rank;
  standardise(x, m, d, normal_scale(largest_magnitude(x, m * d)), w.v.get(), w.mean.get(),
              w.inverse.get());
  const Buffer<T> gram(r * r);
  const Buffer<T> panels(panels_size<T>(d, primal ? d : m));
  if (primal) {
    product(w.v.get(), true, w.v.get(), d, m, d, gram.get(), runtime);
  } else {
    pack_rows(w.v.get(), m, d, T(1), panels.get());
    runtime.parallel(m, kRowGrain, [&](int64_t begin, int64_t end) {
      product_rows(w.v.get(), false, panels.get(), m, d, m, gram.get(), begin, end);
    });
  }
  const T share = T(1) / static_cast<T>(m);
  for (int64_t i = 0; i < r * r; ++i) gram.get()[i] *= share;
  const T* vectors = nullptr;
  runtime.eigh(gram.get(), r, w.values.get(), vectors);
  std::copy_n(vectors, r * r, w.vectors.get());
  const double floor = kRankFloor<T> * static_cast<double>(w.values.get()[r - 1]);
  int64_t rank = 0, varying = 0;
  for (int64_t k = 0; k < r; ++k) {
    if (static_cast<double>(w.values.get()[k]) > floor) ++rank;
    w.values.get()[k] = std::max(w.values.get()[k], T(0));
  }
  for (int64_t c = 0; c < d; ++c) varying += w.inverse.get()[c] > T(0);
  w.support = Support::of(rank, r, varying, m);

  if (primal) {
    pack_rows(vectors, d, d, T(1), panels.get());
    runtime.parallel(m, kRowGrain, [&](int64_t begin, int64_t end) {
      product_rows(w.v.get(), false, panels.get(), m, d, d, w.rotated.get(), begin, end);
    });
  } else {
    for (int64_t k = 0; k < r; ++k) {
      const T length = std::sqrt(static_cast<T>(m) * w.values.get()[k]);
      for (int64_t i = 0; i < m; ++i) w.rotated.get()[i * r + k] = length * vectors[k * r + i];
    }
  }
  w.ridge = factor * best_ridge(w, m, runtime);
}

// 1 / √(λ_k + τ); 0 where there is no density.
template <typename T>
T whitening_factor(const Whitening<T>& w, int64_t k) {
  if (k < w.support.excluded) return T(0);
  return static_cast<T>(1 / std::sqrt(static_cast<double>(w.values.get()[k]) + w.ridge));
}

// W = D^{−1} U (Λ + τ)^{−1/2} Uᵀ, of a primal whitening.
template <typename T, typename Runtime>
void whitening_matrix(const Whitening<T>& w, int64_t d,
                      T* out,  // [d, d]
                      Runtime& runtime) {
  const Buffer<T> scaled(d * d), factor(d);
  std::copy_n(w.vectors.get(), d * d, scaled.get());
  for (int64_t k = 0; k < d; ++k) factor.get()[k] = whitening_factor(w, k);
  constexpr T kLargest = std::numeric_limits<T>::max();
  scale_rows(scaled.get(), d, d, factor.get(), kLargest);
  product(w.vectors.get(), true, scaled.get(), d, d, d, out, runtime);
  scale_rows(out, d, d, w.inverse.get(), kLargest);
}

}  // namespace mige::cpu
