// adaptive_score on the CPU: the score that chooses its own regularization λ.
// mige_ext.ops.adaptive_score explains the formulas.
//
// Notation: z [m, r] are the whitened samples with r = min(m, d). A candidate has scores F [m, r],
// a λ, and a base: 0, 1, or with a start also 2. adaptive_candidates.h computes the candidates of a
// λ and their risks, and common/lambda_search.h decides which λ are evaluated.
//
// Work for one λ: m³ + (10 r + 8) m² flop, and 4 r m² more with a start. Memory:
// 4 m² + O(m (d + r)) values, and up to 4 m² more if samples are left out (common/thinning_rule.h).
#include <algorithm>
#include <limits>
#include <vector>

#include "common/lambda_search.h"
#include "cpu/adaptive_candidates.h"
#include "cpu/operators.h"
#include "cpu/student.h"
#include "cpu/thinning.h"
#include "cpu/whitening.h"

namespace mige::cpu {

namespace {

// A result of the search: its risk, its λ, the scores F and the divergences div_i.
template <typename T>
struct Result {
  int64_t m, r;
  Risk risk{};  // at first 0, the risk of the Gaussian score
  double lambda = std::numeric_limits<double>::infinity();
  const Buffer<T> f{m * r};  // [m, r]
  const Buffer<T> divergence{m};
};

// Searches over λ (common/lambda_search.h), beginning at the λ for `of_samples` samples. Before the
// search, `best` holds the best score without a correction. After the search, `best` holds the best
// of all scores.
template <typename T>
void search_lambda(Candidates<T>& candidates, int64_t of_samples, Result<T>& best) {
  LambdaSearch search;
  search.start(best.risk.bound());
  for (int i = first_lambda(of_samples); i >= 0; i = search.after(i)) {
    const Risk risk = candidates.evaluate(lambda_at(i));
    if (!search.record(i, risk.bound())) continue;
    best.risk = risk;
    best.lambda = lambda_at(i);
    candidates.scores(risk.base, best.f.get());
    candidates.divergence(risk.base, best.divergence.get());
  }
}

// Writes the risks of the start, ½‖R₀‖² − z·R₀ + δ for each sample.
template <int kBytes, typename T>
MIGE_INLINE void start_risks_impl(const T* z,           // [m, r]
                                  const T* start,       // [m, r], R₀
                                  const T* divergence,  // [m], δ
                                  int64_t m, int64_t r,
                                  double* risks) {  // [m]
  for (int64_t i = 0; i < m; ++i) {
    LaneSum<double> sum;
    for_lanes<double>(r, [&](int64_t k, int64_t l) {
      const double departure = start[i * r + k];
      sum.lane[l] += departure * (departure / 2 - static_cast<double>(z[i * r + k]));
    });
    risks[i] = static_cast<double>(divergence[i]) + sum.total();
  }
}

MIGE_KERNEL(start_risks, start_risks_impl)

// Sets `best` to the score without a correction that has the lower bound: the Gaussian score or the
// start.
template <typename T>
void set_uncorrected(const T* z,  // [m, r]
                     Departure<T> start, Result<T>& best) {
  const int64_t m = best.m, r = best.r;
  for (int64_t i = 0; i < m * r; ++i) best.f[i] = -z[i];
  std::fill_n(best.divergence.get(), m, T(0));
  if (!start.values) return;
  const Buffer<double> risks(m);
  start_risks(z, start.values, start.divergence, m, r, risks.get());
  Risk risk = mean_risk(risks.get(), m, 1, 0);
  if (!(risk.bound() < 0)) return;
  risk.base = 2;
  best.risk = risk;
  for (int64_t i = 0; i < m * r; ++i) best.f[i] = start.values[i] - z[i];
  std::copy_n(start.divergence, m, best.divergence.get());
}

// Converts scores S of x to scores of the whitened samples, S D U (Λ + τ)^{1/2}. This is the
// inverse of to_samples (whitening.h). The parts of S in directions in which the samples do not
// vary are lost.
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

// Chooses λ, the base and the bandwidth from the samples that `thin` keeps. Then computes the score
// at all samples. Returns the bandwidth, which is 0 if all samples are equal.
template <typename T>
T choose(const T* z,  // [m, r]
         Departure<T> start, int64_t d, Result<T>& best,
         T* left_out) {  // [1], fraction of the samples
  const int64_t m = best.m, r = best.r;
  Candidates<T> all(z, start, m, r, d);
  std::vector<char> kept(static_cast<size_t>(m));
  const int64_t count = thin(all.squared_distances(), m, r, kept.data());
  *left_out = static_cast<T>(static_cast<double>(m - count) / static_cast<double>(m));
  if (count == m) {
    const T square = all.squared_median();
    const bool equal = !(square > T(0));
    set_uncorrected(z, equal ? Departure<T>{} : start, best);
    best.risk.base = equal ? 0 : best.risk.base;
    if (equal) return T(0);
    all.prepare(square);
    search_lambda(all, m, best);
    return std::sqrt(square);
  }

  // The choice uses only the kept samples.
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
  const T square = thinned.squared_median();
  Result<T> chosen{count, r};
  const bool few = count < kFewestKept;
  set_uncorrected(z_kept.get(), few ? Departure<T>{} : from, chosen);
  if (!few) {
    thinned.prepare(square);
    search_lambda(thinned, m, chosen);
  }

  // The score is computed at all samples. A sample that was left out gets the divergence of the
  // nearest kept sample.
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
    all.scores(chosen.risk.base, best.f.get());
  } else if (chosen.risk.base == 2) {
    for (int64_t i = 0; i < m * r; ++i) best.f[i] += start.values[i];
    std::copy_n(start.divergence, m, best.divergence.get());
  }
  return std::sqrt(square);
}

// Whether group g has a start. A start of zeros is the Gaussian score, which is base 1.
template <typename T>
bool has_start(const AdaptiveScoreArguments<T>& p, int64_t g) {
  const auto zeros = [](const T* values, int64_t count) {  // values [count]
    return std::all_of(values, values + count, [](T v) { return v == T(0); });
  };
  return p.start &&
         !(zeros(p.start + g * p.m * p.d, p.m * p.d) && zeros(p.start_divergence + g * p.m, p.m));
}

// Computes the score of group g from its whitening. Overwrites z.
template <typename T>
void score_group(const AdaptiveScoreArguments<T>& p, int64_t g, const Whitening<T>& w,
                 T* z,  // [m, r]
                 Departure<T> start) {
  const int64_t m = p.m, d = p.d, r = w.rank;
  Result<T> best{m, r};
  p.bandwidth[g] = choose(static_cast<const T*>(z), start,
                          static_cast<int64_t>(w.support.dimensions), best, p.left_out + g);
  p.lambda[g] = static_cast<T>(best.lambda);
  p.base[g] = best.risk.base;
  p.risk[g] = static_cast<T>(best.risk.mean);
  p.error[g] = static_cast<T>(best.risk.error);
  std::copy_n(best.divergence.get(), m, p.divergence + g * m);

  if (std::isinf(best.lambda) && best.risk.base < 2) {
    std::fill_n(p.departure + g * m * d, m * d, T(0));
  } else {
    for (int64_t i = 0; i < m * r; ++i) z[i] += best.f[i];
    to_samples(w, z, p.departure + g * m * d);
  }
  to_samples(w, best.f.get(), p.scores + g * m * d);
}

// The whitening of group g and the whitened samples.
template <typename T>
struct WhitenedGroup {
  Whitening<T> w;
  Buffer<T> z;  // [m, r]

