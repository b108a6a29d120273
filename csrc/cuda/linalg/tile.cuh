// The tile engine: Σ_k step(a_ik, b_jk) for a square tile of rows i and columns j, the one inner
// loop of distances, Gram matrices and matrix products.
//
// 256 threads as 16×16. Thread (tx, ty) owns kOwn×kOwn elements, in groups of four neighbours, rows
// 64 (i / 4) + 4 ty + i % 4 and columns 64 (j / 4) + 4 tx + j % 4, so that it reads its operands
// from shared memory four at a time: for kOwn = 8 four such reads feed 64 steps, for 4 two feed 16.
// Slices of 16 k's go through shared memory; the next one is on its way from global memory
// while this one is used.
//
// Every element is one fixed sequence of steps, k ascending, whatever the tile.
#pragma once

#include "cuda/core/device.cuh"

namespace mige::cuda {

constexpr int kTileSide = 16;  // threads along each side of the block
constexpr int kTileThreads = kTileSide * kTileSide;
constexpr int kTileSlice = 16;

// Blocks that are to share a multiprocessor: two with at most 128 registers a thread; sums of 64
// bytes and more need up to 255, and bring the work to keep its arithmetic units busy alone.
template <typename T, int kOwn>
constexpr int kTileBlocks = kOwn * kOwn * sizeof(T) > 64 ? 1 : 2;

// Four neighbours, read and written as one.
template <typename T>
struct alignas(16) Quad {
  T v[4];
};

template <int kOwn>
struct Tile {
  static_assert(kOwn == 4 || kOwn == 8, "groups of four neighbours, 64 apart");
  static constexpr int kSize = kTileSide * kOwn;
  static constexpr int kPitch = kSize + 4;  // a multiple of 4, as Quads need, and not of 32
  static constexpr int kSlices = 2 * kTileSlice * kPitch;  // values of shared memory

  // The i-th row that thread row `ty` owns; the same for columns.
  static __device__ __forceinline__ int own(int side, int i) {
    return i / 4 * 64 + side * 4 + i % 4;
  }
};

// An operand: value (i, k) is p[i stride + k] (kDepthContiguous) or p[k stride + i]; zero outside
// count rows i and depth values k. Multiplied by `scale` on its way to shared memory.
template <typename T, bool kDepthContiguous>
struct Operand {
  const T* __restrict__ p;
  int64_t count, depth, stride;
  T scale;

  // A thread moves kOwn values of a slice, in fours that are neighbours in memory: few addresses to
  // keep, and neighbouring threads read neighbouring fours.
  template <int kOwn>
  static __device__ __forceinline__ int row(int e) {
    constexpr int kFours = Tile<kOwn>::kSize / 4;
    const int t = static_cast<int>(threadIdx.x);
    return kDepthContiguous ? t / 4 + 64 * (e / 4) : 4 * (t % kFours) + e % 4;
  }
  template <int kOwn>
  static __device__ __forceinline__ int slice(int e) {
    constexpr int kFours = Tile<kOwn>::kSize / 4;
    const int t = static_cast<int>(threadIdx.x);
    return kDepthContiguous ? 4 * (t % 4) + e % 4 : t / kFours + kTileThreads / kFours * (e / 4);
  }

  template <int kOwn>
  __device__ __forceinline__ void fetch(int64_t row0, int64_t k0, T (&held)[kOwn]) const {
    const int rows = within<Tile<kOwn>::kSize>(count - row0), ks = within<kTileSlice>(depth - k0);
    const T* const corner = kDepthContiguous ? p + row0 * stride + k0 : p + k0 * stride + row0;
#pragma unroll
    for (int e = 0; e < kOwn; ++e) {
      const int i = row<kOwn>(e), k = slice<kOwn>(e);
      const int64_t at = kDepthContiguous ? i * stride + k : k * stride + i;
      held[e] = i < rows && k < ks ? scale * corner[at] : T(0);
    }
  }

