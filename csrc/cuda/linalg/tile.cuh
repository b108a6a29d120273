// The tile engine: the inner loop of distances, Gram matrices and matrix products.
//
//   sum_rc = Σ_k step(a_rk, b_ck)   for a square tile of rows r and columns c, k ascending.
//
// A thread block has 256 threads as 16×16. Thread (tx, ty) computes kThreadTile×kThreadTile sums in
// registers. Its sum[i][j] belongs to
//
//   row r = 64 (i / 4) + 4 ty + i % 4,   column c = 64 (j / 4) + 4 tx + j % 4.
//
// Groups of four rows or columns are neighbors, so the thread reads four values of an operand at
// once from shared memory. With kThreadTile = 8, four such reads are enough for 64 steps. With
// kThreadTile = 4, two reads are enough for 16 steps. Slices of 16 values of k go through shared
// memory. The thread block fetches the next slice from global memory while it uses the current one.
//
// Invariant: every element is computed by the same sequence of steps for any tile and any grid.
#pragma once

#include "cuda/core/device.cuh"

namespace mige::cuda {

constexpr int kTileSide = 16;  // threads along each side of the thread block
constexpr int kTileThreads = kTileSide * kTileSide;
constexpr int kTileDepth = 16;

// The tile of matrix products.
constexpr int kProductThreadTile = 4;
constexpr int kProductTile = kTileSide * kProductThreadTile;

// The number of thread blocks on a multiprocessor. With two thread blocks, a thread can have 128 of
// the 65,536 registers. A thread whose sums take more than 64 bytes needs up to 255 registers. One
// thread block then has enough work to keep the arithmetic units busy.
template <typename T, int kThreadTile = kProductThreadTile>
constexpr int kTileBlocks = kThreadTile * kThreadTile * sizeof(T) > 64 ? 1 : 2;

// Four neighboring values, which are read and written at once.
template <typename T>
struct alignas(16) Quad {
  T v[4];
};

template <int kThreadTile>
struct Tile {
  static_assert(kThreadTile == 4 || kThreadTile == 8, "must be one or two groups of four sums");
  static constexpr int kSize = kTileSide * kThreadTile;
  // A Quad needs a pitch that is a multiple of 4. The pitch is no multiple of 32, so that the
  // values of one row in successive k lie in different banks of shared memory.
  static constexpr int kPitch = kSize + 4;
  static constexpr int kSlices = 2 * kTileDepth * kPitch;  // values in two slices, one per operand

  // In thread (tx, ty), sum[i][j] lies in row index(ty, i) and column index(tx, j) of the tile.
  static __device__ __forceinline__ int index(int side, int i) {
    return i / 4 * 64 + side * 4 + i % 4;
  }
};

// An operand: value (i, k) is p[i stride + k] (kDepthContiguous) or p[k stride + i]; it is zero for
// i >= count and k >= depth. Values are converted to T and multiplied by `scale` on the way to
// shared memory.
template <typename T, bool kDepthContiguous, typename Source = T>
struct Operand {
  const Source* p;  // without __restrict__, because a kernel may write the matrix that it reads
  int64_t count, depth, stride;
  T scale;

  // The place of the e-th value that this thread copies: its row in the tile and its k in the
  // slice. Four consecutive values are neighbors in memory, so that few addresses are computed.
  // Neighboring threads read neighboring groups of four.
  struct Place {
    int row, k;
  };
  template <int kThreadTile>
  static __device__ __forceinline__ Place place(int e) {
    constexpr int kFours = Tile<kThreadTile>::kSize / 4;
    const int t = static_cast<int>(threadIdx.x);
    if (kDepthContiguous) return {t / 4 + 64 * (e / 4), 4 * (t % 4) + e % 4};
    return {4 * (t % kFours) + e % 4, t / kFours + kTileThreads / kFours * (e / 4)};
  }

  // Reads the values of this thread from global memory, for the slice that begins at k0.
  template <int kThreadTile>
  __device__ __forceinline__ void fetch(int64_t row0, int64_t k0, T (&values)[kThreadTile]) const {
    const int rows = static_cast<int>(at_most(count - row0, Tile<kThreadTile>::kSize));
    const int ks = static_cast<int>(at_most(depth - k0, kTileDepth));
    const Source* const corner = kDepthContiguous ? p + row0 * stride + k0 : p + k0 * stride + row0;
#pragma unroll
    for (int e = 0; e < kThreadTile; ++e) {
      const auto [i, k] = place<kThreadTile>(e);
      const int64_t at = kDepthContiguous ? i * stride + k : k * stride + i;
      values[e] = i < rows && k < ks ? scale * static_cast<T>(corner[at]) : T(0);
    }
  }

