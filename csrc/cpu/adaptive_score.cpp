// adaptive_score on the CPU: the score that chooses its own regularization λ.
// mige_ext.ops.adaptive_score explains the formulas.
//
// Notation: z [m, r] are the whitened samples with r = min(m, d). K = φ(s) [m, m] is the IMQ Gram
// matrix of their squared distances s. Its derivatives are p = φ' and q = 2 (d p + 2 s φ'') without
// the diagonal (adaptive_risk.h). 1 is the vector of ones, ∘ the elementwise product, b_i = B_ii,
// and H = −2 (diag(p1) z − p z). In q and in div_i, d is the number of dimensions in which the risk
// is measured (common/whitening_rule.h). Sums run over l.
//
// A λ has two candidates, base 0 and base 1, with scores F and risks r_i. It costs one inverse and
// three products:
//
//   B = (K + λM I)^{−1},   [W Y] = B [H z],   p [W Y w·z y·z],   (B∘p) z
//   F = −W − base · λM · Y
//   r_i = ½‖F_i + z_i‖² − z_i·(F_i + z_i) + div_i
//   div_i = b_i Σ q_il − Σ B_il q_il − 2 b_i (z_i·(pF)_i − Σ p_il F_l·z_l)
//           − 2 (F_i·z_i Σ (B∘p)_il − F_i·((B∘p) z)_i) + d (1 − λM b_i)^base
//
// The last term uses K B = I − λM B. F is linear in W and Y, so both bases use the same products.
// common/lambda_search.h decides which λ are evaluated. Work for one λ: m³ + (10 r + 4) m² flop.
// Memory: 4 m² + O(m (d + r)) values.
#include <algorithm>
#include <limits>

#include "common/lambda_search.h"
#include "cpu/adaptive_risk.h"
#include "cpu/distance_quantile.h"
#include "cpu/inverse.h"
#include "cpu/operators.h"
#include "cpu/whitening.h"

namespace mige::cpu {

namespace {

struct Risk {
  double mean = 0, error = 0;
  int64_t base = 1;
  double bound() const { return mean + error; }
};

// The two candidates F of one λ, and their risks.
template <typename T>
class Candidates {
 public:
  Candidates(const T* z,  // [m, r]
             int64_t m, int64_t r, int64_t d)
      : m_(m), r_(r), d_(d), n_(2 * r + 2), z_(z) {
    squared_distance_matrix<T>(z, nullptr, m, m, r, T(1), k_.get());
    square_ = upper_quantile(k_.get(), m, 0.5);
    if (!(square_ > T(0))) return;
    const T inverse_variance = T(1) / square_;
    parallel_triangle(m, [&](int64_t begin, int64_t end) {
      imq_rows(k_.get(), m, inverse_variance, begin, end);
    });
    mirror(k_.get(), m);
    rows([&](int64_t begin, int64_t end) {
      imq_derivative_rows(k_.get(), m_, d_, inverse_variance, p_.get(), w_sum_.get(), q_sum_.get(),
                          begin, end);
    });
    pack_columns(z, m, r, T(1), z_panels_.get());
    multiply(p_.get(), z_panels_.get(), r, weighted_z_.get());
    T* const hz = hz_.get();
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t c = 0; c < r; ++c) {
        hz[i * n_ + c] = 2 * (weighted_z_.get()[i * r + c] - w_sum_.get()[i] * z[i * r + c]);
        hz[i * n_ + r + c] = z[i * r + c];
      }
      hz[i * n_ + 2 * r] = hz[i * n_ + 2 * r + 1] = T(0);
    }
    pack_columns(hz, m, n_, T(1), hz_panels_.get());
  }

  // The bandwidth σ of the IMQ kernel. It is 0 if all samples are equal, and there are no
  // candidates then.
  T bandwidth() const { return std::sqrt(square_); }

