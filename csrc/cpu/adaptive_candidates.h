// The candidates of the adaptive score for one λ, and their risks. mige_ext.ops.adaptive_score
// explains the method.
//
// Notation: z [m, r] are the whitened samples with r = min(m, d), and s [m, m] their squared
// distances. K = φ(s) is the IMQ Gram matrix, p = φ'(s), q = 2 (d p + 2 s φ'') without the
// diagonal, and H = −2 (diag(p1) z − p z) with the vector 1 of ones. d is the number of dimensions
// that count (common/whitening_rule.h). ∘ is the elementwise product, b_i = B_ii, and sums run over
// l. The columns w·z and y·z have the elements W_i·z_i and Y_i·z_i.
//
// For each λ there are two candidates, base 0 and base 1, with scores F and risks r_i. They take
// one inverse and three products:
//
//   B = (K + λM I)^{−1},   [W Y] = B [H z],   p [W Y w·z y·z],   (B∘p) z
//   F = −W − base · λM · Y
//   r_i = ½‖F_i + z_i‖² − z_i·(F_i + z_i) + div_i
//   div_i = b_i Σ q_il − Σ B_il q_il − 2 b_i (z_i·(pF)_i − Σ p_il F_l·z_l)
//           − 2 (F_i·z_i Σ (B∘p)_il − F_i·((B∘p) z)_i) + d (1 − λM b_i)^base
//
// F is linear in W and Y, so both bases use the same products. With a start there is also base 2,
// which corrects the score R₀ − z. R₀ and its divergence δ are arguments:
//
//   X = B R₀,   F = −W − λM (Y − X),   the last term of div_i is d (1 − λM b_i) + λM b_i δ_i
//
// Work for one λ: m³ + (10 r + 8) m² flop, and 4 r m² more with a start. Memory: 4 m² + O(m r)
// values.
#pragma once

#include <algorithm>
#include <limits>

#include "cpu/adaptive_risk.h"
#include "cpu/distance_quantile.h"
#include "cpu/inverse.h"

namespace mige::cpu {
namespace {

// The largest ε / λ at which W and Y are not refined before the risk is computed. Their errors grow
// like ε / λ, and the risk multiplies them by b_i Σ p_il, which grows like 1 / λ. (In float, with
// 2000 samples in 2 dimensions and λ = 1e-5, the risk would be 9 too low.)
constexpr double kLargestRounding = 2e-4;

struct Risk {
  double mean = 0, error = 0;
  int64_t base = 1;
  double bound() const { return mean + error; }
};

// The mean of the risks r_i of one base, and its standard error.
Risk mean_risk(const double* risks,  // [m, bases]
               int64_t count, int64_t bases, int64_t base) {
  const double* const r = risks + base;
  const double m = static_cast<double>(count);
  double sum = 0, square = 0;
  for (int64_t i = 0; i < count; ++i) sum += r[bases * i];
  const double mean = sum / m;
  for (int64_t i = 0; i < count; ++i) square += (r[bases * i] - mean) * (r[bases * i] - mean);
  return {mean, std::sqrt(square / (m - 1) / m), base};
}

// A departure (a score minus the Gaussian score) and its divergence.
template <typename T>
struct Departure {
  const T* values;      // [m, r], or nullptr if there is none
  const T* divergence;  // [m], or nullptr if there is none
};

// The candidates F of one λ and their risks: two candidates, or three with a start.
template <typename T>
class Candidates {
 public:
  // Computes the squared distances. `prepare` must follow.
  Candidates(const T* z,  // [m, r]
             Departure<T> start, int64_t m, int64_t r, int64_t d)
      : m_(m),
        r_(r),
        d_(d),
        bases_(start.values ? 3 : 2),
        n_(bases_ * (r + 1)),
        z_(z),
        start_(start) {
    squared_distance_matrix<T>(z, nullptr, m, m, r, T(1), k_.get());
    mirror(k_.get(), m);
  }

  // The squared distances, [m, m]. `prepare` overwrites them.
  const T* squared_distances() const { return k_.get(); }
  // The square of the median distance.
  T squared_median() const { return upper_quantile(k_.get(), m_, 0.5); }

  // Computes K and [H z R₀] with the bandwidth √square.
  void prepare(T square) {
    const int64_t m = m_, r = r_;
    const T* const z = z_;
    const T inverse_variance = T(1) / square;
    parallel_triangle(m, [&](int64_t begin, int64_t end) {
      imq_rows(k_.get(), m, inverse_variance, begin, end);
    });
    mirror(k_.get(), m);
    for_rows([&](int64_t begin, int64_t end) {
      imq_derivative_rows(k_.get(), m_, d_, inverse_variance, p_.get(), w_sum_.get(), q_sum_.get(),
                          begin, end);
    });
    pack_columns(z, m, r, T(1), z_panels_.get());
    multiply(p_.get(), z_panels_.get(), r, weighted_z_.get());
    T* const hz = hz_.get();
    for (int64_t i = 0; i < m; ++i) {
      T* row = hz + i * n_;
      const T *weighted = weighted_z_.get() + i * r, sum = w_sum_[i];
      for (int64_t c = 0; c < r; ++c) row[c] = 2 * (weighted[c] - sum * z[i * r + c]);
      row = std::copy_n(z + i * r, r, row + r);
      if (start_.values) row = std::copy_n(start_.values + i * r, r, row);
      std::fill_n(row, bases_, T(0));
    }
    pack_columns(hz, m, n_, T(1), hz_panels_.get());
  }

