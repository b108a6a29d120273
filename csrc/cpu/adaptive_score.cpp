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
// A start adds base 2, which corrects s₀ = R₀ − z for a given departure R₀ with divergence δ:
//
//   X = B R₀,   F = −W − λM (Y − X),   the last term of div_i is d (1 − λM b_i) + λM b_i δ_i
//
// common/lambda_search.h decides which λ are evaluated. Work for one λ: m³ + (10 r + 4) m² flop,
// and 4 r m² more with a start. Memory: 4 m² + O(m (d + r)) values, and up to 4 m² more if samples
// are left out (common/thinning_rule.h).
#include <algorithm>
#include <limits>
#include <vector>

#include "common/lambda_search.h"
#include "cpu/adaptive_risk.h"
#include "cpu/distance_quantile.h"
#include "cpu/inverse.h"
#include "cpu/operators.h"
#include "cpu/thinning.h"
#include "cpu/whitening.h"

namespace mige::cpu {

namespace {

struct Risk {
  double mean = 0, error = 0;
  int64_t base = 1;
  double bound() const { return mean + error; }
};

// The mean of r_i and its standard error, for one base.
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

// The departure of a score from the Gaussian score, and its divergence.
template <typename T>
struct Departure {
  const T* values;      // [m, r], or nullptr if there is none
  const T* divergence;  // [m], or nullptr
};

// The candidates F of one λ, two or, with a start, three of them, and their risks.
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
  // The square of their median.
  T median() const { return upper_quantile(k_.get(), m_, 0.5); }

