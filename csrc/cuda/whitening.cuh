// Ridge whitening: standardised samples V [m, d], the eigenvalues λ and eigenvectors of their
// correlations, and the ridge τ that chooses itself.
//
// Correlations R = VᵀV/m = U Λ Uᵀ if d <= m. Otherwise the dual G = VVᵀ/m = Q Λ Qᵀ, with the same
// nonzero eigenvalues and U = Vᵀ Q (mΛ)^{-1/2}; d − m eigenvalues are zero. The samples in the
// eigenvectors' coordinates are Y = V U, or (mΛ)^{1/2} Q: [m, r], r = min(m, d).
//
// τ is `factor` times the minimiser of the leave-one-out Hyvärinen objective of the Gaussian score
// (mige_ext.ops.ridge_whitening), over a grid in log10 τ with a parabola through its lowest point,
// in double precision: the objective is a difference of large terms.
#pragma once

#include "contraction.cuh"
#include "launchers.h"

namespace mige::cuda {

// log10 of the τ that are tried: from kRidgeLowest to kRidgeHighest in kRidgeTried points.
constexpr int kRidgeTried = 26;
constexpr double kRidgeLowest = -4, kRidgeHighest = 1;
constexpr double kRidgeStep = (kRidgeHighest - kRidgeLowest) / (kRidgeTried - 1);
constexpr int kRidgeRows = kWarp;   // samples of a block of the objective
constexpr int kRidgeThreads = 256;  // a thread: one sample, kRidgeOwn values of τ
constexpr int kRidgeOwn = 4;
static_assert(kRidgeThreads / kWarp * kRidgeOwn >= kRidgeTried && kRidgeTried <= kWarp, "τ");

template <typename T>
struct Whitening {
  const T* x;  // [groups, m, d]
  int64_t groups, m, d;
  double factor;
  Key<T>* largest;    // [groups], magnitudes of x
  T* inverse;         // [groups, d]: 1 / standard deviations, 0 for constant columns
  T* v;               // [groups, m, d]
  T* gram;            // [groups, r, r]: R or G; free afterwards
  T* values;          // [groups, r], ascending
  T* vectors;         // [groups, r, r], a vector a row
  T* y;               // [groups, m, r]
  double* objective;  // [groups, blocks, kWarp]: sums over 32 samples, for every τ
  void* spectral;

  __host__ __device__ __forceinline__ bool dual() const { return d > m; }
  __host__ __device__ __forceinline__ int64_t r() const { return dual() ? m : d; }
  __host__ __device__ __forceinline__ int64_t blocks() const { return divide_up(m, kRidgeRows); }
};

template <typename T>
Whitening<T> whitening_layout(WorkSpace& space, int64_t groups, int64_t m, int64_t d) {
  Whitening<T> w{};
  w.groups = groups;
  w.m = m;
  w.d = d;
  const int64_t r = w.r();
  w.largest = space.take<Key<T>>(groups);
  w.inverse = space.take<T>(groups * d);
  w.v = space.take<T>(groups * m * d);
  w.gram = space.take<T>(groups * r * r);
  w.values = space.take<T>(groups * r);
  w.vectors = space.take<T>(groups * r * r);
  w.y = space.take<T>(groups * m * r);
  w.objective = space.take<double>(groups * w.blocks() * kWarp);
  w.spectral = space.take<char>(eigh_work<T>(groups, r));
  return w;
}

// λ_j of the dual, 0 where it is rounding error: the samples' mean has been taken off, so there is
// at least one.
template <typename T>
__device__ __forceinline__ T dual_eigenvalue(const T* values,  // [m], ascending
                                             int64_t m, int64_t j) {
  constexpr T kRoundingErrors = 8 * kEpsilon<T>;
  return values[j] <= kRoundingErrors * values[m - 1] ? T(0) : values[j];
}

// --- standardised samples
// -----------------------------------------------------------------------------

constexpr int kColumnRows = kScaleThreads / kWarp;

// Over the rows of the block's 32 columns: the sum of a thread's values, the same in all threads of
// a column, in a fixed order. A barrier before a second use is the caller's.
__device__ __forceinline__ double column_sum(double value, double (*sums)[kWarp]) {
  const int lane = threadIdx.x % kWarp;
  sums[threadIdx.x / kWarp][lane] = value;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < kColumnRows; ++w) total += sums[w][lane];
  return total;
}