  // The risk at this λ of the base with the lower bound.
  Risk evaluate(double lambda) {
    shift_ = static_cast<T>(lambda * static_cast<double>(m_));
    for (int64_t i = 0; i < m_; ++i) {
      std::copy_n(k_.get() + i * m_ + i, m_ - i, inverse_.get() + i * m_ + i);
      inverse_.get()[i * m_ + i] += shift_;
    }
    inverter_.invert(inverse_.get(), weighted_.get());
    multiply(inverse_.get(), hz_panels_.get(), n_, wy_.get());
    rows([&](int64_t begin, int64_t end) { dot_columns(z_, r_, wy_.get(), begin, end); });
    pack_columns(wy_.get(), m_, n_, T(1), wy_panels_.get());
    multiply(p_.get(), wy_panels_.get(), n_, pwy_.get());
    rows([&](int64_t begin, int64_t end) {
      weigh_rows(k_.get(), p_.get(), inverse_.get(), m_, d_, weighted_.get(), w_sum_.get(),
                 bq_sum_.get(), begin, end);
    });
    multiply(weighted_.get(), z_panels_.get(), r_, weighted_z_.get());
    const T *inverse = inverse_.get(), *weighted_z = weighted_z_.get();
    const RiskRows<T> of{m_,      r_,           d_,           shift_,
                         z_,      wy_.get(),    pwy_.get(),   weighted_z,
                         inverse, q_sum_.get(), w_sum_.get(), bq_sum_.get()};
    rows([&](int64_t begin, int64_t end) { risk_rows(of, risks_.get(), begin, end); });
    const Risk without = mean_risk(0), with = mean_risk(1);
    return with.bound() < without.bound() ? with : without;
  }

  // Writes F of the λ that was evaluated last. A product with an inverse has larger errors than a
  // solution of the equations: in float the relative error is 1e-2 for the smallest λ. One step of
  // iterative refinement removes these errors.
  void residual(int64_t base,
                T* f) {  // [m, r]
    const int64_t m = m_, n = n_;
    T* const rest = pwy_.get();  // [H z] − (K + λM I) [W Y]
    multiply(k_.get(), wy_panels_.get(), n, rest);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t c = 0; c < 2 * r_; ++c)
        rest[i * n + c] = hz_.get()[i * n + c] - rest[i * n + c] - shift_ * wy_.get()[i * n + c];
    pack_columns(rest, m, n, T(1), wy_panels_.get());
    multiply(inverse_.get(), wy_panels_.get(), n, rest);
    const T shift = static_cast<T>(base) * shift_;
    for (int64_t i = 0; i < m; ++i) {
      const T *wy = wy_.get() + i * n, *more = rest + i * n;
      for (int64_t c = 0; c < r_; ++c)
        f[i * r_ + c] = -(wy[c] + more[c]) - shift * (wy[r_ + c] + more[r_ + c]);
    }
  }

 private:
  template <typename F>
  void rows(const F& f) {
    parallel(m_, kRowGrain, f);
  }

  void multiply(const T* a,       // [m, m]
                const T* panels,  // [m, columns] packed by columns
                int64_t columns,
                T* out) {  // [m, columns]
    panel_product(a, false, panels, m_, m_, columns, out);
  }

  // The mean of r_i and its standard error, for one base.
  Risk mean_risk(int64_t base) const {
    const double* const r = risks_.get() + base;
    const double m = static_cast<double>(m_);
    double sum = 0, square = 0;
    for (int64_t i = 0; i < m_; ++i) sum += r[2 * i];
    const double mean = sum / m;
    for (int64_t i = 0; i < m_; ++i) square += (r[2 * i] - mean) * (r[2 * i] - mean);
    return {mean, std::sqrt(square / (m - 1) / m), base};
  }

  const int64_t m_, r_, d_, n_;
  const T* const z_;  // [m, r]
  Inverter<T> inverter_{m_};
  const Buffer<T> k_{m_ * m_}, p_{m_ * m_}, inverse_{m_ * m_}, weighted_{m_ * m_};
  const Buffer<T> w_sum_{m_}, q_sum_{m_}, bq_sum_{m_};
  const Buffer<T> hz_{m_ * n_};  // [H z] and two columns of zeros
  const Buffer<T> wy_{m_ * n_}, pwy_{m_ * n_}, weighted_z_{m_ * r_};
  const Buffer<T> hz_panels_{panels_size<T>(m_, n_)}, wy_panels_{panels_size<T>(m_, n_)};
  const Buffer<T> z_panels_{panels_size<T>(m_, r_)};
  const Buffer<double> risks_{2 * m_};
  T square_ = 0, shift_ = 0;
};

