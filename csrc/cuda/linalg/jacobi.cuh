// Eigendecomposition of positive semi-definite matrices by pivoted Cholesky and one-sided Jacobi.
//
//   K = L Lᵀ,   A = L V with orthogonal columns,   K = Σ_j a_j a_jᵀ:   λ_j = ‖a_j‖²,   u_j = a_j /
//   √λ_j
//
// (Veselić and Hari 1989). One array holds everything, λ keep their relative accuracy, and the work
// follows the rank: Cholesky stops where the rest of K is rounding error.
//
// Pairs of columns meet in the order i, i ^ r for r = 1, 2, …: every pair once a sweep, disjoint
// within a round. Measured in float32, for Gram matrices of 32 to 128: 6-8 sweeps, where the usual
// round robin takes 7-13. The larger column goes to the lower index.
//
// A symmetric matrix that may be indefinite is shifted by a multiple of the identity first, and its
// eigenvalues back afterwards; eigenvectors do not change. The shift is a few rounding errors of
// the matrix unless Cholesky then finds a pivot below it; then it is a bound of the eigenvalues.
#pragma once

#include "cuda/core/scale.cuh"

namespace mige::cuda {

constexpr int kMaxSweeps = 30;
constexpr int kNotFinite = -1, kNotConverged = -2;  // info; otherwise the number of sweeps

// Columns with a cosine below this are orthogonal: a sweep that finds no other is the last one.
template <typename T>
constexpr T kOrthogonal = 8 * kEpsilon<T>;
// Below this they are left alone. Smaller, because convergence is quadratic: rotations of the last
// sweep make cosines that would have passed vanish for good.
template <typename T>
constexpr T kNegligible = kEpsilon<T> / 4;

// The shift, for entries of magnitude 1 to 2: what rounding may do to a pivot, and twice that.
template <typename T>
__host__ __device__ constexpr T small_shift(int64_t n) {
  return 8 * static_cast<T>(n) * kEpsilon<T>;
}

// Where the Cholesky decomposition of a Gram matrix, whose diagonal is 1, has only rounding errors
// left.
template <typename T>
constexpr T kGramStop = 4 * kEpsilon<T>;

// --- teams: the threads that share one matrix ---

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

// A matrix in shared memory and what goes with it. Column j is s[j * pitch ... + n).
template <typename T>
struct Bench {
  T* s;       // [n, pitch]
  T* norm;    // [n]: squared column norms
  int* row;   // [n]: row i of s is row row[i] of the matrix
  int* slot;  // [1]: for what one thread tells the others
  int n, pitch;

  // Bytes of the above.
  static __host__ __device__ size_t size(int n, int pitch) {
    return sizeof(T) * static_cast<size_t>(n * pitch + n) +
           sizeof(int) * static_cast<size_t>(n + 4);
  }
  static __device__ Bench at(T* memory, int n, int pitch) {
    int* const row = reinterpret_cast<int*>(memory + n * pitch + n);
    return {memory, memory + n * pitch, row, row + n, n, pitch};
  }
};

// --- pivoted Cholesky ---

// s becomes L, columns in the order of their pivots, largest first; rows are swapped along. Ends at
// the first pivot that is not above `stop`, zeroes the columns that are left, and returns how many
// are not. Work: n³/3 multiply-adds in shared memory, four barriers a column, two more with a swap.
template <typename Team, typename T>
__device__ int pivoted_cholesky(const Bench<T>& b, T stop) {
  const int rank = Team::rank(), size = Team::size(), n = b.n, pitch = b.pitch;
  const int lane = rank % kWarp, warp = rank / kWarp, warps = size / kWarp;
  for (int i = rank; i < n; i += size) b.row[i] = i;
  int k = 0;
  for (; k < n; ++k) {
    if (warp == 0) {
      T best = -1;
      int at = k;
      for (int i = k + lane; i < n; i += kWarp)
        if (b.s[i * pitch + i] > best) {
          best = b.s[i * pitch + i];
          at = i;
        }
      for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        const T other = __shfl_xor_sync(kFullMask, best, offset);
        const int other_at = __shfl_xor_sync(kFullMask, at, offset);
        if (other > best || (other == best && other_at < at)) {
          best = other;
          at = other_at;
        }
      }
      if (lane == 0) *b.slot = at;
    }
    Team::sync();
    const int p = *b.slot;
    const T pivot = b.s[p * pitch + p];
    if (!(pivot > stop)) break;
    if (p != k) {
      Team::sync();  // every thread has read the pivot
      for (int i = rank; i < n; i += size) {
        const T held = b.s[k * pitch + i];
        b.s[k * pitch + i] = b.s[p * pitch + i];
        b.s[p * pitch + i] = held;
      }
      Team::sync();
      for (int i = rank; i < n; i += size) {
        const T held = b.s[i * pitch + k];
        b.s[i * pitch + k] = b.s[i * pitch + p];
        b.s[i * pitch + p] = held;
      }
      if (rank == 0) {
        const int held = b.row[k];
        b.row[k] = b.row[p];
        b.row[p] = held;
      }
    }
    Team::sync();
    const T root = sqrt(pivot);
    for (int i = rank; i < n; i += size)
      b.s[k * pitch + i] = i > k ? b.s[k * pitch + i] / root : (i == k ? root : T(0));
    Team::sync();
    for (int j = k + 1 + warp; j < n; j += warps) {
      const T factor = b.s[k * pitch + j];
      for (int i = k + 1 + lane; i < n; i += kWarp)
        b.s[j * pitch + i] -= b.s[k * pitch + i] * factor;
    }
    Team::sync();
  }
  Team::sync();
  for (int j = k + warp; j < n; j += warps)
    for (int i = lane; i < n; i += kWarp) b.s[j * pitch + i] = 0;
  Team::sync();
  return k;
}