// v = (x − mean) / deviation, the mean, and 1 / deviation. Columns that are exactly constant have
// v = 0 and an inverse of 0: the centre that is taken off first is one of their values. A block
// takes 32 columns, a warp every eighth row. Work: reads m d values three times, writes them once.
// Shared memory: 4 KiB. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads, 4)
    standardise_kernel(Whitening<T> p, T* __restrict__ means) {  // [groups, d] or nullptr
  __shared__ double sums[2][kColumnRows][kWarp];
  const int64_t m = p.m, d = p.d;
  const int64_t c = blockIdx.x * int64_t(kWarp) + threadIdx.x % kWarp;
  const int64_t first = threadIdx.x / kWarp;
  for (int64_t g = blockIdx.z; g < p.groups; g += gridDim.z) {
    const T magnitude = magnitude_of<T>(p.largest[g]);
    const T poison = magnitude - magnitude;  // 0, or NaN
    const T scale = normal_scale(magnitude);
    const T* const x = p.x + g * m * d + c;
    const T centre = c < d ? column_centre(p.x + g * m * d, m, d, c, scale) : T(0);
    double sum = 0;
    for (int64_t i = first; i < m && c < d; i += kColumnRows)
      sum += static_cast<double>(scale * x[i * d] - centre);
    const double mean = column_sum(sum, sums[0]) / static_cast<double>(m);
    sum = 0;
    for (int64_t i = first; i < m && c < d; i += kColumnRows) {
      const double left = static_cast<double>(scale * x[i * d] - centre) - mean;
      sum += left * left;
    }
    const double variance = column_sum(sum, sums[1]) / static_cast<double>(m);
    const double inverse = variance > 0 ? 1 / sqrt(variance) : 0;
    for (int64_t i = first; i < m && c < d; i += kColumnRows) {
      const double left = static_cast<double>(scale * x[i * d] - centre) - mean;
      p.v[(g * m + i) * d + c] = static_cast<T>(left * inverse) + poison;
    }
    if (first == 0 && c < d) {
      p.inverse[g * d + c] = saturate<T>(inverse * static_cast<double>(scale)) + poison;
      if (means)
        means[g * d + c] =
            saturate<T>((static_cast<double>(centre) + mean) / static_cast<double>(scale)) + poison;
    }
    __syncthreads();  // before the next group's sums
  }
}

// --- products
// -----------------------------------------------------------------------------

// R_ij = Σ_k v_ki v_kj / m, summed in double: with m near d the smallest eigenvalues are of the
// size of the rounding errors of long sums, and W is their inverse root.
template <typename T>
struct CorrelationForm {
  using Sum = double;
  Whitening<T> w;
  __device__ bool idle(int64_t) const { return false; }
  __device__ auto left(int64_t g, int64_t) const {
    return columns_of(w.v + g * w.m * w.d, w.m, w.d);
  }
  __device__ auto right(int64_t g, int64_t) const { return left(g, 0); }
  __device__ void finish(int64_t g, int64_t i, int64_t j, double sum) const {
    w.gram[(g * w.d + i) * w.d + j] = static_cast<T>(sum / static_cast<double>(w.m));
  }
};

// G_ij = Σ_k v_ik v_jk / m.
template <typename T>
struct DualForm {
  using Sum = double;
  Whitening<T> w;
  __device__ bool idle(int64_t) const { return false; }
  __device__ auto left(int64_t g, int64_t) const { return rows_of(w.v + g * w.m * w.d, w.m, w.d); }
  __device__ auto right(int64_t g, int64_t) const { return left(g, 0); }
  __device__ void finish(int64_t g, int64_t i, int64_t j, double sum) const {
    w.gram[(g * w.m + i) * w.m + j] = static_cast<T>(sum / static_cast<double>(w.m));
  }
};

