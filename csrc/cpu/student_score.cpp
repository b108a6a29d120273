// student_score on the CPU: the score of a Student distribution whose scatter matrix is estimated
// robustly. mige_ext.ops.student_score explains the formulas, and common/student_rule.h has the
// rules.
//
// All quantities are in whitened coordinates z [m, r] (whitening.h). In these coordinates the
// covariance with its ridge is the identity, and the ridge alone is the diagonal matrix E. d is the
// number of dimensions that count (common/whitening_rule.h). An EM step computes
//
//   w_i = (ν + d) / (ν − 2 + u_iᵀ P u_i),   u_i = z_i − μ,
//   μ ← Σ w_i z_i / Σ w_i,   P ← (Σ w_i u_i u_iᵀ / m + E)^{−1}   with the new μ in u_i.
//
// Work: the whitening of a group. A group with a finite ν also takes 6 EM steps of 4 m r² + r³ flop
// and one call of to_samples.
#include <algorithm>
#include <limits>

#include "common/student_rule.h"
#include "cpu/inverse.h"
#include "cpu/operators.h"
#include "cpu/whitening.h"

namespace mige::cpu {

namespace {

template <int kBytes, typename T>
MIGE_INLINE double row_product_impl(const T* x, const T* y, int64_t n) {  // x, y [n]
  return dot<T, double>(x, y, n);
}

MIGE_KERNEL(row_product, row_product_impl)

// The location μ and the inverse P of the scatter matrix of one group, and the values from which
// the risk is computed.
template <typename T>
class StudentFit {
 public:
  StudentFit(const Whitening<T>& whitening,
             const T* z)  // [m, r]
      : m_(whitening.m),
        r_(whitening.rank),
        dimensions_(static_cast<double>(whitening.support.dimensions)),
        trace_(dimensions_),
        whitening_(whitening),
        z_(z) {
    for (int64_t i = 0; i < m_; ++i) {
      const double squared = row_product(z + i * r_, z + i * r_, r_);
      samples_[i] = {squared, squared, squared};
    }
  }

  // The ν with the lowest bound, which is the mean risk plus `errors` standard errors. If no bound
  // is below 0, the result is infinity.
  double best_nu(double errors) const {
    const double count = static_cast<double>(m_);
    double lowest = 0, best = std::numeric_limits<double>::infinity();
    for (int n = 0; n < kStudentNus; ++n) {
      const double nu = student_nu(n);
      double sum = 0, square = 0;
      for (int64_t i = 0; i < m_; ++i) sum += at(nu, i).risk;
      const double mean = sum / count;
      for (int64_t i = 0; i < m_; ++i) {
        const double difference = at(nu, i).risk - mean;
        square += difference * difference;
      }
      const double bound = mean + errors * std::sqrt(square / (count - 1) / count);
      if (!(bound < lowest)) continue;
      lowest = bound;
      best = nu;
    }
    return best;
  }

