// The steps of the adaptive score in whitened coordinates z [m, r]. mige_ext.ops.adaptive_score
// explains the method.
//
// The IMQ kernel is K = φ(s) = (1 + s/σ²)^{-1/2} with s_il = ‖z_i − z_l‖². Let a = 1/σ², and let d
// be the number of dimensions in which the risk is measured (Support). H is the gradient sum. The
// derivatives of φ are functions of K, so only K [m, m] is stored:
//
//   φ' = −½ a K³,   q = 2(d φ' + 2 s φ'') = a K³ (3 − d − 3K²),   H = a (diag(K³1) z − K³ z).
//
// For one λ, with μ = λm, the score F starts from zero (base 0) or from the Gaussian score −z
// (base 1):
//
//   B = (K + μI)⁻¹,   W = B H,   Y = B z,   F = −W − base μ Y.
//
// With a start there is also base 2. The start is given by its departure R₀ from the Gaussian score
// −z:
//
//   X = B R₀,   F = −W − μ (Y − X).
//
// 1 is the vector of ones. In H and in the risk of sample i, the terms with l = i cancel, so the
// sums over l include them.
#pragma once

#include "common/lambda_search.h"
#include "cuda/adaptive/thinning.cuh"
#include "cuda/adaptive/whitening.cuh"
#include "cuda/core/radix_selection.cuh"
#include "cuda/linalg/inverse.cuh"

namespace mige::cuda {

constexpr int kMostBases = 3;

// The search over λ in one group. The host enqueues as many rounds as the longest search can need.
// In each round a group evaluates the λ with the number next[g], until its search stops.
struct GroupSearch : LambdaSearch {
  double mu;          // λm of this round
  double kept_mu;     // λm of the previous round
  int32_t kept;       // the base of this round's result if it is the best so far, otherwise −1
  int32_t result;     // the base of the best result so far, −1 for the unchanged Gaussian score
  int32_t result_at;  // the number of the λ of `result`, −1 for a base without a correction
};

template <typename T>
struct Adaptive : Workspace {
  Whitening<T> w;
  AdaptiveScoreArguments<T> to;
  int64_t groups = to.groups, m = to.m, d = to.d, r = w.r();
  int64_t bases = to.start ? 3 : 2, n = bases * r;
  Key<T>* unit = take<Key<T>>(groups);  // a magnitude with which kernels do not scale z, or NaN
  T* ridge = take<T>(groups);
  T* z = w.y;                              // [groups, m, r]; whitened_kernel turns Y into z
  T* k = take<T>(groups * m * m);          // squared distances s, then K
  T* cubes = take<T>(groups * m);          // Σ_l K³_il
  T* hz = take<T>(groups * m * n);         // H, z and R₀
  T* wy = take<T>(groups * m * n);         // W, Y and X
  T* kwy = take<T>(groups * m * n);        // K³ W, K³ Y and K³ X
  T* bz = take<T>(groups * m * r);         // (B∘K³) z
  T* along = take<T>(groups * m * bases);  // z_i·W_i, z_i·Y_i and z_i·X_i
  T* best = take<T>(groups * m * r);       // the best F so far
  T* s = take<T>(groups * r * d);          // filtered eigenvectors
  double* risks = take<double>(groups * bases * m);
  double* divergences = take<double>(groups * bases * m);
  Key<T>* start_largest = take<Key<T>>(groups);              // magnitudes of the start
  T* start_scaled = take<T>(to.start ? groups * m * d : 0);  // the start times the deviations
  GroupSearch* search = take<GroupSearch>(groups);
  int32_t* next = take<int32_t>(groups);  // number of this round's λ, −1 once the search stops
  Selection<T>* selections = take<Selection<T>>(groups);
  Count* counts = take<Count>(groups * kDigits);
  PartialSums partial = take_partial_sums(
      *this, {partial_bytes<T>(groups, m, n, m), partial_bytes<T>(groups, m, r, m),
              partial_bytes<T>(groups, m, r, d), partial_bytes<T>(groups, m, d, r)});
  Thinning<T> thinning{Workspace(*this), k, groups, m, r, to.left_out};
  InverseArguments<T> inversion{Workspace(thinning), groups, m, next};  // of A = K + μI