  template <typename Arguments>
  WhitenedGroup(const Arguments& p, int64_t g)
      : w{p.m, p.d, std::min(p.m, p.d)}, z(p.m * std::min(p.m, p.d)) {
    whiten(p.x + g * p.m * p.d, kWeakRidge, w);
    whitened(w, z.get());
  }
};

template <typename T>
void score_with_start(const AdaptiveScoreArguments<T>& p, int64_t g) {
  const WhitenedGroup<T> of(p, g);
  const Buffer<T> departure(p.start ? p.m * of.w.rank : 0);
  Departure<T> start{};
  if (has_start(p, g)) {
    to_whitened(of.w, p.start + g * p.m * p.d, departure.get());
    start = {departure.get(), p.start_divergence + g * p.m};
  }
  score_group(p, g, of.w, of.z.get(), start);
}

// The Student score is computed from the same whitened samples as the adaptive score, so its
// departure needs no conversion.
template <typename T>
void score_with_student(const AdaptiveStudentScoreArguments<T>& p, int64_t g) {
  const WhitenedGroup<T> of(p, g);
  const int64_t m = p.m, r = of.w.rank;
  const Buffer<T> departure(m * r), divergence(m);
  const double nu = student_departure(of.w, static_cast<const T*>(of.z.get()), departure.get(),
                                      divergence.get(), p.weights + g * m);
  p.nu[g] = static_cast<T>(nu);
  Departure<T> start{};
  if (std::isfinite(nu)) {
    // With d > M only the part in the directions of the samples counts.
    for (int64_t k = 0; k < r; ++k) {
      if (dual_length(of.w, k) > T(0)) continue;
      for (int64_t i = 0; i < m; ++i) departure[i * r + k] = T(0);
    }
    start = {departure.get(), divergence.get()};
  }
  score_group(p.adaptive(nullptr, nullptr), g, of.w, of.z.get(), start);
}

}  // namespace

template <typename T>
void adaptive_score(const AdaptiveScoreArguments<T>& p) {
  for_each_group(p.groups, [&](int64_t g) { score_with_start(p, g); });
}

template <typename T>
void adaptive_student_score(const AdaptiveStudentScoreArguments<T>& p) {
  for_each_group(p.groups, [&](int64_t g) { score_with_student(p, g); });
}

MIGE_INSTANTIATE(adaptive_score, AdaptiveScoreArguments);
MIGE_INSTANTIATE(adaptive_student_score, AdaptiveStudentScoreArguments);

}  // namespace mige::cpu
