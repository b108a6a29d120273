// A whole SSGE score in one launch, for groups small enough for one block's shared memory:
// distances, median, Gram matrix, gradient sum, Cholesky, Jacobi, rank and filter, with K never in
// global memory.
//
// The block keeps S [m, pitch], which is in turn the distances, K, its Cholesky factor L and its
// scaled eigenvectors A; samples and H pass by in slices of 16 columns. `out` holds H in between.
//
// Work: that of the steps, about 1.5 m² d + 2 m² d + 7 sweeps × 5 m³ + 4 m² d flop; reads 2 m d
// values from global memory and moves 3 m d of `out`. Shared memory: ssge_fused_size.
#pragma once

#include "cuda/linalg/eigh_small.cuh"
#include "cuda/linalg/jacobi.cuh"
#include "cuda/ssge/ssge.cuh"

namespace mige::cuda {

constexpr int kLargestFused = 128;
constexpr int kFusedSlice = 16;

// Rows of a slice, padded so that fours of them are aligned.
__host__ __device__ constexpr int fused_rows(int m) { return (m + 3) / 4 * 4 + 4; }

template <typename T, int kLanes>
struct FusedMemory {
  T* s;                     // the bench's
  T* slice;                 // [kFusedSlice, rows]
  T* other;                 // [kFusedSlice, rows]
  T* row_sum;               // [m]
  T* factor;                // [m]
  Count* sums;              // [kSelectThreads]
  unsigned* counts;         // [kDigits]
  Selection<T>* selection;  // [1]
  Key<T>* largest;          // [1]
  int64_t* rank;            // [1]
  size_t size;