  // Whether the search of group g has stopped.
  __device__ __forceinline__ bool idle(int64_t g) const { return next[g] < 0; }
  // Whether the result of this round is not the best so far.
  __device__ __forceinline__ bool not_kept(int64_t g) const { return search[g].kept < 0; }
  // The factor of Y in F: μ, or 0 for base 0.
  __device__ __forceinline__ T kept_shift(int64_t g) const {
    return static_cast<T>(search[g].kept > 0 ? search[g].kept_mu : 0);
  }
  __device__ __forceinline__ double inverse_variance(int64_t g) const {
    const auto sigma = static_cast<double>(to.bandwidth[g]);
    return 1 / (sigma * sigma);
  }
};

// The mean risk of the `count` kept samples, and its standard error.
__device__ __forceinline__ MeanAndError mean_risk(const double* risks,  // [m]
                                                  const int32_t* kept,  // [m], 1 or 0
                                                  int64_t m, int64_t count,
                                                  double* sums) {  // [kRowWarps], shared
  return mean_and_error(
      m, count, sums, [&](int64_t i) { return risks[i]; }, [&](int64_t i) { return kept[i] != 0; });
}

// --- before the search over λ ---

// Computes z = Y (Λ + τ)^{-1/2} in place, elementwise. One thread of each group writes `unit`.
// Work: reads and writes m r values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4) whitened_kernel(Adaptive<T> p) {
  const Whitening<T>& w = p.w;
  const int64_t r = p.r, count = p.m * r;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    const T tau = p.ridge[g];
    grid_stride<kElementThreads>(count, [&](int64_t e) {
      const T lambda = w.values[g * r + e % r];
      p.z[g * count + e] *= e % r < w.support[g].excluded
                                ? T(0)
                                : filter_factor(RidgeFilter::kScore, lambda, tau, p.m, false);
    });
    if (blockIdx.x == 0 && threadIdx.x == 0) {
      const T magnitude = magnitude_of<T>(w.largest[g]);
      T poison = magnitude - magnitude;
      if (p.to.start) {
        const T of_start = magnitude_of<T>(p.start_largest[g]);
        poison += of_start - of_start;
      }
      p.unit[g] = key_of(normal_scale(T(1)) + poison);
    }
  }
}

// Makes the Gaussian score the first result, and sets `first` as the number of the first λ. No λ is
// tried for equal samples, for input that is not finite, or if samples are left out and fewer than
// kFewestKept remain. A thread takes a group. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4)
    search_begin_kernel(Adaptive<T> p, int first) {
  grid_stride<kElementThreads>(p.groups, [&](int64_t g) {
    const T sigma = p.to.bandwidth[g], poison = sigma - sigma;
    const bool usable = sigma > T(0) && poison == T(0);
    const int32_t count = p.thinning.count[g];
    p.next[g] = usable && (count == p.m || count >= kFewestKept) ? first : -1;
    p.to.left_out[g] += poison;
    p.search[g].start();
    p.search[g].mu = lambda_at(first) * static_cast<double>(count);
    p.search[g].kept_mu = 0;
    p.search[g].kept = -1;
    p.search[g].result = p.search[g].result_at = -1;
    p.to.lambda[g] = value_of<T>(KeyOf<T>::kInfinity) + poison;
    p.to.base[g] = usable ? 1 : 0;
    p.to.risk[g] = poison;
    p.to.error[g] = poison;
  });
}

// Replaces the squared distances by K, sums the cubes of each row of K, and writes the Gaussian
// score to `best`. `again` is set when the score is computed a second time, at all samples. The
// kernel then writes only K and the sums, and skips groups that keep their first score. A warp
// takes a row, and blockIdx.y selects the groups. Work: reads and writes m² + m r values.
// Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) imq_rows_kernel(Adaptive<T> p, bool again) {
  const int lane = threadIdx.x % kWarp;
  const int64_t m = p.m, r = p.r;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    if (again && p.idle(g)) continue;
    const T sigma = p.to.bandwidth[g];
    for_each_row(m, [&](int64_t i) {
      T* const row = p.k + (g * m + i) * m;
      double sum = 0;
      for (int64_t l = lane; l < m; l += kWarp) {
        // There are two divisions, because σ² may underflow.
        const T k = 1 / sqrt(1 + row[l] / sigma / sigma);
        row[l] = k;
        sum += static_cast<double>(k * k * k);
      }
      sum = warp_sum(sum);
      if (lane == 0) p.cubes[g * m + i] = static_cast<T>(sum);
      if (again) return;
      for (int64_t j = lane; j < r; j += kWarp) {
        const int64_t at = (g * m + i) * r + j;
        p.best[at] = sigma == sigma ? (sigma == T(0) ? T(0) : -p.z[at]) : sigma;
      }
      if (lane == 0) p.to.divergence[g * m + i] = sigma - sigma;  // 0, or NaN
    });
  }
}

// The finish of a product (contraction.cuh) that stores [H z]. The sums are K³ z with the
// elementwise cube K³, and H = a (diag(K³1) z − K³ z).
template <typename T>
struct ImqGradientSum {
  using Sum = T;
  Adaptive<T> p;

  __device__ auto of(int64_t g, int64_t m, int64_t r) const {
    const T inverse_variance = saturate<T>(p.inverse_variance(g));
    const T* const points = p.z + g * m * r;
    const T* const cubes = p.cubes + g * m;
    T* const target = p.hz + g * m * p.n;
    const int64_t n = p.n;
    return [=](int64_t i, int64_t j, T sum) {
      const T z = points[i * r + j];
      target[i * n + j] = clamped(inverse_variance * (cubes[i] * z - sum));
      target[i * n + r + j] = z;
    };
  }
};

// --- the start ---

