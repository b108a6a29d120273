// The whole SSGE score in one launch, for groups of m <= 128 samples that fit the shared memory of
// one thread block:
//
//   out = −U_J Λ_J^−power U_Jᵀ H,   K = U Λ Uᵀ the RBF Gram matrix,
//   H_j = Σ_i ∇_{x_i} k(x_i, x_j).
//
// `power` is 1 for the score at the samples and 2 for the coefficients of the Nyström extension.
//
// A thread block takes a group. A matrix S [m, pitch] in shared memory holds the squared distances,
// then K, then its Cholesky factor L, and finally A = U √Λ. The samples [m, d] and H pass through
// shared memory in slices of 16 columns, [16, rows]. `out` [m, d] holds H until the last step.
//
// Work: about 1.5 m² d flop for the distances, 2 m² d for H, 7 × 5 m³ for the eigendecomposition in
// 7 sweeps, and 4 m² d for the score. Reads about 3 m d values of the samples, and reads or writes
// 3 m d values of `out`. Shared memory: ssge_fused_size.
#include "cuda/linalg/eigh_small.cuh"
#include "cuda/ssge/ssge.cuh"

namespace mige::cuda {
namespace {

constexpr int kLargestFused = 128;
constexpr int kFusedSlice = 16;

// The rows of a slice: m rows and padding. A multiple of four aligns groups of four rows for Quads.
// With four more rows, the columns for m = 64 or 128 start on different banks of shared memory.
__host__ __device__ constexpr int fused_rows(int m) { return (m + 3) / 4 * 4 + 4; }

// Several arrays in shared memory, each aligned to 16 bytes.
struct SharedSpace {
  char* memory;
  size_t size;  // bytes taken so far