  template <int kBound>
  static __device__ __forceinline__ int within(int64_t left) {
    return left < kBound ? static_cast<int>(left) : kBound;
  }

  template <int kOwn>
  static __device__ __forceinline__ void store(const T (&held)[kOwn], T* slices) {
#pragma unroll
    for (int e = 0; e < kOwn; ++e)
      slices[slice<kOwn>(e) * Tile<kOwn>::kPitch + row<kOwn>(e)] = held[e];
  }
};

template <typename T, int kOwn>
__device__ __forceinline__ void read_own(const T* slice, int side, T (&values)[kOwn]) {
#pragma unroll
  for (int i = 0; i < kOwn; i += 4) {
    const auto quad = *reinterpret_cast<const Quad<T>*>(slice + Tile<kOwn>::own(side, i));
#pragma unroll
    for (int e = 0; e < 4; ++e) values[i + e] = quad.v[e];
  }
}

// sum_ij = step(sum_ij, a_ik, b_jk) over the k's of one slice in shared memory.
template <typename T, int kOwn, typename Sum, typename Step>
__device__ __forceinline__ void use_slice(const T* a_slice,  // [kTileSlice, kPitch]
                                          const T* b_slice,  // [kTileSlice, kPitch]
                                          Sum (&sum)[kOwn][kOwn], const Step& step) {
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
#pragma unroll 2
  for (int k = 0; k < kTileSlice; ++k) {
    T a[kOwn], b[kOwn];
    read_own<T, kOwn>(a_slice + k * Tile<kOwn>::kPitch, ty, a);
    read_own<T, kOwn>(b_slice + k * Tile<kOwn>::kPitch, tx, b);
    step(sum, a, b);
  }
}

// The whole depth. `slices` is shared memory for Tile<kOwn>::kSlices values; it may be written
// again after a barrier.
template <typename T, int kOwn, typename A, typename B, typename Sum, typename Step>
__device__ __forceinline__ void accumulate(const A& a, int64_t a0, const B& b, int64_t b0,
                                           T* slices, Sum (&sum)[kOwn][kOwn], const Step& step) {
  T* const a_slice = slices;
  T* const b_slice = slices + kTileSlice * Tile<kOwn>::kPitch;
  T next_a[kOwn], next_b[kOwn];
  const auto fetch = [&](int64_t k0) {
    a.template fetch<kOwn>(a0, k0, next_a);
    b.template fetch<kOwn>(b0, k0, next_b);
  };
  fetch(0);
  for (int64_t k0 = 0; k0 < a.depth; k0 += kTileSlice) {
    __syncthreads();  // the slices before have been read
    a.template store<kOwn>(next_a, a_slice);
    b.template store<kOwn>(next_b, b_slice);
    __syncthreads();
    if (k0 + kTileSlice < a.depth) fetch(k0 + kTileSlice);
    use_slice<T, kOwn>(a_slice, b_slice, sum, step);
  }
}

// --- steps ---

struct SquaredDifference {
  template <typename T, int kOwn>
  __device__ __forceinline__ void operator()(T (&sum)[kOwn][kOwn], const T (&a)[kOwn],
                                             const T (&b)[kOwn]) const {
#pragma unroll
    for (int i = 0; i < kOwn; ++i)
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        const T difference = a[i] - b[j];
        sum[i][j] += difference * difference;
      }
  }
};

// In the type of the sum, which may be the wider one.
struct Multiply {
  template <typename Sum, typename T, int kOwn>
  __device__ __forceinline__ void operator()(Sum (&sum)[kOwn][kOwn], const T (&a)[kOwn],
                                             const T (&b)[kOwn]) const {
#pragma unroll
    for (int i = 0; i < kOwn; ++i)
#pragma unroll
      for (int j = 0; j < kOwn; ++j) sum[i][j] += static_cast<Sum>(a[i]) * static_cast<Sum>(b[j]);
  }
};

}  // namespace mige::cuda
