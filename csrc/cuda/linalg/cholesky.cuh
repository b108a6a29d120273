// Pivoted Cholesky decomposition P K Pᵀ = L Lᵀ, with a permutation P, of a matrix in the shared
// memory of one thread block.
//
// Step k chooses the largest remaining diagonal element as its pivot. Two columns and the same two
// rows are swapped to bring the pivot to place k. The decomposition stops when the remaining matrix
// is rounding error, so a matrix of low rank takes less work.
//
// Invariant before step k: columns 0 to k − 1 of s are those of L, and the rows and columns from k
// on hold P K Pᵀ − L Lᵀ.
#pragma once

#include "cuda/core/scale.cuh"

namespace mige::cuda {

// The pivot at which the decomposition of a Gram matrix stops. The diagonal of the matrix is 1, so
// smaller pivots are rounding errors.
template <typename T>
constexpr T kGramStop = 4 * kEpsilon<T>;

// --- teams: the threads that work on one matrix ---

// A team has a multiple of 32 threads. thread() is the index of the calling thread in its team.
struct WarpTeam {
  static __device__ __forceinline__ int thread() { return threadIdx.x % kWarp; }
  static __device__ __forceinline__ int threads() { return kWarp; }
  static __device__ __forceinline__ void sync() { __syncwarp(); }
};

struct BlockTeam {
  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }
  static __device__ __forceinline__ int threads() { return static_cast<int>(blockDim.x); }
  static __device__ __forceinline__ void sync() { __syncthreads(); }
};

// A matrix in shared memory, column-major: column j is s[j pitch ... j pitch + n).
template <typename T>
struct SharedMatrix {
  T* s;              // [n, pitch]
  T* norm;           // [n]: squared column norms, which column_norms() writes (jacobi.cuh)
  int* row;          // [n]: the permutation P; row i of s is row row[i] of the matrix
  int* pivot_index;  // [1]: where the current pivot was found
  int n, pitch;

  // The bytes of all arrays. The last array is padded, so that several matrices stay aligned.
  static __host__ __device__ constexpr size_t size(int n, int pitch) {
    constexpr int kPivotAndPadding = 4;
    return sizeof(T) * static_cast<size_t>(n * pitch + n) +
           sizeof(int) * static_cast<size_t>(n + kPivotAndPadding);
  }
  // The matrix whose arrays begin at `memory`.
  static __device__ SharedMatrix at(T* memory, int n, int pitch) {  // size(n, pitch) bytes
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
// above `stop`. Later columns become zero. A warp takes a column, and a lane takes every 32nd row.
// Work: n³/3 multiply-adds in shared memory. Each column takes four barriers, and a swap takes two
// more.
template <typename Team, typename T>
__device__ int pivoted_cholesky(const SharedMatrix<T>& a, T stop) {
  const int thread = Team::thread(), threads = Team::threads(), n = a.n, pitch = a.pitch;
  const int lane = thread % kWarp, warp = thread / kWarp, warps = threads / kWarp;
  for (int i = thread; i < n; i += threads) a.row[i] = i;
  int k = 0;
  for (; k < n; ++k) {
    if (warp == 0) {
      Largest<T> best{-1, k};  // stays if all pivots are NaN, and then ends the loop
      for (int i = k + lane; i < n; i += kWarp) best.take_next(a.s[i * pitch + i], i);
      best.take_warp();
      if (lane == 0) *a.pivot_index = best.index;
    }
    Team::sync();
    const int at = *a.pivot_index;
    const T pivot = a.s[at * pitch + at];
    if (!(pivot > stop)) break;
    if (at != k) {
      Team::sync();  // every thread has read the pivot
      for (int i = thread; i < n; i += threads) exchange(a.s[k * pitch + i], a.s[at * pitch + i]);
      Team::sync();
      for (int i = thread; i < n; i += threads) exchange(a.s[i * pitch + k], a.s[i * pitch + at]);
      if (thread == 0) exchange(a.row[k], a.row[at]);
    }
    Team::sync();
    const T root = sqrt(pivot);
    for (int i = thread; i < n; i += threads)
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