  template <typename U>
  __host__ __device__ U* take(size_t count) {
    char* const at = memory + size;
    size += (count * sizeof(U) + 15) / 16 * 16;
    return reinterpret_cast<U*>(at);
  }
};

template <typename T, int kLanes, int kRows>
struct FusedMemory : SharedSpace {
  int m;
  // [m, pitch]: S, followed by the other arrays of SharedMatrix
  T* s =
      reinterpret_cast<T*>(take<char>(SharedMatrix<T>::size(m, PairShape<kLanes, kRows>::kPitch)));
  T* slice = take<T>(kFusedSlice * fused_rows(m));  // [16, rows]: samples or H
  T* other = take<T>(kFusedSlice * fused_rows(m));  // [16, rows]: factor ∘ Aᵀ H
  T* row_sum = take<T>(m);                          // [m]: K 1
  T* factor = take<T>(m);                           // [m]: the filter of each column of A
  // For the quantile of the distances: workspace of pick_digit, counts of digits, and the state.
  Count* sums = take<Count>(kSelectThreads);
  unsigned* counts = take<unsigned>(kDigits);
  Selection<T>* selection = take<Selection<T>>(1);
  Key<T>* largest = take<Key<T>>(1);  // magnitude of the samples
  int64_t* rank = take<int64_t>(1);   // J
};

// Bytes of FusedMemory. Only addresses are computed: `nowhere` is never read or written.
template <typename T>
size_t ssge_fused_size(int m) {
  alignas(16) static char nowhere;
  return with_eight_lanes(
      m, [&](auto lanes, auto rows) { return FusedMemory<T, lanes, rows>{{&nowhere, 0}, m}.size; });
}

// Sets slice[c, i] = value(i, c0 + c), or 0 outside the m rows and d columns.
template <typename T, typename F>
__device__ __forceinline__ void fill_slice(T* slice,  // [16, rows]
                                           int m, int64_t c0, int64_t d, const F& value) {
  const int rows = fused_rows(m);
  for (int e = threadIdx.x; e < kFusedSlice * rows; e += blockDim.x) {
    const int c = e % kFusedSlice, i = e / kFusedSlice;
    slice[c * rows + i] = i < m && c0 + c < d ? value(i, c0 + c) : T(0);
  }
}

// Adds the squared differences of one slice to S, on and above the diagonal. A thread takes 4×4
// pairs.
template <typename T>
__device__ void add_distances(T* s, int pitch,          // [m, pitch]
                              const T* slice, int m) {  // [16, rows]
  const int rows = fused_rows(m), fours = (m + 3) / 4;
  for (int e = threadIdx.x; e < fours * fours; e += blockDim.x) {
    const int i0 = e % fours * 4, j0 = e / fours * 4;
    if (i0 > j0) continue;
    T sum[4][4];
    for_each_sum([&](int i, int j) {
      sum[i][j] = i0 + i < m && j0 + j < m ? s[(j0 + j) * pitch + i0 + i] : T(0);
    });
#pragma unroll 2
    for (int c = 0; c < kFusedSlice; ++c) {
      const auto a = *reinterpret_cast<const Quad<T>*>(slice + c * rows + i0);
      const auto b = *reinterpret_cast<const Quad<T>*>(slice + c * rows + j0);
      SquaredDifference{}(sum, a.v, b.v);
    }
    for_each_sum([&](int i, int j) {
      if (i0 + i < m && j0 + j < m) s[(j0 + j) * pitch + i0 + i] = sum[i][j];
    });
  }
}

// The quantile of the entries i < j of S, which are squared distances of scaled coordinates.
template <typename T, int kLanes, int kRows>
__device__ T select_square(const FusedMemory<T, kLanes, kRows>& at, int m, int pitch,
                           double quantile) {
  if (threadIdx.x == 0) at.selection->zeros = 0;
  for (int round = 0; round < kSelectRounds<T>; ++round) {
    for (int i = threadIdx.x; i < kDigits; i += blockDim.x) at.counts[i] = 0;
    __syncthreads();
    const Key<T> prefix = round == 0 ? 0 : at.selection->prefix;
    for (int e = threadIdx.x; e < m * m; e += blockDim.x) {
      const int i = e % m, j = e / m;
      if (i >= j) continue;
      const Key<T> key = magnitude_key(at.s[j * pitch + i]);
      if (round == 0 && key == 0) atomicAdd(&at.selection->zeros, Count(1));
      if (matches<T>(key, prefix, round)) atomicAdd(&at.counts[digit_of<T>(key, round)], 1u);
    }
    __syncthreads();
    pick_digit<T>(at.counts, at.selection, at.sums, round, m, quantile);
    __syncthreads();
  }
  return value_of<T>(at.selection->prefix);
}

// Calls store(i, c, Σ_j s_ji slice_cj) for all i < m and the columns c of a slice. A thread takes
// 4 values of i.
template <typename T, typename F>
__device__ __forceinline__ void multiply_slice(const T* s,      // [m, pitch]
                                               const T* slice,  // [16, rows]
                                               int m, int pitch, const F& store) {
  const int rows = fused_rows(m), fours = (m + 3) / 4;
  for (int e = threadIdx.x; e < fours * kFusedSlice; e += blockDim.x) {
    const int c = e % kFusedSlice, i0 = e / kFusedSlice * 4;
    T sum[4] = {};
#pragma unroll 2
    for (int j = 0; j < m; ++j) {
      const auto four = *reinterpret_cast<const Quad<T>*>(s + j * pitch + i0);
      const T value = slice[c * rows + j];
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] += four.v[i] * value;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (i0 + i < m) store(i0 + i, c, sum[i]);
  }
}

// The largest magnitude among the values of a group. All threads of a thread block must call
// block_magnitude together.
template <typename T>
__device__ T block_magnitude(const T* x,  // [count]
                             int64_t count,
                             Key<T>* largest) {  // [1], shared
  if (threadIdx.x == 0) *largest = 0;
  __syncthreads();
  Key<T> key = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    const Key<T> magnitude = magnitude_key(x[i]);
    key = magnitude > key ? magnitude : key;
  }
  take_largest_key(key, largest);
  __syncthreads();
  return magnitude_of<T>(*largest);
}

// A group of samples, its memory, and the steps of the kernel in their order.
template <typename T, int kLanes, int kRows>
struct FusedGroup {
  const SsgeArguments<T>& p;
  const FusedMemory<T, kLanes, kRows>& at;
  const SharedMatrix<T>& a;  // the matrix S, which A finally replaces
  int64_t g;
  T magnitude, scale;

  __device__ const T* x() const { return p.x + g * a.n * p.d; }
  __device__ T* out() const { return p.out + g * a.n * p.d; }
  __device__ T* values() const { return p.values + g * a.n; }