// Y = V U.
template <typename T>
struct CoordinatesForm {
  using Sum = T;
  Whitening<T> w;
  __device__ bool idle(int64_t) const { return false; }
  __device__ auto left(int64_t g, int64_t) const { return rows_of(w.v + g * w.m * w.d, w.m, w.d); }
  __device__ auto right(int64_t g, int64_t) const {
    return rows_of(w.vectors + g * w.d * w.d, w.d, w.d);
  }
  __device__ void finish(int64_t g, int64_t i, int64_t j, T sum) const {
    w.y[(g * w.m + i) * w.d + j] = sum;
  }
};

// Y = Q (mΛ)^{1/2}. A thread takes every gridDim.x-th of a group's elements. Work: reads and writes
// m² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(256, 4) dual_coordinates_kernel(Whitening<T> w) {
  const int64_t m = w.m;
  for (int64_t g = blockIdx.y; g < w.groups; g += gridDim.y)
    for (int64_t e = blockIdx.x * int64_t(256) + threadIdx.x; e < m * m;
         e += int64_t(gridDim.x) * 256) {
      const int64_t i = e / m, j = e % m;
      const T lambda = dual_eigenvalue(w.values + g * m, m, j);
      w.y[g * m * m + e] = sqrt(static_cast<T>(m) * lambda) * w.vectors[(g * m + j) * m + i];
    }
}

// --- the ridge
// -----------------------------------------------------------------------------

// 10^exponent; of a power of ten and a small exponent, or the error would grow with the exponent.
__device__ __forceinline__ double ridge_at(double exponent) {
  constexpr double kLn10 = 2.302585092994045684;
  const double whole = ceil(exponent);
  double power = 1;
  for (double k = whole < 0 ? -whole : whole; k > 0; --k) power *= 10;
  const double rest = exp_nonpositive((exponent - whole) * kLn10);
  return whole < 0 ? rest / power : rest * power;
}

__device__ __forceinline__ double shrunk(double lambda, double tau, int64_t m) {
  const double c1 = static_cast<double>(m) / static_cast<double>(m - 1);
  return 1 / (c1 * (lambda > 0 ? lambda : (lambda == lambda ? 0 : lambda)) + tau);
}

// Σ over 32 samples of ½ c₁² q2_i / (1 − c₂ q_i)² − c₂ q2_i / (1 − c₂ q_i) for every τ, with
// q_i = Σ_j y_ij² a_j, q2_i = Σ_j y_ij² a_j², a = 1 / (c₁λ + τ). A block takes 32 samples, a thread
// one of them and four τ. Work: 4 × 32 m r flop in double; reads m r values. Shared memory: 12.2
// KiB in float, 16.3 KiB in double. Registers: at most 128.
template <typename T>
__global__ void __launch_bounds__(kRidgeThreads, 2) ridge_objective_kernel(Whitening<T> w) {
  __shared__ T squares[kRidgeRows][kWarp + 1];
  __shared__ double weights[kWarp][kWarp];  // a_j, for every τ
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t m = w.m, r = w.r(), row0 = blockIdx.x * int64_t(kRidgeRows);
  const double tau = ridge_at(kRidgeLowest + kRidgeStep * (lane < kRidgeTried ? lane : 0));
  for (int64_t g = blockIdx.z; g < w.groups; g += gridDim.z) {
    double q[kRidgeOwn] = {}, q2[kRidgeOwn] = {};
    for (int64_t j0 = 0; j0 < r; j0 += kWarp) {
      __syncthreads();  // the columns before have been used
      for (int e = warp; e < kWarp; e += kRidgeThreads / kWarp) {
        const int64_t i = row0 + e;
        const T y = i < m && j0 + lane < r ? w.y[(g * m + i) * r + j0 + lane] : T(0);
        squares[e][lane] = y * y;
        weights[e][lane] =
            j0 + e < r ? shrunk(static_cast<double>(w.values[g * r + j0 + e]), tau, m) : 0;
      }
      __syncthreads();
      for (int j = 0; j < kWarp; ++j) {
        const auto square = static_cast<double>(squares[lane][j]);
#pragma unroll
        for (int e = 0; e < kRidgeOwn; ++e) {
          const double weight = weights[j][warp * kRidgeOwn + e];
          q[e] += square * weight;
          q2[e] += square * weight * weight;
        }
      }
    }
    const double left_out = static_cast<double>(m - 1);
    const double c1 = static_cast<double>(m) / left_out, c2 = c1 / left_out;
#pragma unroll
    for (int e = 0; e < kRidgeOwn; ++e) {
      // Positive in exact arithmetic: at least τ / (τ + c₂‖v_i‖²).
      const double exact = 1 - c2 * q[e];
      const double left = exact < kEpsilon<T> ? static_cast<double>(kEpsilon<T>) : exact;
      const double value = (c1 * c1 * q2[e] / (2 * left) - c2 * q2[e]) / left;
      const double sum = warp_sum(row0 + lane < m ? value : 0.0);
      if (lane == 0)
        w.objective[(g * w.blocks() + blockIdx.x) * kWarp + warp * kRidgeOwn + e] = sum;
    }
  }
}

