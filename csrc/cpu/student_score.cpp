// student_score on the CPU: the score of a Student distribution whose scatter matrix is estimated
// robustly. mige_ext.ops.student_score explains the formulas, and common/student_rule.h has the
// rules.
//
// All quantities are in whitened coordinates z [m, r] (whitening.h). In these coordinates the
// covariance with its ridge is the identity, and the ridge alone is the diagonal matrix E. e is the
// mean of ‖z_i‖². An EM step computes
//
//   w_i = (ν + e) / (ν − 2 + u_iᵀ P u_i),   u_i = z_i − μ,
//   μ ← Σ w_i z_i / Σ w_i,   P ← (Σ w_i u_i u_iᵀ / m + E)^{−1}   with the new μ in u_i.
//
// Work: the whitening of a group. A group with a finite ν also takes 4 EM steps of 3 m r² + r³ flop
// and one call of to_samples.
#include <algorithm>
#include <limits>

#include "common/student_rule.h"
#include "cpu/inverse.h"
#include "cpu/operators.h"
#include "cpu/student.h"

namespace mige::cpu {

namespace {

// The risks of a sample for every ν, and two unused numbers. They fill a vector of doubles.
constexpr int kNuLanes = kLanes<double>;
static_assert(kStudentNus <= kNuLanes);

// Σ_c x_c y_c, with products and partial sums in double. (The partial sums of dot in scaling.h fill
// a vector of T, which takes longer for a few columns.)
template <typename T>
MIGE_INLINE double dot_in_double(const T* x, const T* y, int64_t n) {  // x, y [n]
  LaneSum<double> sum;
  for_lanes<double>(n, [&](int64_t c, int64_t l) {
    sum.lane[l] += static_cast<double>(x[c]) * static_cast<double>(y[c]);
  });
  return sum.total();
}

// The number of the ν with the lowest bound, which is the mean risk plus `errors` standard errors.
// If no bound is below 0, the result is −1. `trace` is the sum of P_kk over the dimensions that
// count.
template <int kBytes>
MIGE_INLINE int best_nu_impl(const StudentSample* samples,  // [m]
                             int64_t m, double d, double e, double trace, double errors,
                             double* risks) {  // [m, kNuLanes]
  double nu[kNuLanes], mean[kNuLanes] = {}, square[kNuLanes] = {};
  for (int n = 0; n < kNuLanes; ++n) nu[n] = student_nu(n);
  for (int64_t i = 0; i < m; ++i) {
    const StudentSample sample = samples[i];
    double* const row = risks + i * kNuLanes;
#pragma omp simd
    for (int n = 0; n < kNuLanes; ++n) {
      row[n] = StudentRisk::of(nu[n], d, e, trace, sample).risk;
      mean[n] += row[n];
    }
  }
  const double count = static_cast<double>(m);
  for (int n = 0; n < kNuLanes; ++n) mean[n] /= count;
  if (errors > 0) {
    for (int64_t i = 0; i < m; ++i) {
      const double* const row = risks + i * kNuLanes;
#pragma omp simd
      for (int n = 0; n < kNuLanes; ++n) square[n] += (row[n] - mean[n]) * (row[n] - mean[n]);
    }
  }
  double lowest = 0;
  int best = -1;
  for (int n = 0; n < kStudentNus; ++n) {
    const double bound = mean[n] + errors * std::sqrt(square[n] / (count - 1) / count);
    if (!(bound < lowest)) continue;
    lowest = bound;
    best = n;
  }
  return best;
}

// Writes ‖z_i‖² as all three values of a sample. They have this value for μ = 0 and P = I. Returns
// the mean of ‖z_i‖².
template <int kBytes, typename T>
MIGE_INLINE double begin_samples_impl(const T* z,  // [m, r]
                                      int64_t m, int64_t r,
                                      StudentSample* samples) {  // [m]
  double sum = 0;
  for (int64_t i = 0; i < m; ++i) {
    const double squared = dot_in_double(z + i * r, z + i * r, r);
    samples[i] = {squared, squared, squared};
    sum += squared;
  }
  return sum / static_cast<double>(m);
}

// Writes u_iᵀ P u_i and, after the last EM step, ‖P u_i‖². The weights do not depend on ‖P u_i‖².
template <int kBytes, typename T>
MIGE_INLINE void update_samples_impl(const T* u,   // [m, r]
                                     const T* pu,  // [m, r], P u
                                     int64_t m, int64_t r, bool last,
                                     StudentSample* samples) {  // [m]
  for (int64_t i = 0; i < m; ++i) samples[i].inner = dot_in_double(u + i * r, pu + i * r, r);
  if (!last) return;
  for (int64_t i = 0; i < m; ++i) samples[i].squared = dot_in_double(pu + i * r, pu + i * r, r);
}

// Writes u = z − μ and the columns of w u, with μ = Σ w_i z_i / Σ w_i.
template <int kBytes, typename T>
MIGE_INLINE void center_samples_impl(const T* z,        // [m, r]
                                     const T* weights,  // [m]
                                     int64_t m, int64_t r,
                                     double* location,  // [r], μ
                                     T* u,              // [m, r]
                                     T* weighted) {     // [r, m], (w u)ᵀ
  double sum = 0;
  std::fill_n(location, r, 0.0);
  for (int64_t i = 0; i < m; ++i) {
    const double weight = static_cast<double>(weights[i]);
    const T* const row = z + i * r;
    sum += weight;
#pragma omp simd
    for (int64_t k = 0; k < r; ++k) location[k] += weight * static_cast<double>(row[k]);
  }
  for (int64_t k = 0; k < r; ++k) location[k] /= sum;
  // The rows of a block stay in the first-level cache until they are transposed.
  for (int64_t begin = 0; begin < m; begin += kLanes<T>) {
    const int64_t rows = std::min(kLanes<T>, m - begin);
    for (int64_t i = begin; i < begin + rows; ++i) {
#pragma omp simd
      for (int64_t k = 0; k < r; ++k)
        u[i * r + k] = static_cast<T>(static_cast<double>(z[i * r + k]) - location[k]);
    }
    for (int64_t k = 0; k < r; ++k)
      for (int64_t l = 0; l < rows; ++l)
        weighted[k * m + begin + l] = weights[begin + l] * u[(begin + l) * r + k];
  }
}

// Writes the departure z − w P u and its divergence.
template <int kBytes, typename T>
MIGE_INLINE void departure_rows_impl(const T* z,                    // [m, r]
                                     const T* pu,                   // [m, r], P u
                                     const StudentSample* samples,  // [m]
                                     int64_t m, int64_t r, double nu, double d, double e,
                                     double trace,
                                     T* departure,     // [m, r]
                                     T* divergence) {  // [m]
  for (int64_t i = 0; i < m; ++i) {
    const double weight = student_weight(nu, e, samples[i].inner);
#pragma omp simd
    for (int64_t k = 0; k < r; ++k) {
      const double score = weight * static_cast<double>(pu[i * r + k]);
      departure[i * r + k] = static_cast<T>(static_cast<double>(z[i * r + k]) - score);
    }
    divergence[i] = static_cast<T>(StudentRisk::of(nu, d, e, trace, samples[i]).divergence);
  }
}

MIGE_KERNEL(best_nu, best_nu_impl)
MIGE_KERNEL(begin_samples, begin_samples_impl)
MIGE_KERNEL(update_samples, update_samples_impl)
MIGE_KERNEL(center_samples, center_samples_impl)
MIGE_KERNEL(departure_rows, departure_rows_impl)

// Element k of the diagonal of E, or 1 for an excluded direction. In such a direction z is 0, so
// P_kk is 1.
template <typename T>
T ridge_of(const Whitening<T>& w, int64_t k) {
  if (k < w.support.excluded) return T(1);
  return static_cast<T>(w.ridge / (static_cast<double>(w.values[k]) + w.ridge));
}

// Takes the EM steps. Updates the samples, and returns the sum of P_kk over the dimensions that
// count.
template <typename T>
double fit(const Whitening<T>& w,
           const T* z,  // [m, r]
           double nu, double e,
           StudentSample* samples,  // [m]
           T* pu,                   // [m, r], P u
           T* weights) {            // [m], weights of the last step
  const int64_t m = w.m, r = w.rank;
  const double d = static_cast<double>(w.support.dimensions);
  const Buffer<T> u(m * r), weighted(m * r), inverse(r * r), scratch(r * r);
  const Buffer<T> u_panels(panels_size<T>(m, r)), panels(panels_size<T>(r, r));
  const Buffer<double> location(r);
  const T each = T(1) / static_cast<T>(m);
  Inverter<T> inverter(r);
  for (int step = 0; step < kStudentSteps; ++step) {
    for (int64_t i = 0; i < m; ++i)
      weights[i] = static_cast<T>(student_weight(nu, e, samples[i].inner));
    center_samples(z, static_cast<const T*>(weights), m, r, location.get(), u.get(),
                   weighted.get());
    // Only the upper triangle of the scatter matrix is computed, because the inverter reads no
    // other part.
    pack_columns(u.get(), m, r, T(1), u_panels.get());
    std::fill_n(inverse.get(), r * r, T(0));
    parallel_rows(
        r, true,
        [&](int64_t begin, int64_t end) {
          product_rows(weighted.get(), false, u_panels.get(), r, m, r, Update::kAddUpper,
                       inverse.get(), r, begin, end);
        },
        m * r);
    for (int64_t i = 0; i < r * r; ++i) inverse[i] *= each;
    for (int64_t k = 0; k < r; ++k) inverse[k * r + k] += ridge_of(w, k);
    inverter.invert(inverse.get(), scratch.get());
    pack_columns(inverse.get(), r, r, T(1), panels.get());
    panel_product(u.get(), false, panels.get(), m, r, r, pu);
    update_samples(u.get(), pu, m, r, step == kStudentSteps - 1, samples);
  }
  // These dimensions differ from the r dimensions of z only by directions without variance, in
  // which P_kk is 1.
  double trace = d - static_cast<double>(r);
  for (int64_t k = 0; k < r; ++k) trace += static_cast<double>(inverse[k * r + k]);
  return trace;
}

template <typename T>
void score_group(const StudentScoreArguments<T>& p, int64_t g) {
  const int64_t m = p.m, d = p.d;
  Whitening<T> w{m, d, std::min(m, d)};
  whiten(p.x + g * m * d, kWeakRidge, w);
  const Buffer<T> z(m * w.rank), departure(m * w.rank);
  whitened(w, z.get());
  const double nu =
      student_departure<T>(w, z.get(), departure.get(), p.divergence + g * m, p.weights + g * m);
  p.nu[g] = static_cast<T>(nu);
  if (std::isfinite(nu))
    to_samples(w, departure.get(), p.departure + g * m * d);
  else
    std::fill_n(p.departure + g * m * d, m * d, T(0));
}

}  // namespace

template <typename T>
double student_departure(const Whitening<T>& w, const T* z, T* departure, T* divergence,
                         T* weights) {
  const int64_t m = w.m, r = w.rank;
  const double d = static_cast<double>(w.support.dimensions);
  const Buffer<StudentSample> samples(m);
  const Buffer<double> risks(m * kNuLanes);
  const double e = begin_samples(z, m, r, samples.get());
  int best =
      few_samples(m, w.support.dimensions)
          ? -1
          : best_nu(static_cast<const StudentSample*>(samples.get()), m, d, e, d, 1.0, risks.get());
  if (best >= 0) {
    const Buffer<T> pu(m * r);
    const double trace = fit(w, z, student_nu(best), e, samples.get(), pu.get(), weights);
    best =
        best_nu(static_cast<const StudentSample*>(samples.get()), m, d, e, trace, 0.0, risks.get());
    if (best >= 0) {
      const double nu = student_nu(best);
      departure_rows(z, static_cast<const T*>(pu.get()),
                     static_cast<const StudentSample*>(samples.get()), m, r, nu, d, e, trace,
                     departure, divergence);
      return nu;
    }
  }
  std::fill_n(divergence, m, T(0));
  std::fill_n(weights, m, T(1));
  return std::numeric_limits<double>::infinity();
}

template <typename T>
void student_score(const StudentScoreArguments<T>& p) {
  for_each_group(p.groups, [&](int64_t g) { score_group(p, g); });
}

template double student_departure(const Whitening<float>&, const float*, float*, float*, float*);
template double student_departure(const Whitening<double>&, const double*, double*, double*,
                                  double*);
MIGE_INSTANTIATE(student_score, StudentScoreArguments);

}  // namespace mige::cpu