  // Takes the EM steps. Writes the weights w of the last step.
  void fit(double nu,
           T* weights) {  // [m]
    const int64_t m = m_, r = r_;
    const Buffer<T> u(m * r), weighted(m * r), inverse(r * r), scratch(r * r), ridge(r);
    const Buffer<T> panels(panels_size<T>(r, r));
    const Buffer<double> location(r);
    Inverter<T> inverter(r);
    for (int64_t k = 0; k < r; ++k) ridge[k] = ridge_of(k);
    for (int step = 0; step < kStudentSteps; ++step) {
      double sum = 0;
      std::fill_n(location.get(), r, 0.0);
      for (int64_t i = 0; i < m; ++i) {
        weights[i] = static_cast<T>(student_weight(nu, dimensions_, samples_[i].inner));
        const double weight = static_cast<double>(weights[i]);
        sum += weight;
        for (int64_t k = 0; k < r; ++k) location[k] += weight * static_cast<double>(z_[i * r + k]);
      }
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t k = 0; k < r; ++k) {
          u[i * r + k] = static_cast<T>(static_cast<double>(z_[i * r + k]) - location[k] / sum);
          weighted[i * r + k] = weights[i] * u[i * r + k];
        }
      }
      product(weighted.get(), true, u.get(), r, m, r, inverse.get());
      const T each = T(1) / static_cast<T>(m);
      for (int64_t e = 0; e < r * r; ++e) inverse[e] *= each;
      for (int64_t k = 0; k < r; ++k) inverse[k * r + k] += ridge[k];
      inverter.invert(inverse.get(), scratch.get());
      pack_columns(inverse.get(), r, r, T(1), panels.get());
      panel_product(u.get(), false, panels.get(), m, r, r, scaled_.get());
      for (int64_t i = 0; i < m; ++i) {
        const T* const scaled = scaled_.get() + i * r;
        samples_[i].inner = row_product(static_cast<const T*>(u.get()) + i * r, scaled, r);
        samples_[i].squared = row_product(scaled, scaled, r);
      }
    }
    // Σ P_kk over the dimensions that count. These dimensions differ from the r dimensions of z
    // only by directions without variance, in which P_kk is 1.
    trace_ = dimensions_ - static_cast<double>(r);
    for (int64_t k = 0; k < r; ++k) trace_ += static_cast<double>(inverse[k * r + k]);
  }

  // Writes the departure z − w P u and its divergence.
  void departure(double nu,
                 T* out,                 // [m, r]
                 T* divergence) const {  // [m]
    for (int64_t i = 0; i < m_; ++i) {
      const double weight = student_weight(nu, dimensions_, samples_[i].inner);
      for (int64_t k = 0; k < r_; ++k) {
        const double score = weight * static_cast<double>(scaled_[i * r_ + k]);
        out[i * r_ + k] = static_cast<T>(static_cast<double>(z_[i * r_ + k]) - score);
      }
      divergence[i] = static_cast<T>(at(nu, i).divergence);
    }
  }

 private:
  StudentRisk at(double nu, int64_t i) const {
    return StudentRisk::of(nu, dimensions_, trace_, samples_[i]);
  }

  // Element k of the diagonal of E, or 1 for an excluded direction. In such a direction z is 0, so
  // P_kk is 1.
  T ridge_of(int64_t k) const {
    if (k < whitening_.support.excluded) return T(1);
    const double value = static_cast<double>(whitening_.values[k]);
    return static_cast<T>(whitening_.ridge / (value + whitening_.ridge));
  }

  const int64_t m_, r_;
  const double dimensions_;
  double trace_;
  const Whitening<T>& whitening_;
  const T* const z_;  // [m, r]
  const Buffer<StudentSample> samples_{m_};
  const Buffer<T> scaled_{m_ * r_};  // P u
};

template <typename T>
void score_group(const StudentScoreArguments<T>& p, int64_t g) {
  const int64_t m = p.m, d = p.d;
  Whitening<T> w{m, d, std::min(m, d)};
  whiten(p.x + g * m * d, kWeakRidge, w);
  const Buffer<T> z(m * w.rank);
  whitened(w, z.get());

  T *const weights = p.weights + g * m, *const divergence = p.divergence + g * m;
  StudentFit<T> student(w, z.get());
  double nu = student.best_nu(1);
  if (std::isfinite(nu)) {
    student.fit(nu, weights);
    nu = student.best_nu(0);
  }
  p.nu[g] = static_cast<T>(nu);
  if (std::isfinite(nu)) {
    const Buffer<T> departure(m * w.rank);
    student.departure(nu, departure.get(), divergence);
    to_samples(w, departure.get(), p.departure + g * m * d);
  } else {
    std::fill_n(p.departure + g * m * d, m * d, T(0));
    std::fill_n(divergence, m, T(0));
    std::fill_n(weights, m, T(1));
  }
}

}  // namespace

template <typename T>
void student_score(const StudentScoreArguments<T>& p) {
  for_each_group(p.groups, [&](int64_t g) { score_group(p, g); });
}

MIGE_INSTANTIATE(student_score, StudentScoreArguments);

}  // namespace mige::cpu
