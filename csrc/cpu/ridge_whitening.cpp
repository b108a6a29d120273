// ridge_whitening on the CPU: the mean, W = D^{−1} U (Λ + τ)^{−1/2} Uᵀ and τ of each group.
// whitening.h gives the formulas and the work. Means, deviations and the mean of J over the samples
// are computed in double.
#include <algorithm>

#include "cpu/operators.h"
#include "cpu/whitening.h"

namespace mige::cpu {
namespace {

// Standardizes the samples: v = (x − mean) / deviation by columns. A constant column becomes 0 and
// gets an inverse deviation of 0. The first row is subtracted before the sums, so that a common
// offset costs no digits. A power of two scales every column near 1, so that the sums neither
// overflow nor underflow.
template <int kBytes, typename T>
MIGE_INLINE void standardize_impl(const T* x,  // [m, d]
                                  int64_t m, int64_t d, T scale,
                                  T* v,          // [m, d]
                                  T* mean,       // [d]
                                  T* inverse) {  // [d], 1 / deviation
  const Buffer<double> buffer(4 * d);
  double* const largest = buffer.get();
  double* const unit = largest + d;
  double* const sum = unit + d;
  double* const square = sum + d;
  const double exact = static_cast<double>(scale);
  std::fill(largest, largest + 4 * d, 0.0);
  const auto offset = [=](int64_t i, int64_t c) {
    return exact * static_cast<double>(x[i * d + c]) - exact * static_cast<double>(x[c]);
  };
  const auto for_each = [=](const auto& f) {
    for (int64_t i = 0; i < m; ++i) {
#pragma omp simd
      for (int64_t c = 0; c < d; ++c) f(i, c);
    }
  };
  for_each([=](int64_t i, int64_t c) {
    const double t = offset(i, c), magnitude = t < 0 ? -t : t;
    largest[c] = magnitude > largest[c] ? magnitude : largest[c];
  });
  for (int64_t c = 0; c < d; ++c) unit[c] = power_of_two<double>(-exponent_of(largest[c]));
  for_each([=](int64_t i, int64_t c) { sum[c] += unit[c] * offset(i, c); });
  const double each = 1 / static_cast<double>(m);
  for (int64_t c = 0; c < d; ++c) sum[c] *= each;
  for_each([=](int64_t i, int64_t c) {
    const double t = unit[c] * offset(i, c) - sum[c];
    square[c] += t * t;
  });
  for (int64_t c = 0; c < d; ++c) {
    const double deviation = std::sqrt(square[c] * each);
    square[c] = largest[c] > 0 ? 1 / deviation : 0;
    inverse[c] = saturate<T>(square[c] * unit[c] * exact);
    mean[c] = saturate<T>(static_cast<double>(x[c]) + sum[c] / unit[c] / exact);
  }
  for_each([=](int64_t i, int64_t c) {
    v[i * d + c] = static_cast<T>((unit[c] * offset(i, c) - sum[c]) * square[c]);
  });
}

MIGE_KERNEL(standardize, standardize_impl)

// Evaluates the objective J at every τ of the grid, and returns its minimizer.
// mige_ext.ops.ridge_whitening defines c₁, c₂, q_i and q2_i.
template <typename T>
double best_ridge(const Whitening<T>& w) {
  const int64_t m = w.m, r = w.rank;
  const double c1 = static_cast<double>(m) / static_cast<double>(m - 1);
  const double c2 = c1 / static_cast<double>(m - 1);
  const Buffer<T> squares(m * r), table(r * 2 * kRidges), sums(m * 2 * kRidges);
  for (int64_t i = 0; i < m * r; ++i) squares[i] = w.rotated[i] * w.rotated[i];
  double trace[kRidges], objective[kRidges];
  for (int t = 0; t < kRidges; ++t) {
    const double tau = std::pow(10.0, kRidgeLowest + kRidgeStep * t);
    trace[t] = static_cast<double>(w.support.beyond(r)) / tau;
    for (int64_t k = 0; k < r; ++k) {
      const bool counts = k >= w.support.first(r);
      const double shrunk = counts ? 1 / (c1 * static_cast<double>(w.values[k]) + tau) : 0;
      trace[t] += shrunk;
      table[k * 2 * kRidges + t] = static_cast<T>(shrunk);
      table[k * 2 * kRidges + kRidges + t] = static_cast<T>(shrunk * shrunk);
    }
  }
  product(squares.get(), false, table.get(), m, r, 2 * kRidges, sums.get());
  for (int t = 0; t < kRidges; ++t) {
    double sum = 0;
    for (int64_t i = 0; i < m; ++i) {
      const double q = static_cast<double>(sums[i * 2 * kRidges + t]);
      const double q2 = static_cast<double>(sums[i * 2 * kRidges + kRidges + t]);
      // In exact arithmetic 1 − c₂ q_i is at least τ / (τ + c₂‖v_i‖²), which is positive.
      const double left = std::max(1 - c2 * q, static_cast<double>(kEpsilon<T>));
      sum += c1 * c1 * q2 / (2 * left * left) - c2 * q2 / left;
    }
    objective[t] = sum / static_cast<double>(m) - trace[t];
  }
  return std::pow(10.0, lowest_ridge(objective));
}

// W = D^{−1} U (Λ + τ)^{−1/2} Uᵀ, if the eigenvectors are those of a d×d matrix (r = d).
template <typename T>
void whitening_matrix(const Whitening<T>& w,
                      T* out) {  // [d, d]
  const int64_t d = w.d;
  const Buffer<T> scaled(d * d), factor(d);
  std::copy_n(w.vectors.get(), d * d, scaled.get());
  for (int64_t k = 0; k < d; ++k) factor[k] = whitening_factor(w, k);
  scale_matrix(scaled.get(), d, d, factor.get(), true, kLargestFinite<T>);
  product(w.vectors.get(), true, scaled.get(), d, d, d, out);
  scale_matrix(out, d, d, w.inverse.get(), true, kLargestFinite<T>);
}

// The dual form: decomposes VVᵀ / M in double. Scores are divided by the roots of its eigenvalues
// (dual_length). In float, the eigenvectors of small eigenvalues would be rounding errors: with 100
// samples in 101 dimensions, scores were up to 27 % off.
template <typename T>
void decompose_dual(Whitening<T>& w) {
  const int64_t m = w.m, d = w.d;
  Buffer<double> gram(m * m);
  const Buffer<double> v(m * d), panels(panels_size<double>(d, m)), values(m);
  std::copy_n(w.v.get(), m * d, v.get());
  pack_rows(v.get(), m, d, 1.0, panels.get());
  panel_product(v.get(), false, panels.get(), m, d, m, gram.get());
  const double each = 1 / static_cast<double>(m);
  for (int64_t i = 0; i < m * m; ++i) gram[i] *= each;
  eigh(gram, m, values.get());
  for (int64_t i = 0; i < m * m; ++i) w.vectors[i] = static_cast<T>(gram[i]);
  for (int64_t k = 0; k < m; ++k) w.values[k] = static_cast<T>(values[k]);
}

}  // namespace

template <typename T>
void whiten(const T* x, double factor, Whitening<T>& w) {  // x [m, d]
  const int64_t m = w.m, d = w.d, r = w.rank;
  const bool primal = r == d;
  standardize(x, m, d, normal_scale(largest_magnitude(x, m * d)), w.v.get(), w.mean.get(),
              w.inverse.get());
  T* const vectors = w.vectors.get();
  const Buffer<T> panels(primal ? panels_size<T>(d, d) : 0);
  if (primal) {
    product(w.v.get(), true, w.v.get(), d, m, d, vectors);
    const T each = T(1) / static_cast<T>(m);
    for (int64_t i = 0; i < r * r; ++i) vectors[i] *= each;
    eigh(w.vectors, r, w.values.get());
  } else {
    decompose_dual(w);
  }
  const double floor = kRankFloor<T> * static_cast<double>(w.values[r - 1]);
  int64_t rank = 0, varying = 0;
  for (int64_t k = 0; k < r; ++k) {
    if (static_cast<double>(w.values[k]) > floor) ++rank;
    w.values[k] = std::max(w.values[k], T(0));
  }
  for (int64_t c = 0; c < d; ++c) varying += w.inverse[c] > T(0);
  w.support = Support::of(rank, r, varying, m);

  if (primal) {
    pack_rows(vectors, d, d, T(1), panels.get());
    panel_product(w.v.get(), false, panels.get(), m, d, d, w.rotated.get());
  } else {
    for (int64_t k = 0; k < r; ++k) {
      const T length = dual_length(w, k);  // 0 for rounding errors, so that copies stay equal
      for (int64_t i = 0; i < m; ++i) w.rotated[i * r + k] = length * vectors[k * r + i];
    }
  }
  w.ridge = ridge_fraction(factor, w.support.dimensions, m) * best_ridge(w);
}

template <typename T>
void ridge_whitening(const RidgeWhiteningArguments<T>& p) {
  const int64_t m = p.m, d = p.d;
  parallel(p.groups, 1, [&](int64_t begin, int64_t end) {
    Whitening<T> w{m, d, d};
    for (int64_t g = begin; g < end; ++g) {
      whiten(p.x + g * m * d, p.factor, w);
      whitening_matrix(w, p.whitening + g * d * d);
      std::copy_n(w.mean.get(), d, p.mean + g * d);
      p.ridge[g] = saturate<T>(w.ridge);
    }
  });
}

template void whiten(const float*, double, Whitening<float>&);
template void whiten(const double*, double, Whitening<double>&);
MIGE_INSTANTIATE(ridge_whitening, RidgeWhiteningArguments);

}  // namespace mige::cpu
