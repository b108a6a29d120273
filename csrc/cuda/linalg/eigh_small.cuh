// The eigendecomposition's kernels for matrices that fit one warp or one block. What they do is in
// jacobi.cuh; larger matrices are in eigh_large.cuh.
#pragma once

#include "cuda/linalg/jacobi.cuh"

namespace mige::cuda {

// Which matrices: kGram is positive semi-definite with a unit diagonal, and its null space is given
// as zeros; kSymmetric is any, of which the lower triangle is read.
enum class Spectrum { kGram, kSymmetric };

template <typename T>
struct EighArguments {
  const T* k;  // [groups, n, n]
  int64_t groups;
  int n;
  const Key<T>* largest;  // [groups]: magnitude of the lower triangle, or of what K was made from
  T* values;              // [groups, n], ascending
  T* vectors;             // [groups, n, n], a vector a row
  int32_t* info;          // [groups] or nullptr
};

// largest[g] = the magnitude of the lower triangle, as a key. A block takes every gridDim.x-th row.
// Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads, 4)
    lower_magnitude_kernel(const T* __restrict__ k,  // [groups, n, n]
                           int64_t groups, int64_t n,
                           Key<T>* __restrict__ largest) {  // [groups], zeroed
  for (int64_t g = blockIdx.y; g < groups; g += gridDim.y) {
    Key<T> key = 0;
    for (int64_t i = blockIdx.x; i < n; i += gridDim.x)
      for (int64_t j = threadIdx.x; j <= i; j += kScaleThreads) {
        const Key<T> magnitude = key_of(k[(g * n + i) * n + j]) << 1 >> 1;
        key = magnitude > key ? magnitude : key;
      }
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const Key<T> other = __shfl_xor_sync(kFullMask, key, offset);
      key = other > key ? other : key;
    }
    if (threadIdx.x % kWarp == 0 && key > 0) atomicMax(&largest[g], key);
  }
}

// The power of two that brings the entries of a symmetric matrix below 2.
template <typename T>
__device__ __forceinline__ T matrix_scale(T magnitude) {
  return power_of_two<T>(-exponent_of(static_cast<double>(magnitude)));
}

// s = scale K + shift I, from the lower triangle of K.
template <typename Team, typename T>
__device__ void load_matrix(const Bench<T>& b, const T* k, T scale, T shift) {
  const int lane = Team::rank() % kWarp, n = b.n;
  for (int i = Team::rank() / kWarp; i < n; i += Team::size() / kWarp)
    for (int j = lane; j <= i; j += kWarp) {
      const T value = scale * k[static_cast<int64_t>(i) * n + j];
      b.s[i * b.pitch + j] = i == j ? value + shift : value;
      b.s[j * b.pitch + i] = i == j ? value + shift : value;
    }
  Team::sync();
}

// A bound of the magnitude of the eigenvalues, √‖K²‖_∞: for random entries it grows with n^¾,
// theirs with n^½, and Gershgorin's bound with n, each rounding error of which would stay in the
// results.
template <typename Team, typename T>
__device__ T eigenvalue_bound(const Bench<T>& b) {
  const int lane = Team::rank() % kWarp, n = b.n;
  for (int i = Team::rank() / kWarp; i < n; i += Team::size() / kWarp) {
    T sum = 0;
    for (int j = lane; j < n; j += kWarp) {
      T dot = 0;
      for (int k = 0; k < n; ++k) dot += b.s[k * b.pitch + i] * b.s[k * b.pitch + j];
      sum += dot < T(0) ? -dot : dot;
    }
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
      sum += __shfl_xor_sync(kFullMask, sum, offset);
    if (lane == 0) b.norm[i] = sum;
  }
  Team::sync();
  T largest = 0;
  for (int i = 0; i < n; ++i) largest = b.norm[i] > largest ? b.norm[i] : largest;
  Team::sync();
  return sqrt(largest);
}

// K of one group as its Cholesky factor in s; the shift that it took. The rank, or kNotFinite.
template <typename Team, Spectrum kSpectrum, typename T>
__device__ int factorise(const Bench<T>& b, const T* k, T magnitude, T scale, T& shift) {
  shift = 0;
  if (!(magnitude == magnitude)) return kNotFinite;
  if (kSpectrum == Spectrum::kGram) {
    load_matrix<Team>(b, k, scale, T(0));
    return pivoted_cholesky<Team>(b, kGramStop<T>);
  }
  shift = small_shift<T>(b.n);
  load_matrix<Team>(b, k, scale, shift);
  // Of a semi-definite matrix every pivot is at least the shift, up to rounding.
  const int rank = pivoted_cholesky<Team>(b, shift / 4);
  if (rank == b.n) return rank;
  load_matrix<Team>(b, k, scale, T(0));
  shift += eigenvalue_bound<Team>(b);
  load_matrix<Team>(b, k, scale, shift);
  return pivoted_cholesky<Team>(b, T(0));
}

// --- a warp a matrix, n <= 32 ---

constexpr int kWarpsABlock = 4;
constexpr int kWarpPitch = kWarp + 1;