  // Writes the fetched values to the slice in shared memory.
  template <int kThreadTile>
  static __device__ __forceinline__ void store(const T (&values)[kThreadTile],
                                               T* slice) {  // [kTileDepth, kPitch]
#pragma unroll
    for (int e = 0; e < kThreadTile; ++e) {
      const auto [i, k] = place<kThreadTile>(e);
      slice[k * Tile<kThreadTile>::kPitch + i] = values[e];
    }
  }
};

// Reads the values of one operand and one k that this thread uses from shared memory. `side` is tx
// or ty.
template <typename T, int kThreadTile>
__device__ __forceinline__ void read_fragment(
    const T* at_k,  // [kPitch], the row of this k in the slice
    int side, T (&values)[kThreadTile]) {
#pragma unroll
  for (int i = 0; i < kThreadTile; i += 4) {
    const auto quad = *reinterpret_cast<const Quad<T>*>(at_k + Tile<kThreadTile>::index(side, i));
#pragma unroll
    for (int e = 0; e < 4; ++e) values[i + e] = quad.v[e];
  }
}

// --- the steps of a sum ---

// Calls f(i, j) for the sums of a thread. The loops are unrolled, so that the sums stay in
// registers.
template <int kThreadTile = kProductThreadTile, typename F>
__device__ __forceinline__ void for_each_sum(const F& f) {
#pragma unroll
  for (int i = 0; i < kThreadTile; ++i)
#pragma unroll
    for (int j = 0; j < kThreadTile; ++j) f(i, j);
}

struct SquaredDifference {
  template <typename T, int kThreadTile>
  __device__ __forceinline__ void operator()(T (&sum)[kThreadTile][kThreadTile],
                                             const T (&a)[kThreadTile],
                                             const T (&b)[kThreadTile]) const {
    for_each_sum<kThreadTile>([&](int i, int j) {
      const T difference = a[i] - b[j];
      sum[i][j] += difference * difference;
    });
  }
};

// Multiplies in the type of the sum, which may be wider than T.
struct Multiply {
  template <typename Sum, typename T, int kThreadTile>
  __device__ __forceinline__ void operator()(Sum (&sum)[kThreadTile][kThreadTile],
                                             const T (&a)[kThreadTile],
                                             const T (&b)[kThreadTile]) const {
    for_each_sum<kThreadTile>(
        [&](int i, int j) { sum[i][j] += static_cast<Sum>(a[i]) * static_cast<Sum>(b[j]); });
  }
};

// --- the sums of a tile ---

// Adds step(a_rk, b_ck) to the sums of this thread for all k of one slice in shared memory.
template <typename T, int kThreadTile, typename Sum, typename Step = Multiply>
__device__ __forceinline__ void use_slice(const T* a_slice,  // [kTileDepth, kPitch]
                                          const T* b_slice,  // [kTileDepth, kPitch]
                                          Sum (&sum)[kThreadTile][kThreadTile],
                                          const Step& step = {}) {
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
#pragma unroll 2
  for (int k = 0; k < kTileDepth; ++k) {
    T a[kThreadTile], b[kThreadTile];
    read_fragment(a_slice + k * Tile<kThreadTile>::kPitch, ty, a);
    read_fragment(b_slice + k * Tile<kThreadTile>::kPitch, tx, b);
    step(sum, a, b);
  }
}

// Computes the sums over the values of k from `begin` to `end`, or to the end of the operands.
// `begin` is a multiple of kTileDepth. `end` is also a multiple of kTileDepth, or not before the
// end of the operands. After each slice, added(k) is called, where k is the end of the values that
// have been added. `slices` is shared memory. The caller must synchronize before it writes to
// `slices` again.
template <typename T, int kThreadTile, typename A, typename B, typename Sum, typename Step,
          typename Added>
__device__ __forceinline__ void accumulate(const A& a, int64_t a0, const B& b, int64_t b0,
                                           T* slices,  // [Tile<kThreadTile>::kSlices]
                                           Sum (&sum)[kThreadTile][kThreadTile], const Step& step,
                                           int64_t begin, int64_t end, const Added& added) {
  T* const a_slice = slices;
  T* const b_slice = slices + kTileDepth * Tile<kThreadTile>::kPitch;
  T next_a[kThreadTile], next_b[kThreadTile];
  const auto fetch = [&](int64_t k0) {
    a.fetch(a0, k0, next_a);
    b.fetch(b0, k0, next_b);
  };
  end = at_most(end, a.depth);
  fetch(begin);
  for (int64_t k0 = begin; k0 < end; k0 += kTileDepth) {
    __syncthreads();  // the previous slices have been read
    a.store(next_a, a_slice);
    b.store(next_b, b_slice);
    __syncthreads();
    if (k0 + kTileDepth < end) fetch(k0 + kTileDepth);
    use_slice(a_slice, b_slice, sum, step);
    added(k0 + kTileDepth);
  }
}

// Computes the sums over the whole depth.
template <typename T, int kThreadTile, typename A, typename B, typename Sum,
          typename Step = Multiply>
__device__ __forceinline__ void accumulate(const A& a, int64_t a0, const B& b, int64_t b0,
                                           T* slices,  // [Tile<kThreadTile>::kSlices]
                                           Sum (&sum)[kThreadTile][kThreadTile],
                                           const Step& step = {}) {
  accumulate(a, a0, b, b0, slices, sum, step, 0, a.depth, [](int64_t) {});
}

// Calls f(i, j, r, c) for each sum[i][j] of this thread whose element (r, c) lies in m rows and n
// columns. The tile begins at (row0, column0).
template <int kThreadTile = kProductThreadTile, typename F>
__device__ __forceinline__ void for_each_element(int64_t row0, int64_t column0, int64_t m,
                                                 int64_t n, const F& f) {
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
#pragma unroll
  for (int i = 0; i < kThreadTile; ++i) {
    const int64_t r = row0 + Tile<kThreadTile>::index(ty, i);
    if (r >= m) continue;
#pragma unroll
    for (int j = 0; j < kThreadTile; ++j) {
      const int64_t c = column0 + Tile<kThreadTile>::index(tx, j);
      if (c < n) f(i, j, r, c);
    }
  }
}

}  // namespace mige::cuda