  // Computes K and [H z R₀] with the bandwidth √square.
  void prepare(T square) {
    const int64_t m = m_, r = r_;
    const T* const z = z_;
    const T inverse_variance = T(1) / square;
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
        if (start_.values) hz[i * n_ + 2 * r + c] = start_.values[i * r + c];
      }
      for (int64_t c = bases_ * r; c < n_; ++c) hz[i * n_ + c] = T(0);
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
    rows([&](int64_t begin, int64_t end) { dot_columns(z_, r_, bases_, wy_.get(), begin, end); });
    pack_columns(wy_.get(), m_, n_, T(1), wy_panels_.get());
    multiply(p_.get(), wy_panels_.get(), n_, pwy_.get());
    rows([&](int64_t begin, int64_t end) {
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
    rows([&](int64_t begin, int64_t end) {
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

  // Writes F of the λ that was evaluated last. A product with an inverse has larger errors than a
  // solution of the equations: in float the relative error is 1e-2 for the smallest λ. One step of
  // iterative refinement removes these errors.
  void residual(int64_t base,
                T* f) {  // [m, r]
    const int64_t m = m_, n = n_;
    T* const rest = pwy_.get();  // [H z R₀] − (K + λM I) [W Y X]
    multiply(k_.get(), wy_panels_.get(), n, rest);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t c = 0; c < bases_ * r_; ++c)
        rest[i * n + c] = hz_.get()[i * n + c] - rest[i * n + c] - shift_ * wy_.get()[i * n + c];
    pack_columns(rest, m, n, T(1), wy_panels_.get());
    multiply(inverse_.get(), wy_panels_.get(), n, rest);
    const T shift = base > 0 ? shift_ : T(0);
    for (int64_t i = 0; i < m; ++i) {
      const T *wy = wy_.get() + i * n, *more = rest + i * n, *x = wy + 2 * r_,
              *x_more = more + 2 * r_;
      for (int64_t c = 0; c < r_; ++c) {
        f[i * r_ + c] = -(wy[c] + more[c]) - shift * (wy[r_ + c] + more[r_ + c]);
        if (base == 2) f[i * r_ + c] += shift * (x[c] + x_more[c]);
      }
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

  const int64_t m_, r_, d_, bases_, n_;
  const T* const z_;  // [m, r]
  const Departure<T> start_;
  Inverter<T> inverter_{m_};
  const Buffer<T> k_{m_ * m_}, p_{m_ * m_}, inverse_{m_ * m_}, weighted_{m_ * m_};
  const Buffer<T> w_sum_{m_}, q_sum_{m_}, bq_sum_{m_};
  const Buffer<T> hz_{m_ * n_};  // [H z R₀] and `bases` columns of zeros
  const Buffer<T> wy_{m_ * n_}, pwy_{m_ * n_}, weighted_z_{m_ * r_};
  const Buffer<T> hz_panels_{panels_size<T>(m_, n_)}, wy_panels_{panels_size<T>(m_, n_)};
  const Buffer<T> z_panels_{panels_size<T>(m_, r_)};
  const Buffer<double> risks_{bases_ * m_}, divergences_{bases_ * m_};
  T shift_ = 0;
};

// A result of the search: its risk and its λ, F and div_i.
template <typename T>
struct Result {
  int64_t m, r;
  Risk risk{};  // starts as the risk of the Gaussian score, 0
  double lambda = std::numeric_limits<double>::infinity();
  const Buffer<T> f{m * r};  // [m, r]
  const Buffer<T> divergence{m};
};

// Drives the search over λ (common/lambda_search.h). `best` holds the best score without a
// correction before, and the best score after the search. The search starts at the λ for
// `of_samples` samples.
template <typename T>
void search_lambda(Candidates<T>& candidates, int64_t of_samples, Result<T>& best) {
  LambdaSearch search;
  search.start(best.risk.bound());
  for (int i = first_lambda(of_samples); i >= 0; i = search.after(i)) {
    const Risk risk = candidates.evaluate(lambda_at(i));
    if (!search.record(i, risk.bound())) continue;
    best.risk = risk;
    best.lambda = lambda_at(i);
    candidates.residual(risk.base, best.f.get());
    candidates.divergence(risk.base, best.divergence.get());
  }
}

// Makes `best` the Gaussian score or, if it has the lower bound, the start.
template <typename T>
void without_correction(const T* z,  // [m, r]
                        Departure<T> start, Result<T>& best) {
  const int64_t m = best.m, r = best.r;
  for (int64_t i = 0; i < m * r; ++i) best.f[i] = -z[i];
  std::fill_n(best.divergence.get(), m, T(0));
  if (!start.values) return;
  const Buffer<double> risks(m);
  for (int64_t i = 0; i < m; ++i) {
    risks[i] = start.divergence[i];
    for (int64_t k = 0; k < r; ++k) {
      const double departure = start.values[i * r + k];
      risks[i] += departure * (departure / 2 - static_cast<double>(z[i * r + k]));
    }
  }
  Risk risk = mean_risk(risks.get(), m, 1, 0);
  if (!(risk.bound() < 0)) return;
  risk.base = 2;
  best.risk = risk;
  for (int64_t i = 0; i < m * r; ++i) best.f[i] = start.values[i] - z[i];
  std::copy_n(start.divergence, m, best.divergence.get());
}

// The inverse of to_samples, S D U (Λ + τ)^{1/2} for scores S of x. Only the part in the directions
// in which the samples vary is kept.
template <typename T>
void to_whitened(const Whitening<T>& w,
                 const T* scores,  // [m, d]
                 T* out) {         // [m, r]
  const int64_t m = w.m, d = w.d, r = w.rank;
  const Buffer<T> scaled(m * d), deviation(d), panels(panels_size<T>(d, r));
  std::copy_n(scores, m * d, scaled.get());
  for (int64_t c = 0; c < d; ++c) deviation[c] = w.inverse[c] > T(0) ? T(1) / w.inverse[c] : T(0);
  scale_matrix(scaled.get(), m, d, deviation.get(), false, kLargestFinite<T>);
  if (r == d) {
    pack_rows(w.vectors.get(), d, d, T(1), panels.get());
    panel_product(scaled.get(), false, panels.get(), m, d, d, out);
  } else {
    const Buffer<T> spanned(m * m), vector_panels(panels_size<T>(m, m));
    pack_rows(w.v.get(), m, d, T(1), panels.get());
    panel_product(scaled.get(), false, panels.get(), m, d, m, spanned.get());
    pack_rows(w.vectors.get(), m, m, T(1), vector_panels.get());
    panel_product(spanned.get(), false, vector_panels.get(), m, m, m, out);
  }
  for (int64_t k = 0; k < r; ++k) {
    const T scale = whitening_factor(w, k) * dual_length(w, k);
    const T root = scale > T(0) ? T(1) / scale : T(0);
    for (int64_t i = 0; i < m; ++i) out[i * r + k] *= root;
  }
}

// Chooses λ, base and bandwidth from the samples that `thin` keeps, and computes the score at all
// samples. Returns the bandwidth, which is 0 if all samples are equal.
template <typename T>
T choose(const T* z,  // [m, r]
         Departure<T> start, int64_t d, Result<T>& best, T* left_out) {
  const int64_t m = best.m, r = best.r;
  Candidates<T> all(z, start, m, r, d);
  std::vector<char> kept(static_cast<size_t>(m));
  const int64_t count = thin(all.squared_distances(), m, r, kept.data());
  *left_out = static_cast<T>(static_cast<double>(m - count) / static_cast<double>(m));
  if (count == m) {
    const T square = all.median();
    const bool equal = !(square > T(0));
    without_correction(z, equal ? Departure<T>{} : start, best);
    best.risk.base = equal ? 0 : best.risk.base;
    if (equal) return T(0);
    all.prepare(square);
    search_lambda(all, m, best);
    return std::sqrt(square);
  }

  const Buffer<T> z_kept(count * r), start_kept(start.values ? count * r : 0), of_start(count);
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < m; ++i) {
    if (!kept[i]) continue;
    const auto at = static_cast<int64_t>(rows.size());
    std::copy_n(z + i * r, r, z_kept.get() + at * r);
    if (start.values) {
      std::copy_n(start.values + i * r, r, start_kept.get() + at * r);
      of_start[at] = start.divergence[i];
    }
    rows.push_back(i);
  }
  const Departure<T> from = start.values ? Departure<T>{start_kept.get(), of_start.get()} : start;
  Candidates<T> thinned(z_kept.get(), from, count, r, d);
  const T square = thinned.median();
  Result<T> chosen{count, r};
  const bool few = count < kFewestKept;
  without_correction(z_kept.get(), few ? Departure<T>{} : from, chosen);
  if (!few) {
    thinned.prepare(square);
    search_lambda(thinned, m, chosen);
  }

  best.risk = chosen.risk;
  best.lambda = chosen.lambda;
  for (int64_t i = 0; i < m * r; ++i) best.f[i] = -z[i];
  std::fill_n(best.divergence.get(), m, T(0));
  if (std::isfinite(chosen.lambda)) {
    std::vector<int64_t> place(static_cast<size_t>(m));
    for (int64_t k = 0; k < count; ++k) place[rows[k]] = k;
    for (int64_t i = 0; i < m; ++i) {
      const int64_t from_row =
          kept[i] ? i : nearest_kept(all.squared_distances(), m, kept.data(), i);
      best.divergence[i] = chosen.divergence[place[from_row]];
    }
    all.prepare(square);
    all.evaluate(chosen.lambda);
    all.residual(chosen.risk.base, best.f.get());
  } else if (chosen.risk.base == 2) {
    for (int64_t i = 0; i < m * r; ++i) best.f[i] += start.values[i];
    std::copy_n(start.divergence, m, best.divergence.get());
  }
  return std::sqrt(square);
}

// Whether group g has a start. A start of zeros is the Gaussian score, which is base 1.
template <typename T>
bool has_start(const AdaptiveScoreArguments<T>& p, int64_t g) {
  const auto zeros = [](const T* values, int64_t count) {
    return std::all_of(values, values + count, [](T v) { return v == T(0); });
  };
  return p.start &&
         !(zeros(p.start + g * p.m * p.d, p.m * p.d) && zeros(p.start_divergence + g * p.m, p.m));
}

// The score of group g.
template <typename T>
void score_group(const AdaptiveScoreArguments<T>& p, int64_t g) {
  const int64_t m = p.m, d = p.d;
  Whitening<T> w{m, d, std::min(m, d)};
  whiten(p.x + g * m * d, kWeakRidge, w);
  const int64_t r = w.rank;
  const Buffer<T> z(m * r), departure(p.start ? m * r : 0);
  whitened(w, z.get());
  Departure<T> start{};
  if (has_start(p, g)) {
    to_whitened(w, p.start + g * m * d, departure.get());
    start = {departure.get(), p.start_divergence + g * m};
  }

  Result<T> best{m, r};
  p.bandwidth[g] =
      choose(z.get(), start, static_cast<int64_t>(w.support.dimensions), best, p.left_out + g);
  p.lambda[g] = static_cast<T>(best.lambda);
  p.base[g] = best.risk.base;
  p.risk[g] = static_cast<T>(best.risk.mean);
  p.error[g] = static_cast<T>(best.risk.error);
  std::copy_n(best.divergence.get(), m, p.divergence + g * m);

  if (std::isinf(best.lambda) && best.risk.base < 2) {
    std::fill_n(p.departure + g * m * d, m * d, T(0));
  } else {
    for (int64_t i = 0; i < m * r; ++i) z[i] += best.f[i];
    to_samples(w, z.get(), p.departure + g * m * d);
  }
  to_samples(w, best.f.get(), p.scores + g * m * d);
}

}  // namespace

template <typename T>
void adaptive_score(const AdaptiveScoreArguments<T>& p) {
  for_each_group(p.groups, [&](int64_t g) { score_group(p, g); });
}

MIGE_INSTANTIATE(adaptive_score, AdaptiveScoreArguments);

}  // namespace mige::cpu