// --- rotations ---

// What makes columns x and y orthogonal: x − s (y + τ x) and y + s (x − τ y) with τ = s / (1 + c).
// In this form the cosine c, which is nearly 1 in most rotations, is never rounded to 1 − ε: c x −
// s y would lengthen the columns by 1e-5 over the thousand rotations that each takes part in.
template <typename T>
struct Rotation {
  T s, tau, t;               // sine, s / (1 + cosine), tangent
  bool orthogonal, swapped;  // as they were; y is the larger one afterwards

  // From ‖x‖², ‖y‖² and x·y.
  static __device__ __forceinline__ Rotation of(T a, T b, T g, T orthogonal) {
    const T magnitude = g < T(0) ? -g : g, norms = sqrt(a) * sqrt(b);
    Rotation r{0, 0, 0, !(magnitude > orthogonal * norms), b > a};
    if (magnitude > kNegligible<T> * norms) {
      // The smaller root of t² + 2 ζ t = 1; an overflow of ζ² gives t = 0, which is right.
      const T zeta = (b - a) / (2 * g);
      const T t =
          (zeta < T(0) ? T(-1) : T(1)) / ((zeta < T(0) ? -zeta : zeta) + sqrt(1 + zeta * zeta));
      r.t = t;
      const T c = T(1) / sqrt(1 + t * t);
      r.s = c * t;
      r.tau = r.s / (1 + c);
      r.swapped = b + t * g > a - t * g;
    }
    return r;
  }

  // In place, the larger one first.
  __device__ __forceinline__ void apply(T& x, T& y) const {
    const T u = x - s * (y + tau * x), v = y + s * (x - tau * y);
    x = swapped ? v : u;
    y = swapped ? u : v;
  }

  // The norms of both afterwards, from those before and x·y. Never below 0, which rounding could.
  __device__ __forceinline__ void apply_to_norms(T xx, T yy, T xy, T& first, T& second) const {
    const T u = xx - t * xy, v = yy + t * xy;
    first = swapped ? v : u;
    second = swapped ? u : v;
    first = first > T(0) ? first : T(0);
    second = second > T(0) ? second : T(0);
  }
};

// The p-th pair i < j = i ^ r of round r.
__device__ __forceinline__ int first_of_pair(int p, int r) {
  const int high = 31 - __clz(r);
  return ((p >> high) << (high + 1)) | (p & ((1 << high) - 1));
}

// The smallest power of two that is not below n.
__host__ __device__ constexpr int power_of_two_above(int n) {
  int size = 1;
  while (size < n) size *= 2;
  return size;
}

// --- Jacobi in shared memory ---

// Squared norms of the columns.
template <typename Team, typename T>
__device__ void column_norms(const Bench<T>& b) {
  const int lane = Team::rank() % kWarp;
  for (int j = Team::rank() / kWarp; j < b.n; j += Team::size() / kWarp) {
    T sum = 0;
    for (int i = lane; i < b.n; i += kWarp) sum += b.s[j * b.pitch + i] * b.s[j * b.pitch + i];
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
      sum += __shfl_xor_sync(kFullMask, sum, offset);
    if (lane == 0) b.norm[j] = sum;
  }
  Team::sync();
}

// Rows that a thread holds of each of its two columns; kLanes * kHeld >= n.
constexpr int kHeld = 8;