// τ of every group. A block takes a group: a lane takes one τ of the grid, the warps share samples
// and eigenvalues. Shared memory: 4 KiB. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRidgeThreads, 4)
    ridge_choice_kernel(Whitening<T> w, T* __restrict__ ridge) {  // [groups]
  __shared__ double parts[kColumnRows][kWarp], traces[kColumnRows][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t m = w.m, r = w.r();
  const double tau = ridge_at(kRidgeLowest + kRidgeStep * (lane < kRidgeTried ? lane : 0));
  for (int64_t g = blockIdx.x; g < w.groups; g += gridDim.x) {
    double part = 0, trace = 0;
    for (int64_t b = warp; b < w.blocks(); b += kColumnRows)
      part += w.objective[(g * w.blocks() + b) * kWarp + lane];
    for (int64_t j = warp; j < r; j += kColumnRows)
      trace += shrunk(static_cast<double>(w.values[g * r + j]), tau, m);
    const double total = column_sum(part, parts) / static_cast<double>(m);
    const double all = column_sum(trace, traces) + static_cast<double>(w.d - r) / tau;
    __syncthreads();  // all have added them up
    if (warp == 0) parts[0][lane] = total - all;
    __syncthreads();
    if (threadIdx.x == 0) {
      const double* const values = parts[0];
      int least = 0;
      for (int t = 1; t < kRidgeTried; ++t) least = values[t] < values[least] ? t : least;
      double at = least;
      if (least > 0 && least < kRidgeTried - 1) {
        const double left = values[least - 1], right = values[least + 1];
        const double curvature = left - 2 * values[least] + right;
        if (curvature > 0) at += (left - right) / (2 * curvature);
      }
      const T magnitude = magnitude_of<T>(w.largest[g]);
      ridge[g] = saturate<T>(w.factor * ridge_at(kRidgeLowest + kRidgeStep * at)) +
                 (magnitude - magnitude);
    }
    __syncthreads();  // before the next group's sums
  }
}

// --- filtered eigenvectors
// -----------------------------------------------------------------------------

// What a row of eigenvectors is multiplied with.
enum class RidgeFilter {
  kWhitening,      // (λ+τ)^{-1/4}: W is a product of the result with itself
  kDualWhitening,  // the root of (τ^{-1/2} − (λ+τ)^{-1/2}) / mλ, without that cancellation
  kScore,          // (λ+τ)^{-1/2}
  kDualScore       // (λ+τ)^{-1/2} (mλ)^{-1/2}, 0 for the null space
};

template <typename T>
__device__ __forceinline__ T filtered(RidgeFilter filter, T lambda, T tau, int64_t m) {
  const T inner = sqrt((lambda > T(0) ? lambda : T(0)) + tau), root = sqrt(tau);
  const auto count = static_cast<T>(m);
  switch (filter) {
    case RidgeFilter::kWhitening:
      return 1 / sqrt(inner);
    case RidgeFilter::kDualWhitening:
      return 1 / sqrt(count * root * inner * (root + inner));
    case RidgeFilter::kScore:
      return 1 / inner;
    default:
      return lambda == T(0) ? T(0) : 1 / (inner * sqrt(count * lambda));
  }
}

// out_jc = filter(λ_j) vectors_jc. A thread takes every gridDim.x-th of a group's elements. Work:
// reads and writes r² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(256, 4)
    filter_vectors_kernel(Whitening<T> w, RidgeFilter filter,
                          const T* __restrict__ ridge,  // [groups]
                          T* __restrict__ out) {        // [groups, r, r]
  const int64_t r = w.r();
  for (int64_t g = blockIdx.y; g < w.groups; g += gridDim.y)
    for (int64_t e = blockIdx.x * int64_t(256) + threadIdx.x; e < r * r;
         e += int64_t(gridDim.x) * 256) {
      const T* const values = w.values + g * r;
      const T lambda = w.dual() ? dual_eigenvalue(values, r, e / r) : values[e / r];
      out[g * r * r + e] = filtered(filter, lambda, ridge[g], w.m) * w.vectors[g * r * r + e];
    }
}

// Qᵀ V with Q's columns filtered: [m, m] × [m, d].
template <typename T>
struct DualProjectionForm {
  using Sum = T;
  Whitening<T> w;
  const T* filtered;  // [groups, m, m]
  T* out;             // [groups, m, d]
  __device__ bool idle(int64_t) const { return false; }
  __device__ auto left(int64_t g, int64_t) const {
    return rows_of(filtered + g * w.m * w.m, w.m, w.m);
  }
  __device__ auto right(int64_t g, int64_t) const {
    return columns_of(w.v + g * w.m * w.d, w.m, w.d);
  }
  __device__ void finish(int64_t g, int64_t i, int64_t j, T sum) const {
    out[(g * w.m + i) * w.d + j] = sum;
  }
};

// --- launchers
// -----------------------------------------------------------------------------

inline dim3 elementwise_grid(int64_t count, int64_t groups) {
  const int64_t blocks = divide_up(count, 256);
  return dim3(static_cast<unsigned>(blocks < 4096 ? blocks : 4096), grid_z(groups));
}

// Everything of `w`, the means and τ.
template <typename T>
int whiten(const Whitening<T>& w, T* means, T* ridge, void* stream) {
  const int64_t groups = w.groups, m = w.m, d = w.d, r = w.r();
  const int64_t columns = divide_up(d, kWarp);
  if (columns > kLargestGridX || w.blocks() > kLargestGridX)
    return static_cast<int>(cudaErrorInvalidConfiguration);
  int failed = largest_magnitudes<T>(w.x, m * d, nullptr, 0, groups, w.largest, stream);
  if (!failed)
    failed = launch(standardise_kernel<T>, dim3(static_cast<unsigned>(columns), 1, grid_z(groups)),
                    dim3(kScaleThreads), 0, stream, w, means);
  if (!failed)
    failed = w.dual() ? contract<T>(DualForm<T>{w}, groups, m, m, stream)
                      : contract<T>(CorrelationForm<T>{w}, groups, d, d, stream);
  if (!failed)
    failed = eigh<T>(w.gram, groups, r, w.values, w.vectors, nullptr, w.spectral, stream);
  if (!failed)
    failed = w.dual() ? launch(dual_coordinates_kernel<T>, elementwise_grid(m * m, groups),
                               dim3(256), 0, stream, w)
                      : contract<T>(CoordinatesForm<T>{w}, groups, m, d, stream);
  if (!failed)
    failed = launch(ridge_objective_kernel<T>,
                    dim3(static_cast<unsigned>(w.blocks()), 1, grid_z(groups)), dim3(kRidgeThreads),
                    0, stream, w);
  if (!failed)
    failed = launch(ridge_choice_kernel<T>, dim3(grid_z(groups)), dim3(kRidgeThreads), 0, stream, w,
                    ridge);
  return failed;
}

// out = the filtered eigenvectors, a vector a row: of R, [r, r], or of G times V, [m, d].
template <typename T>
int filter_vectors(const Whitening<T>& w, RidgeFilter filter, const T* ridge, T* out,
                   void* stream) {
  const int64_t r = w.r();
  T* const filtered = w.dual() ? w.gram : out;
  int failed = launch(filter_vectors_kernel<T>, elementwise_grid(r * r, w.groups), dim3(256), 0,
                      stream, w, filter, ridge, filtered);
  if (!failed && w.dual())
    failed = contract<T>(DualProjectionForm<T>{w, filtered, out}, w.groups, w.m, w.d, stream);
  return failed;
}

}  // namespace mige::cuda