// Drives the search over λ (common/lambda_search.h). Returns the risk of the best result, and
// writes its λ and its F. λ and F keep their initial values if no λ has a bound below 0.
template <typename T>
Risk search_lambda(Candidates<T>& candidates, int64_t m,
                   T* f,  // [m, r]
                   double& lambda) {
  Risk best;  // starts as the risk of the Gaussian score, 0
  LambdaSearch search;
  search.start();
  for (int i = first_lambda(m); i >= 0; i = search.after(i)) {
    const Risk risk = candidates.evaluate(lambda_at(i));
    if (!search.record(i, risk.bound())) continue;
    best = risk;
    lambda = lambda_at(i);
    candidates.residual(risk.base, f);
  }
  return best;
}

// The score of group g.
template <typename T>
void score_group(const AdaptiveScoreArguments<T>& p, int64_t g) {
  const int64_t m = p.m, d = p.d;
  T* const scores = p.scores + g * m * d;
  const bool primal = d <= m;
  Whitening<T> w{m, d, primal ? d : m};
  whiten(p.x + g * m * d, kWeakRidge, w);
  const int64_t r = w.rank;
  const Buffer<T> z(m * r), f(m * r), back(r);
  for (int64_t k = 0; k < r; ++k) back[k] = whitening_factor(w, k);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t k = 0; k < r; ++k) {
      z[i * r + k] = w.rotated[i * r + k] * back[k];
      f[i * r + k] = -z[i * r + k];
    }

  Candidates<T> candidates(z.get(), m, r, w.support.dimensions);
  double lambda = std::numeric_limits<double>::infinity();
  Risk best;
  if (candidates.bandwidth() > T(0))
    best = search_lambda(candidates, m, f.get(), lambda);
  else
    best.base = 0;
  p.bandwidth[g] = candidates.bandwidth();
  p.lambda[g] = static_cast<T>(lambda);
  p.base[g] = best.base;
  p.risk[g] = static_cast<T>(best.mean);
  p.error[g] = static_cast<T>(best.error);

  // Back to x: F (Λ + τ)^{−1/2} Uᵀ D^{−1}. For d > m the eigenvectors Q of VVᵀ/M are used (dual
  // form): Uᵀ = (M Λ)^{−1/2} Qᵀ V.
  const T floor =
      *std::max_element(w.values.get(), w.values.get() + r) * static_cast<T>(r) * kEpsilon<T>;
  for (int64_t k = 0; k < r; ++k) {
    const T value = w.values[k];
    T factor = back[k];
    if (!primal) factor = value > floor ? factor / std::sqrt(static_cast<T>(m) * value) : T(0);
    for (int64_t i = 0; i < m; ++i) f[i * r + k] *= factor;
  }
  if (primal) {
    product(f.get(), false, w.vectors.get(), m, d, d, scores);
  } else {
    product(f.get(), false, w.vectors.get(), m, m, m, z.get());
    product(z.get(), false, w.v.get(), m, m, d, scores);
  }
  scale_matrix(scores, m, d, w.inverse.get(), false, kLargestFinite<T>);
}

}  // namespace

template <typename T>
void adaptive_score(const AdaptiveScoreArguments<T>& p) {
  for_each_group(p.groups, [&](int64_t g) { score_group(p, g); });
}

template void adaptive_score(const AdaptiveScoreArguments<float>&);
template void adaptive_score(const AdaptiveScoreArguments<double>&);

}  // namespace mige::cpu