// Makes the first `rank` columns orthogonal; returns the number of sweeps, or kNotConverged. kLanes
// threads work on a pair of columns, 32 / kLanes pairs a warp. Norms are computed once a sweep and
// carried along by the rotations: one sum over the lanes a pair in place of three. Work a sweep:
// rank²/2 pairs of 10 n flop, 4 n values of shared memory, and one barrier a round.
template <int kLanes, typename T>
__device__ int jacobi(const Bench<T>& b, int rank) {
  const int lane = threadIdx.x % kLanes, first = threadIdx.x / kLanes;
  const int teams = static_cast<int>(blockDim.x) / kLanes;
  const unsigned mask = static_cast<unsigned>((1ull << kLanes) - 1)
                        << (threadIdx.x % kWarp / kLanes * kLanes);
  const int size = power_of_two_above(rank);
  for (int sweep = 1; sweep <= kMaxSweeps; ++sweep) {
    bool rotated = false;
    column_norms<BlockTeam>(b);
    for (int r = 1; r < size; ++r) {
      for (int p = first; p < size / 2; p += teams) {
        const int i = first_of_pair(p, r), j = i ^ r;
        if (j >= rank) continue;
        T* const x = b.s + i * b.pitch + lane;
        T* const y = b.s + j * b.pitch + lane;
        const T xx = b.norm[i], yy = b.norm[j];
        T own_x[kHeld], own_y[kHeld];
        T xy = 0;
#pragma unroll
        for (int e = 0; e < kHeld; ++e) {
          const bool inside = lane + e * kLanes < b.n;
          own_x[e] = inside ? x[e * kLanes] : T(0);
          own_y[e] = inside ? y[e * kLanes] : T(0);
          xy += own_x[e] * own_y[e];
        }
#pragma unroll
        for (int offset = kLanes / 2; offset > 0; offset /= 2)
          xy += __shfl_xor_sync(mask, xy, offset);
        const auto rotation = Rotation<T>::of(xx, yy, xy, kOrthogonal<T>);
        rotated = rotated || !rotation.orthogonal;
        if (rotation.s == T(0) && !rotation.swapped) continue;
#pragma unroll
        for (int e = 0; e < kHeld; ++e) {
          if (lane + e * kLanes >= b.n) continue;
          rotation.apply(own_x[e], own_y[e]);
          x[e * kLanes] = own_x[e];
          y[e * kLanes] = own_y[e];
        }
        __syncwarp(mask);  // the other lanes have read the norms
        if (lane == 0) rotation.apply_to_norms(xx, yy, xy, b.norm[i], b.norm[j]);
      }
      __syncthreads();
    }
    if (!__syncthreads_or(rotated)) return sweep;
  }
  return kNotConverged;
}

// --- Jacobi in registers ---

// The same for n <= 32 by one warp: a column a lane, which reads its partner's by shuffles; no
// barrier and no shared memory. Work a sweep: 31 rounds of 33 shuffles and 384 flop a lane.
template <typename T>
__device__ int jacobi_in_registers(T (&own)[kWarp]) {
  const int lane = threadIdx.x % kWarp;
  for (int sweep = 1; sweep <= kMaxSweeps; ++sweep) {
    bool rotated = false;
#pragma unroll 1
    for (int r = 1; r < kWarp; ++r) {
      T other[kWarp];
      T mine = 0, dot = 0;
#pragma unroll
      for (int e = 0; e < kWarp; ++e) {
        other[e] = __shfl_xor_sync(kFullMask, own[e], r);
        mine += own[e] * own[e];
        dot += own[e] * other[e];
      }
      const T theirs = __shfl_xor_sync(kFullMask, mine, r);
      const bool lower = lane < (lane ^ r);
      // Both lanes of a pair come to the same rotation.
      const auto rotation =
          Rotation<T>::of(lower ? mine : theirs, lower ? theirs : mine, dot, kOrthogonal<T>);
      rotated = rotated || !rotation.orthogonal;
#pragma unroll
      for (int e = 0; e < kWarp; ++e) {
        T x = lower ? own[e] : other[e], y = lower ? other[e] : own[e];
        rotation.apply(x, y);
        own[e] = lower ? x : y;
      }
    }
    if (!__any_sync(kFullMask, rotated)) return sweep;
  }
  return kNotConverged;
}

// --- results ---

// How many of `norm` come before column j in descending order, ties in the order of the columns; by
// one warp.
template <typename T>
__device__ int position_of(const T* norm, int64_t n, int64_t j) {
  const T mine = norm[j];
  int before = 0;
  for (int64_t i = threadIdx.x % kWarp; i < n; i += kWarp)
    before += norm[i] > mine || (norm[i] == mine && i < j);
  for (int offset = kWarp / 2; offset > 0; offset /= 2)
    before += __shfl_xor_sync(kFullMask, before, offset);
  return before;
}

// Eigenvalues, ascending, and unit vectors, a vector a row; a vector of zeros where λ is 0.
template <typename Team, typename T>
__device__ void write_sorted(const Bench<T>& b, T shift, T scale, bool failed,
                             T* values,     // [n]
                             T* vectors) {  // [n, n]
  const int lane = Team::rank() % kWarp, n = b.n;
  for (int j = Team::rank() / kWarp; j < n; j += Team::size() / kWarp) {
    const int place = failed ? j : n - 1 - position_of(b.norm, n, j);  // NaN has no order
    const T lambda = b.norm[j];
    const T inverse = lambda > T(0) ? T(1) / sqrt(lambda) : T(0);
    const double value = static_cast<double>(lambda - shift) / static_cast<double>(scale);
    if (lane == 0) values[place] = failed ? not_a_number<T>() : saturate<T>(value);
    for (int i = lane; i < n; i += kWarp)
      vectors[static_cast<int64_t>(place) * n + b.row[i]] =
          failed ? not_a_number<T>() : b.s[j * b.pitch + i] * inverse;
  }
}

}  // namespace mige::cuda