// Shared memory: 4.5 KiB in float and 8.8 KiB in double for a matrix. Registers: at most 168 in
// float, 255 in double.
template <typename T, Spectrum kSpectrum>
__global__ void __launch_bounds__(kWarpsABlock* kWarp, sizeof(T) == 4 ? 3 : 2)
    eigh_warp_kernel(EighArguments<T> p) {
  __shared__ __align__(16) T memory[kWarpsABlock][kWarp * kWarpPitch + 2 * kWarp + 4];
  static_assert(sizeof(memory) <= 48 * 1024, "static shared memory");
  const int lane = threadIdx.x % kWarp;
  const auto b = Bench<T>::at(memory[threadIdx.x / kWarp], p.n, kWarpPitch);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarpsABlock;
  for (int64_t g = blockIdx.x * int64_t(kWarpsABlock) + threadIdx.x / kWarp; g < p.groups;
       g += stride) {
    const int64_t size = static_cast<int64_t>(p.n) * p.n;
    const T magnitude = magnitude_of<T>(p.largest[g]);
    const T scale = kSpectrum == Spectrum::kGram ? T(1) : matrix_scale(magnitude);
    T shift;
    int sweeps = factorise<WarpTeam, kSpectrum>(b, p.k + g * size, magnitude, scale, shift);
    if (sweeps >= 0) {
      T own[kWarp];
#pragma unroll
      for (int e = 0; e < kWarp; ++e)
        own[e] = e < p.n && lane < p.n ? b.s[lane * kWarpPitch + e] : T(0);
      sweeps = jacobi_in_registers(own);
#pragma unroll
      for (int e = 0; e < kWarp; ++e)
        if (e < p.n && lane < p.n) b.s[lane * kWarpPitch + e] = own[e];
      __syncwarp();
      column_norms<WarpTeam>(b);
    } else {
      for (int i = lane; i < p.n; i += kWarp) {
        b.norm[i] = 0;
        b.row[i] = i;
      }
      __syncwarp();
    }
    write_sorted<WarpTeam>(b, shift, scale, sweeps < 0, p.values + g * p.n, p.vectors + g * size);
    if (p.info && lane == 0) p.info[g] = sweeps;
    __syncwarp();  // before the next matrix overwrites this one
  }
}

// --- a block a matrix ---

constexpr int kLargestBench = 32 * kHeld;

template <int kLanes>
constexpr int kBenchThreads = kLanes == 8 ? 256 : 512;

// Columns start on different banks for the 32 / kLanes pairs of a warp.
template <int kLanes>
__host__ __device__ constexpr int bench_pitch(int n) {
  if (kLanes == 32) return n | 1;  // a warp a column; odd, for the row swaps of Cholesky
  const int pitch = n / 32 * 32 + kLanes;
  return pitch >= n ? pitch : pitch + 32;
}

template <typename T>
size_t bench_size(int n) {
  const int pitch =
      n <= 64 ? bench_pitch<8>(n) : (n <= 128 ? bench_pitch<16>(n) : bench_pitch<32>(n));
  return Bench<T>::size(n, pitch);
}

template <typename T, int kLanes>
constexpr int kBenchBlocks = (kLanes == 8 ? 2 : 1) * (sizeof(T) == 4 && kLanes < 32 ? 2 : 1);

// Shared memory: n × pitch values, where a pitch is less than n + 32: 227 KiB hold n = 239 in
// float. Float up to n = 128 keeps to 64 registers, so that four blocks of 256 threads or two of
// 512 share a multiprocessor. Registers: at most 128 in float and 128 in double.
template <typename T, Spectrum kSpectrum, int kLanes>
__global__ void __launch_bounds__(kBenchThreads<kLanes>, kBenchBlocks<T, kLanes>)
    eigh_block_kernel(EighArguments<T> p) {
  const auto b = Bench<T>::at(dynamic_smem<T>(), p.n, bench_pitch<kLanes>(p.n));
  for (int64_t g = blockIdx.x; g < p.groups; g += gridDim.x) {
    const int64_t size = static_cast<int64_t>(p.n) * p.n;
    const T magnitude = magnitude_of<T>(p.largest[g]);
    const T scale = kSpectrum == Spectrum::kGram ? T(1) : matrix_scale(magnitude);
    T shift;
    int sweeps = factorise<BlockTeam, kSpectrum>(b, p.k + g * size, magnitude, scale, shift);
    if (sweeps >= 0) {
      sweeps = jacobi<kLanes>(b, sweeps);
      column_norms<BlockTeam>(b);
    } else {
      for (int i = threadIdx.x; i < p.n; i += blockDim.x) {
        b.norm[i] = 0;
        b.row[i] = i;
      }
      __syncthreads();
    }
    write_sorted<BlockTeam>(b, shift, scale, sweeps < 0, p.values + g * p.n, p.vectors + g * size);
    if (p.info && threadIdx.x == 0) p.info[g] = sweeps;
    __syncthreads();  // before the next matrix overwrites this one
  }
}

}  // namespace mige::cuda