  // Loads the centered, scaled samples into slice[c, i].
  __device__ __forceinline__ void load_samples(int64_t c0) const {
    fill_slice(at.slice, a.n, c0, p.d, [&](int i, int64_t c) {
      return scale * x()[i * p.d + c] - column_center(x(), a.n, p.d, c, scale);
    });
    __syncthreads();
  }

  // Computes the squared distances in S, on and above the diagonal.
  __device__ __forceinline__ void distances() const {
    for (int e = threadIdx.x; e < a.n * a.pitch; e += blockDim.x) a.s[e] = 0;
    __syncthreads();
    for (int64_t c0 = 0; c0 < p.d; c0 += kFusedSlice) {
      load_samples(c0);
      add_distances(a.s, a.pitch, at.slice, a.n);
      __syncthreads();
    }
  }

  // The given bandwidth, or a quantile of the distances times the multiplier.
  __device__ __forceinline__ T bandwidth() const {
    if (p.given) return checked_bandwidth(p.given[g]);
    const T square = select_square(at, a.n, a.pitch, p.options.quantile);
    // NaN if a sample is NaN or infinite, otherwise 0.
    const T poison = magnitude - magnitude;
    return bandwidth_of(square, scale, p.options.multiplier, kSmallestNormal<T>) + poison;
  }

  // Writes 0 to all results for equal samples, or NaN if the bandwidth is not valid.
  __device__ __forceinline__ void write_constant(T value) const {
    for (int64_t i = threadIdx.x; i < a.n * p.d; i += blockDim.x) out()[i] = value;
    for (int i = threadIdx.x; i < a.n; i += blockDim.x) values()[i] = value;
    if (threadIdx.x == 0) p.rank[g] = 0;
    __syncthreads();
  }

  // Replaces the squared distances by K, on both sides of the diagonal.
  __device__ __forceinline__ void gram(T gamma) const {
    for (int e = threadIdx.x; e < a.n * a.n; e += blockDim.x) {
      const int i = e % a.n, j = e / a.n;
      if (i > j) continue;
      const T value = rbf(a.s[j * a.pitch + i], gamma);
      a.s[j * a.pitch + i] = value;
      a.s[i * a.pitch + j] = value;
    }
    __syncthreads();
  }

  // Computes H = −(K X − diag(K 1) X) / σ² in `out`.
  __device__ __forceinline__ void gradient_sum(T sigma) const {
    const int m = a.n, rows = fused_rows(m), lane = threadIdx.x % kWarp;
    for (int j = threadIdx.x / kWarp; j < m; j += blockDim.x / kWarp) {
      T sum = 0;
      for (int i = lane; i < m; i += kWarp) sum += a.s[j * a.pitch + i];
      sum = warp_sum(sum);
      if (lane == 0) at.row_sum[j] = sum;
    }
    const T inverse_variance = ScaledBandwidth<T>(sigma, scale).inverse_variance;
    for (int64_t c0 = 0; c0 < p.d; c0 += kFusedSlice) {
      load_samples(c0);
      multiply_slice(a.s, at.slice, m, a.pitch, [&](int j, int c, T sum) {
        if (c0 + c < p.d)
          out()[j * p.d + c0 + c] =
              inverse_variance * (at.row_sum[j] * at.slice[c * rows + j] - sum);
      });
      __syncthreads();
    }
  }

  // Replaces K by A, and computes the eigenvalues, J and the filter.
  __device__ __forceinline__ void decompose() const {
    const int m = a.n, lane = threadIdx.x % kWarp;
    const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
    const int columns = pivoted_cholesky<BlockTeam>(a, kGramStop<T>);
    const bool failed = !jacobi<kLanes, kRows>(a, columns).converged;
    column_norms<BlockTeam>(a);
    for (int j = warp; j < m; j += warps) {
      const int place = failed ? j : m - 1 - position_of(a.norm, m, j);
      if (lane == 0) values()[place] = failed ? not_a_number<T>() : a.norm[j];
    }
    __syncthreads();
    if (warp == 0) {
      const int64_t j = choose_rank(values(), m, p.options);
      if (lane == 0) {
        *at.rank = j;
        p.rank[g] = j;
      }
    }
    __syncthreads();
    for (int j = warp; j < m; j += warps) {
      const bool kept = position_of(a.norm, m, j) < *at.rank;
      // A = U √Λ replaces U on both sides of the filter, so the exponent is larger by one.
      const T filter = kept ? filter_of(a.norm[j], p.options.power + 1) : T(0);
      if (lane == 0) at.factor[j] = failed ? not_a_number<T>() : filter;
    }
  }

