// Pivoted Cholesky decomposition K = L Lᵀ of a matrix in the shared memory of one thread block.
//
// Step k chooses the largest remaining diagonal element as its pivot. A swap of two columns and of
// the same two rows brings the pivot to place k. The decomposition stops when the remaining matrix
// is rounding error, so a matrix of low rank takes less work.
#pragma once

#include "cuda/core/scale.cuh"

namespace mige::cuda {

// The pivot at which the decomposition of a Gram matrix stops. The diagonal of the matrix is 1, so
// smaller pivots are rounding errors.
template <typename T>
constexpr T kGramStop = 4 * kEpsilon<T>;

// --- teams: the threads that work on one matrix ---

struct WarpTeam {
  static __device__ __forceinline__ int rank() { return threadIdx.x % kWarp; }
  static __device__ __forceinline__ int size() { return kWarp; }
  static __device__ __forceinline__ void sync() { __syncwarp(); }
};

struct BlockTeam {
  static __device__ __forceinline__ int rank() { return static_cast<int>(threadIdx.x); }
  static __device__ __forceinline__ int size() { return static_cast<int>(blockDim.x); }
  static __device__ __forceinline__ void sync() { __syncthreads(); }
};

// A matrix in shared memory, column-major: column j is s[j pitch ... j pitch + n).
template <typename T>
struct SharedMatrix {
  T* s;        // [n, pitch]
  T* norm;     // [n]: squared column norms
  int* row;    // [n]: row i of s is row row[i] of the matrix
  int* pivot;  // [1]: index of the current pivot
  int n, pitch;

  // The bytes of all arrays.
  static __host__ __device__ size_t size(int n, int pitch) {
    return sizeof(T) * static_cast<size_t>(n * pitch + n) +
           sizeof(int) * static_cast<size_t>(n + 4);
  }
  static __device__ SharedMatrix at(T* memory, int n, int pitch) {
    int* const row = reinterpret_cast<int*>(memory + n * pitch + n);
    return {memory, memory + n * pitch, row, row + n, n, pitch};
  }
};

template <typename V>
__device__ __forceinline__ void exchange(V& a, V& b) {
  const V first = a;
  a = b;
  b = first;
}

// Replaces s by L and returns its rank: the number of columns before the first pivot that is not
// above `stop`. Later columns become zero. Work: n³/3 multiply-adds in shared memory. A column
// takes four barriers, and two more if it is swapped.
template <typename Team, typename T>
__device__ int pivoted_cholesky(const SharedMatrix<T>& a, T stop) {
  const int rank = Team::rank(), size = Team::size(), n = a.n, pitch = a.pitch;
  const int lane = rank % kWarp, warp = rank / kWarp, warps = size / kWarp;
  for (int i = rank; i < n; i += size) a.row[i] = i;
  int k = 0;
  for (; k < n; ++k) {
    if (warp == 0) {
      Largest<T> best{-1, k};
      for (int i = k + lane; i < n; i += kWarp) best.take_next(a.s[i * pitch + i], i);
      best.take_warp();
      if (lane == 0) *a.pivot = best.index;
    }
    Team::sync();
    const int p = *a.pivot;
    const T pivot = a.s[p * pitch + p];
    if (!(pivot > stop)) break;
    if (p != k) {
      Team::sync();  // every thread has read the pivot
      for (int i = rank; i < n; i += size) exchange(a.s[k * pitch + i], a.s[p * pitch + i]);
      Team::sync();
      for (int i = rank; i < n; i += size) exchange(a.s[i * pitch + k], a.s[i * pitch + p]);
      if (rank == 0) exchange(a.row[k], a.row[p]);
    }
    Team::sync();
    const T root = sqrt(pivot);
    for (int i = rank; i < n; i += size)
      a.s[k * pitch + i] = i > k ? a.s[k * pitch + i] / root : (i == k ? root : T(0));
    Team::sync();
    for (int j = k + 1 + warp; j < n; j += warps) {
      const T factor = a.s[k * pitch + j];
      for (int i = k + 1 + lane; i < n; i += kWarp)
        a.s[j * pitch + i] -= a.s[k * pitch + i] * factor;
    }
    Team::sync();
  }
  Team::sync();
  for (int j = k + warp; j < n; j += warps)
    for (int i = lane; i < n; i += kWarp) a.s[j * pitch + i] = 0;
  Team::sync();
  return k;
}

}  // namespace mige::cuda