  __host__ __device__ FusedMemory(void* start, int m) : size(0) {
    const int rows = fused_rows(m);
    char* const memory = static_cast<char*>(start);
    const auto take = [&](size_t bytes) {
      char* const at = memory + size;
      size += (bytes + 15) / 16 * 16;
      return at;
    };
    s = reinterpret_cast<T*>(take(Bench<T>::size(m, bench_pitch<kLanes>(m))));
    slice = reinterpret_cast<T*>(take(sizeof(T) * kFusedSlice * rows));
    other = reinterpret_cast<T*>(take(sizeof(T) * kFusedSlice * rows));
    row_sum = reinterpret_cast<T*>(take(sizeof(T) * m));
    factor = reinterpret_cast<T*>(take(sizeof(T) * m));
    sums = reinterpret_cast<Count*>(take(sizeof(Count) * kSelectThreads));
    counts = reinterpret_cast<unsigned*>(take(sizeof(unsigned) * kDigits));
    selection = reinterpret_cast<Selection<T>*>(take(sizeof(Selection<T>)));
    largest = reinterpret_cast<Key<T>*>(take(sizeof(Key<T>)));
    rank = reinterpret_cast<int64_t*>(take(sizeof(int64_t)));
  }
};

template <typename T>
size_t ssge_fused_size(int m) {
  alignas(16) static char nowhere;
  return m <= 64 ? FusedMemory<T, 8>(&nowhere, m).size : FusedMemory<T, 16>(&nowhere, m).size;
}

// slice[c, i] = value(i, c0 + c); zero outside.
template <typename T, typename F>
__device__ __forceinline__ void fill_slice(T* slice, int m, int64_t c0, int64_t d, const F& value) {
  const int rows = fused_rows(m);
  for (int e = threadIdx.x; e < kFusedSlice * rows; e += blockDim.x) {
    const int c = e % kFusedSlice, i = e / kFusedSlice;
    slice[c * rows + i] = i < m && c0 + c < d ? value(i, c0 + c) : T(0);
  }
}

// S += the squared distances of one slice, 4×4 pairs a thread, on and above the diagonal.
template <typename T>
__device__ void add_distances(T* s, int pitch, const T* slice, int m) {
  const int rows = fused_rows(m), fours = (m + 3) / 4;
  for (int e = threadIdx.x; e < fours * fours; e += blockDim.x) {
    const int i0 = e % fours * 4, j0 = e / fours * 4;
    if (i0 > j0) continue;
    T sum[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        sum[i][j] = i0 + i < m && j0 + j < m ? s[(j0 + j) * pitch + i0 + i] : T(0);
#pragma unroll 2
    for (int c = 0; c < kFusedSlice; ++c) {
      const auto a = *reinterpret_cast<const Quad<T>*>(slice + c * rows + i0);
      const auto b = *reinterpret_cast<const Quad<T>*>(slice + c * rows + j0);
      SquaredDifference{}(sum, a.v, b.v);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (i0 + i < m && j0 + j < m) s[(j0 + j) * pitch + i0 + i] = sum[i][j];
  }
}

// The wanted order statistic of the entries i < j of S: σ² in units of the scale.
template <typename T, int kLanes>
__device__ T select_square(const FusedMemory<T, kLanes>& at, int m, int pitch, double quantile) {
  if (threadIdx.x == 0) at.selection->zeros = 0;
  for (int round = 0; round < kSelectRounds<T>; ++round) {
    for (int i = threadIdx.x; i < kDigits; i += blockDim.x) at.counts[i] = 0;
    __syncthreads();
    const Key<T> prefix = round == 0 ? 0 : at.selection->prefix;
    for (int e = threadIdx.x; e < m * m; e += blockDim.x) {
      const int i = e % m, j = e / m;
      if (i >= j) continue;
      const Key<T> key = key_of(at.s[j * pitch + i]) << 1 >> 1;
      if (round == 0 && key == 0) atomicAdd(&at.selection->zeros, Count(1));
      if (matches<T>(key, prefix, round)) atomicAdd(&at.counts[digit_of<T>(key, round)], 1u);
    }
    __syncthreads();
    pick_digit<T>(at.counts, at.selection, at.sums, round, m, quantile);
    __syncthreads();
  }
  return value_of<T>(at.selection->prefix);
}

template <typename T, int kLanes>
constexpr int kFusedThreads = sizeof(T) == 4 ? kBenchThreads<kLanes> : 256;

// Registers: at most 128 in float, 255 in double.
template <typename T, int kLanes>
__global__ void __launch_bounds__(kFusedThreads<T, kLanes>, sizeof(T) == 4 && kLanes == 8 ? 2 : 1)
    ssge_fused_kernel(SsgeArguments<T> p) {
  const int m = p.m, pitch = bench_pitch<kLanes>(m), rows = fused_rows(m), fours = (m + 3) / 4;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const FusedMemory<T, kLanes> at(dynamic_smem<T>(), m);
  const auto bench = Bench<T>::at(at.s, m, pitch);

  for (int64_t g = blockIdx.x; g < p.groups; g += gridDim.x) {
    const T* const x = p.x + g * m * p.d;
    T* const out = p.out + g * m * p.d;

    // --- the size of the samples
    if (threadIdx.x == 0) *at.largest = 0;
    for (int e = threadIdx.x; e < m * pitch; e += blockDim.x) at.s[e] = 0;
    __syncthreads();
    Key<T> key = 0;
    for (int64_t i = threadIdx.x; i < m * p.d; i += blockDim.x) {
      const Key<T> magnitude = key_of(x[i]) << 1 >> 1;
      key = magnitude > key ? magnitude : key;
    }
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const Key<T> other = __shfl_xor_sync(kFullMask, key, offset);
      key = other > key ? other : key;
    }
    if (lane == 0) atomicMax(at.largest, key);
    __syncthreads();
    const T magnitude = magnitude_of<T>(*at.largest);
    const T scale = normal_scale(magnitude);
    const auto centred = [&](int i, int64_t c) {
      return scale * x[i * p.d + c] - column_centre(x, m, p.d, c, scale);
    };

    // --- distances, bandwidth, Gram matrix
    for (int64_t c0 = 0; c0 < p.d; c0 += kFusedSlice) {
      fill_slice(at.slice, m, c0, p.d, centred);
      __syncthreads();
      add_distances(at.s, pitch, at.slice, m);
      __syncthreads();
    }
    T sigma;
    if (p.given) {
      sigma = checked_bandwidth(p.given[g]);
    } else {
      const T square = select_square(at, m, pitch, p.options.quantile);
      sigma = bandwidth_of(square, scale, p.options.multiplier, kSmallestNormal<T>, magnitude);
    }
    const T gamma = gamma_of(sigma, magnitude);
    if (threadIdx.x == 0) p.bandwidth[g] = sigma;
    if (sigma == T(0) || !(gamma == gamma)) {  // equal samples, or no bandwidth; the whole block
      const T instead = sigma == T(0) ? T(0) : gamma;
      for (int64_t i = threadIdx.x; i < m * p.d; i += blockDim.x) out[i] = instead;
      for (int i = threadIdx.x; i < m; i += blockDim.x) p.values[g * m + i] = instead;
      if (threadIdx.x == 0) p.rank[g] = 0;
      __syncthreads();
      continue;
    }
    for (int e = threadIdx.x; e < m * m; e += blockDim.x) {
      const int i = e % m, j = e / m;
      if (i > j) continue;
      const T value = rbf(at.s[j * pitch + i], gamma);
      at.s[j * pitch + i] = value;
      at.s[i * pitch + j] = value;
    }
    __syncthreads();

    // --- H = −(K X − diag(K 1) X) / σ², kept in `out`
    for (int j = warp; j < m; j += warps) {
      T sum = 0;
      for (int i = lane; i < m; i += kWarp) sum += at.s[j * pitch + i];
      for (int offset = kWarp / 2; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(kFullMask, sum, offset);
      if (lane == 0) at.row_sum[j] = sum;
    }
    const T inverse_variance = ScaledBandwidth<T>(sigma, scale).inverse_variance;
    for (int64_t c0 = 0; c0 < p.d; c0 += kFusedSlice) {
      fill_slice(at.slice, m, c0, p.d, centred);
      __syncthreads();
      for (int e = threadIdx.x; e < fours * kFusedSlice; e += blockDim.x) {
        const int c = e % kFusedSlice, j0 = e / kFusedSlice * 4;
        T sum[4] = {};
#pragma unroll 2
        for (int i = 0; i < m; ++i) {
          const auto k = *reinterpret_cast<const Quad<T>*>(at.s + i * pitch + j0);
          const T value = at.slice[c * rows + i];
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[j] += k.v[j] * value;
        }
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (j0 + j < m && c0 + c < p.d)
            out[(j0 + j) * p.d + c0 + c] =
                inverse_variance * (at.row_sum[j0 + j] * at.slice[c * rows + j0 + j] - sum[j]);
      }
      __syncthreads();
    }

    // --- eigenvalues and rank
    const int columns = pivoted_cholesky<BlockTeam>(bench, kGramStop<T>);
    const int sweeps = jacobi<kLanes>(bench, columns);
    column_norms<BlockTeam>(bench);
    for (int j = warp; j < m; j += warps) {
      const int place = sweeps < 0 ? j : m - 1 - position_of(bench.norm, m, j);
      if (lane == 0) p.values[g * m + place] = sweeps < 0 ? not_a_number<T>() : bench.norm[j];
    }
    __syncthreads();
    if (warp == 0) {
      const int64_t j = choose_rank(p.values + g * m, m, p.options.threshold, p.options.rank);
      if (lane == 0) {
        *at.rank = j;
        p.rank[g] = j;
      }
    }
    __syncthreads();
    for (int j = warp; j < m; j += warps) {
      const bool kept = position_of(bench.norm, m, j) < *at.rank;
      // A = U √Λ takes one more power of Λ than U.
      const T filter = kept ? filter_of(bench.norm[j], p.options.power + 1) : T(0);
      if (lane == 0) at.factor[j] = sweeps < 0 ? not_a_number<T>() : filter;
    }

    // --- out = scale A (factor ∘ Aᵀ H), a slice of columns at a time
    for (int64_t c0 = 0; c0 < p.d; c0 += kFusedSlice) {
      fill_slice(at.slice, m, c0, p.d,
                 [&](int i, int64_t c) { return out[bench.row[i] * p.d + c]; });
      __syncthreads();
      for (int e = threadIdx.x; e < m * kFusedSlice; e += blockDim.x) {
        const int c = e % kFusedSlice, j = e / kFusedSlice;
        T sum = 0;
        for (int i = 0; i < m; ++i) sum += at.s[j * pitch + i] * at.slice[c * rows + i];
        at.other[c * rows + j] = at.factor[j] * sum;
      }
      __syncthreads();
      for (int e = threadIdx.x; e < fours * kFusedSlice; e += blockDim.x) {
        const int c = e % kFusedSlice, i0 = e / kFusedSlice * 4;
        T sum[4] = {};
#pragma unroll 2
        for (int j = 0; j < m; ++j) {
          const auto a = *reinterpret_cast<const Quad<T>*>(at.s + j * pitch + i0);
          const T value = at.other[c * rows + j];
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[i] += a.v[i] * value;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (i0 + i >= m || c0 + c >= p.d) continue;
          const T value = scale * sum[i];
          out[bench.row[i0 + i] * p.d + c0 + c] =
              value > p.bound ? p.bound : (value < -p.bound ? -p.bound : value);
        }
      }
      __syncthreads();
    }
  }
}

}  // namespace mige::cuda