  // Computes scale A (factor ∘ Aᵀ H) in `out`, one slice of columns after another. The Cholesky
  // decomposition has permuted the rows of A: row i belongs to sample a.row[i].
  __device__ __forceinline__ void score() const {
    const T bound = p.bound();
    const int m = a.n, rows = fused_rows(m);
    for (int64_t c0 = 0; c0 < p.d; c0 += kFusedSlice) {
      fill_slice(at.slice, m, c0, p.d, [&](int i, int64_t c) { return out()[a.row[i] * p.d + c]; });
      __syncthreads();
      for (int e = threadIdx.x; e < m * kFusedSlice; e += blockDim.x) {
        const int c = e % kFusedSlice, j = e / kFusedSlice;
        T sum = 0;
        for (int i = 0; i < m; ++i) sum += a.s[j * a.pitch + i] * at.slice[c * rows + i];
        at.other[c * rows + j] = at.factor[j] * sum;
      }
      __syncthreads();
      multiply_slice(a.s, at.other, m, a.pitch, [&](int i, int c, T sum) {
        if (c0 + c < p.d) out()[a.row[i] * p.d + c0 + c] = clamped(scale * sum, bound);
      });
      __syncthreads();
    }
  }
};

template <typename T, int kLanes, int kRows>
constexpr int kFusedThreads = sizeof(T) == 4 ? kEighThreads<kLanes, kRows> : 256;

// The number of thread blocks on a multiprocessor.
template <typename T, int kLanes, int kRows>
constexpr int kFusedBlocks = kFusedThreads<T, kLanes, kRows> == 256 && sizeof(T) == 4 ? 2 : 1;

// Computes the score of every gridDim.x-th group. Registers: at most 128 in float, 255 in double.
// A pass of the loop over pairs rotates four pairs. Instructions of the loop with MUFU.RSQ, SHFL
// and STS: at most 188 in <float, 8, 8>, 232 in <float, 8, 13> and 260 in <float, 8, 16>.
template <typename T, int kLanes, int kRows>
__global__ void __launch_bounds__(kFusedThreads<T, kLanes, kRows>, kFusedBlocks<T, kLanes, kRows>)
    ssge_fused_kernel(SsgeArguments<T> p) {
  const int m = static_cast<int>(p.m);
  const FusedMemory<T, kLanes, kRows> at{{dynamic_smem<char>(), 0}, m};
  const auto a = SharedMatrix<T>::at(at.s, m, PairShape<kLanes, kRows>::kPitch);
  for (int64_t g = blockIdx.x; g < p.groups; g += gridDim.x) {
    const T magnitude = block_magnitude(p.x + g * m * p.d, m * p.d, at.largest);
    const FusedGroup<T, kLanes, kRows> group{p, at, a, g, magnitude, normal_scale(magnitude)};
    group.distances();
    const T sigma = group.bandwidth(), gamma = gamma_of(sigma, magnitude);
    if (threadIdx.x == 0) p.bandwidth[g] = sigma;
    if (sigma == T(0) || !(gamma == gamma)) {  // the same for all threads
      group.write_constant(sigma == T(0) ? T(0) : gamma);
      continue;
    }
    group.gram(gamma);
    group.gradient_sum(sigma);
    group.decompose();
    group.score();
  }
}

}  // namespace

template <typename T>
bool ssge_fits_a_block(int64_t m) {
  return m <= kLargestFused && ssge_fused_size<T>(static_cast<int>(m)) <= largest_smem();
}

template <typename T>
void ssge_fused(const SsgeArguments<T>& p, Stream& stream) {
  const int m = static_cast<int>(p.m);
  with_eight_lanes(m, [&](auto lanes, auto rows) {
    stream.launch(
        ssge_fused_kernel<T, lanes, rows>,
        {{at_most(p.groups, kLargestGridX)}, kFusedThreads<T, lanes, rows>, ssge_fused_size<T>(m)},
        p);
  });
}

template bool ssge_fits_a_block<float>(int64_t);
template bool ssge_fits_a_block<double>(int64_t);
template void ssge_fused(const SsgeArguments<float>&, Stream&);
template void ssge_fused(const SsgeArguments<double>&, Stream&);

}  // namespace mige::cuda