// Multiplies the start by the standard deviations of the columns, elementwise. Work: reads and
// writes m d values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4) scale_start_kernel(Adaptive<T> p) {
  const int64_t d = p.d, count = p.m * d;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y)
    grid_stride<kElementThreads>(count, [&](int64_t e) {
      const T inverse = p.w.inverse[g * d + e % d];
      p.start_scaled[g * count + e] =
          inverse > T(0) ? clamped(p.to.start[g * count + e] / inverse) : T(0);
    });
}

// The finish of a product (contraction.cuh) that stores R₀, the start in whitened coordinates, as
// the third block of [H z R₀].
template <typename T>
struct StoreStart {
  using Sum = T;
  Adaptive<T> p;

  __device__ auto of(int64_t g, int64_t m, int64_t r) const {
    T* const target = p.hz + g * m * p.n + 2 * r;
    const int64_t n = p.n;
    return [=](int64_t i, int64_t j, T sum) { target[i * n + j] = sum; };
  }
};

// Computes the risk of the start, ½|R₀|² − z·R₀ + δ, where δ is the divergence of R₀. Makes the
// start the result if its bound is below 0. A thread block takes a group, and a warp takes every
// eighth sample. Work: reads 3 m r values. Registers: at most 128.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 2) start_risk_kernel(Adaptive<T> p) {
  __shared__ double sums[kRowWarps];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t m = p.m, r = p.r;
  for (int64_t g = blockIdx.x; g < p.groups; g += gridDim.x) {
    __syncthreads();  // the risks of the previous group have been read
    if (p.idle(g)) continue;
    double* const risks = p.risks + g * p.bases * m;
    for (int64_t i = warp; i < m; i += kRowWarps) {
      double sum = 0;
      for (int64_t j = lane; j < r; j += kWarp) {
        const auto start = static_cast<double>(p.hz[(g * m + i) * p.n + 2 * r + j]);
        sum += start * (start / 2 - static_cast<double>(p.z[(g * m + i) * r + j]));
      }
      sum = warp_sum(sum);
      if (lane == 0) risks[i] = sum + static_cast<double>(p.to.start_divergence[g * m + i]);
    }
    __syncthreads();
    const MeanAndError risk =
        mean_risk(risks, p.thinning.kept + g * m, m, p.thinning.count[g], sums);
    const bool better = risk.mean + risk.error < 0;
    if (!better) continue;
    for (int64_t e = threadIdx.x; e < m * r; e += kRowThreads)
      p.best[g * m * r + e] += p.hz[(g * m + e / r) * p.n + 2 * r + e % r];
    for (int64_t i = threadIdx.x; i < m; i += kRowThreads)
      p.to.divergence[g * m + i] = p.to.start_divergence[g * m + i];
    if (threadIdx.x == 0) {
      p.search[g].start(risk.mean + risk.error);
      p.search[g].result = 2;
      p.to.base[g] = 2;
      p.to.risk[g] = static_cast<T>(risk.mean);
      p.to.error[g] = static_cast<T>(risk.error);
    }
  }
}

// --- one λ ---

// Computes A = K + μI, elementwise. Work: reads and writes m² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4) regularize_kernel(Adaptive<T> p) {
  const int64_t m = p.m;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    if (p.idle(g)) continue;
    const T mu = static_cast<T>(p.search[g].mu);
    grid_stride<kElementThreads>(m * m, [&](int64_t e) {
      const T k = p.k[g * m * m + e];
      p.inversion.a[g * m * m + e] = e % (m + 1) == 0 ? k + mu : k;
    });
  }
}

// The elementwise cube K³, or K³ ∘ B, as an operand of the tile engine (tile.cuh). Each value is
// computed from K when it is read.
template <typename T, bool kTimesB>
struct CubedOperand : Operand<T, true> {
  Operand<T, true> b;

  template <int kThreadTile>
  __device__ __forceinline__ void fetch(int64_t row0, int64_t k0, T (&values)[kThreadTile]) const {
    Operand<T, true>::template fetch<kThreadTile>(row0, k0, values);
#pragma unroll
    for (int e = 0; e < kThreadTile; ++e) values[e] *= values[e] * values[e];
    if constexpr (kTimesB) {
      T factors[kThreadTile];
      b.template fetch<kThreadTile>(row0, k0, factors);
#pragma unroll
      for (int e = 0; e < kThreadTile; ++e) values[e] *= factors[e];
    }
  }
};

// An operand of a product (contraction.cuh) with the values K_il³, or K_il³ B_il with kTimesB.
template <typename T, bool kTimesB = false>
struct Cubed {
  Rows<T> k, b{};

  __device__ auto at(int64_t g, int64_t row0) const {
    return CubedOperand<T, kTimesB>{k.at(g, row0), b.at(g, row0)};
  }
};
template <typename T, bool kTimesB>
int64_t depth_of(const Cubed<T, kTimesB>& left) {
  return left.k.depth;
}

}  // namespace mige::cuda
