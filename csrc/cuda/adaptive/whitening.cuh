// Ridge whitening of samples x [m, d]. V [m, d] are the standardized samples, R [d, d] are their
// correlations, and Y [m, r] are the coordinates of V in the basis of r = min(m, d) eigenvectors
// of R. A ridge τ is added to the eigenvalues of R.
//
//   d <= m:  R = VᵀV/m = U Λ Uᵀ [d, d],   Y = V U.
//   d > m:   the dual G = VVᵀ/m = Q Λ Qᵀ [m, m],   U = Vᵀ Q (mΛ)^{-1/2},   Y = Q (mΛ)^{1/2}.
//
// G has the nonzero eigenvalues of R. The other d − m eigenvalues of R are zero.
//
// τ is ridge_fraction(factor) times the minimizer of the leave-one-out Hyvärinen objective of the
// Gaussian score (mige_ext.ops.ridge_whitening, common/whitening_rule.h).
#pragma once

#include "common/whitening_rule.h"
#include "cuda/core/scale.cuh"
#include "cuda/launchers.h"
#include "cuda/linalg/contraction.cuh"

namespace mige::cuda {

constexpr int kRidgeRows = kWarp;  // samples that a thread block of ridge_objective_kernel takes

template <typename T>
struct Whitening : Workspace {
  const T* x;  // [groups, m, d]
  int64_t groups, m, d;
  double factor;

  __host__ __device__ __forceinline__ bool dual() const { return d > m; }
  __host__ __device__ __forceinline__ int64_t r() const { return dual() ? m : d; }
  // Whether G is computed and decomposed in double, and the results are rounded to float. Scores
  // are divided by the roots of its eigenvalues (filter_factor), and in float the eigenvectors of
  // small eigenvalues would be rounding errors. With one strong direction, 100 samples in 101
  // dimensions had scores that were 18 % off.
  __host__ __device__ __forceinline__ bool widens() const {
    return dual() && sizeof(T) < sizeof(double);
  }
  __host__ __device__ __forceinline__ int64_t blocks() const { return divide_up(m, kRidgeRows); }

  Key<T>* largest = take<Key<T>>(groups);    // magnitudes of x
  T* inverse = take<T>(groups * d);          // 1 / standard deviation, 0 for constant columns
  T* v = take<T>(groups * m * d);            // V
  T* gram = take<T>(groups * r() * r());     // R, or G unless it is in wide_gram; later scratch
  T* values = take<T>(groups * r());         // ascending
  T* vectors = take<T>(groups * r() * r());  // one vector per row
  Support* support = take<Support>(groups);
  T* y = take<T>(groups * m * r());                             // Y
  double* objective = take<double>(groups * blocks() * kWarp);  // sums over 32 samples, for every τ
  double* wide_gram = take<double>(widens() ? groups * m * m : 0);  // G
  double* wide_values = take<double>(widens() ? groups * m : 0);
  double* wide_vectors = take<double>(widens() ? groups * m * m : 0);
  EighArguments<T> eigh{gram, groups, static_cast<int>(r()), values, vectors, nullptr};
  EighArguments<double> wide_eigh{wide_gram,   groups,       static_cast<int>(m),
                                  wide_values, wide_vectors, nullptr};
  char* eigh_space = take<char>(widens() ? eigh_work(wide_eigh) : eigh_work(eigh));
  PartialSums partial = take_partial_sums(
      *this, {partial_bytes<double>(groups, r(), r(), dual() ? d : m),
              partial_bytes<T>(groups, m, d, r()), partial_bytes<T>(groups, d, d, r())});
};

constexpr int kColumnRows = kScaleThreads / kWarp;  // rows in a thread block that takes 32 columns

// The factor by which an eigenvector with the eigenvalue λ is multiplied. S are the filtered
// eigenvectors.
enum class RidgeFilter {
  kWhitening,      // (λ+τ)^{-1/4}, because whitening multiplies by SᵀS
  kDualWhitening,  // the root of (τ^{-1/2} − (λ+τ)^{-1/2}) / (mλ), computed without
                   // cancellation; if directions are excluded (Support), the root of
                   // (λ+τ)^{-1/2} / (mλ)
  kScore,          // (λ+τ)^{-1/2}
  kDualScore,      // (λ+τ)^{-1/2} (mλ)^{-1/2}, 0 for the null space
  kStart,          // (λ+τ)^{1/2}, the inverse of kScore
  kDualStart       // (λ+τ)^{1/2} (mλ)^{-1/2}, 0 for the null space
};

// The factor of an eigenvector with the eigenvalue λ.
template <typename T>
__device__ __forceinline__ T filter_factor(RidgeFilter filter, T lambda, T tau, int64_t m,
                                           bool some_excluded) {
  const T inner = sqrt((lambda > T(0) ? lambda : T(0)) + tau), root = sqrt(tau);
  const auto count = static_cast<T>(m);
  switch (filter) {
    case RidgeFilter::kWhitening:
      return 1 / sqrt(inner);
    case RidgeFilter::kDualWhitening:
      return some_excluded ? 1 / sqrt(count * lambda * inner)
                           : 1 / sqrt(count * root * inner * (root + inner));
    case RidgeFilter::kScore:
      return 1 / inner;
    case RidgeFilter::kStart:
      return inner;
    case RidgeFilter::kDualStart:
      return lambda == T(0) ? T(0) : inner / sqrt(count * lambda);
    default:
      return lambda == T(0) ? T(0) : 1 / (inner * sqrt(count * lambda));
  }
}

// --- launchers (whitening.cu) ---

// Fills the arrays of `w`, and writes the means and τ.
template <typename T>
void whiten(const Whitening<T>& w,
            T* means,  // [groups, d] or nullptr
            T* ridge,  // [groups]
            Stream& stream);

// Writes the filtered eigenvectors of R, one per row. In the dual form these are the filtered
// eigenvectors of G times V.
template <typename T>
void filter_vectors(const Whitening<T>& w, RidgeFilter filter,
                    const T* ridge,  // [groups]
                    T* out,          // [groups, r, d]
                    Stream& stream);

}  // namespace mige::cuda