  // The risk at this λ of the base with the lowest bound.
  Risk evaluate(double lambda) {
    shift_ = static_cast<T>(lambda * static_cast<double>(m_));
    for (int64_t i = 0; i < m_; ++i) {
      std::copy_n(k_.get() + i * m_ + i, m_ - i, inverse_.get() + i * m_ + i);
      inverse_.get()[i * m_ + i] += shift_;
    }
    inverter_.invert(inverse_.get(), weighted_.get());
    multiply(inverse_.get(), hz_panels_.get(), n_, wy_.get());
    refined_ = false;
    if (std::numeric_limits<T>::epsilon() > kLargestRounding * lambda) refine();
    for_rows(
        [&](int64_t begin, int64_t end) { dot_columns(z_, r_, bases_, wy_.get(), begin, end); });
    pack_columns(wy_.get(), m_, n_, T(1), wy_panels_.get());
    multiply(p_.get(), wy_panels_.get(), n_, pwy_.get());
    for_rows([&](int64_t begin, int64_t end) {
      weigh_rows(k_.get(), p_.get(), inverse_.get(), m_, d_, weighted_.get(), w_sum_.get(),
                 bq_sum_.get(), begin, end);
    });
    multiply(weighted_.get(), z_panels_.get(), r_, weighted_z_.get());
    const T *inverse = inverse_.get(), *weighted_z = weighted_z_.get();
    const RiskRows<T> of{m_,
                         r_,
                         d_,
                         bases_,
                         shift_,
                         z_,
                         wy_.get(),
                         pwy_.get(),
                         weighted_z,
                         inverse,
                         q_sum_.get(),
                         w_sum_.get(),
                         bq_sum_.get(),
                         start_.divergence};
    for_rows([&](int64_t begin, int64_t end) {
      risk_rows(of, risks_.get(), divergences_.get(), begin, end);
    });
    Risk best = mean_risk(risks_.get(), m_, bases_, 0);
    for (int64_t base = 1; base < bases_; ++base) {
      const Risk other = mean_risk(risks_.get(), m_, bases_, base);
      if (other.bound() < best.bound()) best = other;
    }
    return best;
  }

  // Writes div_i of the λ that was evaluated last.
  void divergence(int64_t base,
                  T* out) const {  // [m]
    for (int64_t i = 0; i < m_; ++i) out[i] = static_cast<T>(divergences_[i * bases_ + base]);
  }

  // Writes F of the λ that was evaluated last.
  void scores(int64_t base,
              T* f) {  // [m, r]
    if (!refined_) refine();
    const T shift = base > 0 ? shift_ : T(0);
    for (int64_t i = 0; i < m_; ++i) {
      const T *w = wy_.get() + i * n_, *y = w + r_, *x = y + r_;
      for (int64_t c = 0; c < r_; ++c) {
        f[i * r_ + c] = -w[c] - shift * y[c];
        if (base == 2) f[i * r_ + c] += shift * x[c];
      }
    }
  }

 private:
  // One step of iterative refinement of [W Y X], because a product with an inverse has large errors
  // (a relative error of 1e-2 in float for the smallest λ).
  void refine() {
    const int64_t m = m_, n = n_;
    T* const rest = pwy_.get();  // [H z R₀] − (K + λM I) [W Y X]
    pack_columns(wy_.get(), m, n, T(1), wy_panels_.get());
    multiply(k_.get(), wy_panels_.get(), n, rest);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t c = 0; c < n; ++c)
        rest[i * n + c] = hz_.get()[i * n + c] - rest[i * n + c] - shift_ * wy_.get()[i * n + c];
    pack_columns(rest, m, n, T(1), wy_panels_.get());
    multiply(inverse_.get(), wy_panels_.get(), n, rest);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t c = 0; c < bases_ * r_; ++c) wy_.get()[i * n + c] += rest[i * n + c];
    refined_ = true;
  }

  // Calls f(begin, end) for ranges of rows, on several threads.
  template <typename F>
  void for_rows(const F& f) {
    parallel(m_, kRowGrain, f);
  }

  // out = a b for a matrix b in panels.
  void multiply(const T* a,       // [m, m]
                const T* panels,  // [m, columns] packed by columns
                int64_t columns,
                T* out) {  // [m, columns]
    panel_product(a, false, panels, m_, m_, columns, out);
  }

  const int64_t m_, r_, d_, bases_, n_;
  const T* const z_;  // [m, r]
  const Departure<T> start_;
  Inverter<T> inverter_{m_};
  const Buffer<T> k_{m_ * m_}, p_{m_ * m_}, inverse_{m_ * m_}, weighted_{m_ * m_};
  const Buffer<T> w_sum_{m_}, q_sum_{m_}, bq_sum_{m_};
  const Buffer<T> hz_{m_ * n_};  // [H z R₀] and bases_ columns of zeros
  const Buffer<T> wy_{m_ * n_}, pwy_{m_ * n_}, weighted_z_{m_ * r_};
  const Buffer<T> hz_panels_{panels_size<T>(m_, n_)}, wy_panels_{panels_size<T>(m_, n_)};
  const Buffer<T> z_panels_{panels_size<T>(m_, r_)};
  const Buffer<double> risks_{bases_ * m_}, divergences_{bases_ * m_};
  T shift_ = 0;
  bool refined_ = false;
};

}  // namespace
}  // namespace mige::cpu
