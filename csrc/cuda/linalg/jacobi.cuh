// One-sided Jacobi: rotates the columns of a Cholesky factor L until they are orthogonal.
//
//   K = L Lᵀ,   A = L V with orthogonal columns a_j,
//   K = Σ_j a_j a_jᵀ,   λ_j = ‖a_j‖²,   u_j = a_j / √λ_j
//
// Veselić and Hari (1989) describe the method. A overwrites L. Small λ keep their relative
// accuracy.
//
// A sweep visits every pair of columns once, in rounds r = 1, 2, … of disjoint pairs (i, i ^ r).
// For Gram matrices of n = 32 to 128 in float32, 6-8 sweeps were measured. The usual round robin
// takes 7-13. Invariant: after a rotation the column with the larger norm has the lower index.
#pragma once

#include "cuda/linalg/cholesky.cuh"

namespace mige::cuda {

constexpr int kMaxSweeps = 30;
// Values of `info`, which otherwise is the number of sweeps.
constexpr int kNotFinite = -1, kNotConverged = -2;

// Columns with a cosine up to this limit count as orthogonal. A sweep that finds only such columns
// is the last one.
template <typename T>
constexpr T kOrthogonal = 8 * kEpsilon<T>;
// Columns with a cosine up to this limit are not rotated. The limit is smaller than kOrthogonal, so
// that the last sweep also rotates columns that already count as orthogonal. Convergence is
// quadratic, so this sweep leaves cosines far below both limits.
template <typename T>
constexpr T kNegligible = kEpsilon<T> / 4;

// --- rotations ---

// The rotation that makes columns x and y orthogonal: x − s (y + τ x) and y + s (x − τ y), with the
// sine s, the cosine c and τ = s / (1 + c). In most rotations c is nearly 1, and this form does not
// round c to 1. With the form c x − s y, the norm of a column would grow by a relative 1e-5 over
// the thousand rotations of each column.
template <typename T>
struct Rotation {
  T s, tau, t;               // sine, s / (1 + cosine), tangent
  bool orthogonal, swapped;  // whether x and y were orthogonal; whether the new y is the larger one

  // The rotation for a = ‖x‖², b = ‖y‖² and g = x·y.
  static __device__ __forceinline__ Rotation of(T a, T b, T g, T orthogonal) {
    const T magnitude = g < T(0) ? -g : g, norms = sqrt(a) * sqrt(b);
    Rotation r{0, 0, 0, !(magnitude > orthogonal * norms), b > a};
    if (magnitude > kNegligible<T> * norms) {
      // t is the smaller root of t² + 2 zeta t = 1. If zeta² overflows, t = 0, which is correct.
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

  // Rotates in place and puts the larger column first.
  __device__ __forceinline__ void apply(T& x, T& y) const {
    const T u = x - s * (y + tau * x), v = y + s * (x - tau * y);
    x = swapped ? v : u;
    y = swapped ? u : v;
  }

  // Computes the squared norms after the rotation from xx = ‖x‖², yy = ‖y‖² and xy = x·y before it.
  // A norm that rounding would make negative becomes 0.
  __device__ __forceinline__ void apply_to_norms(T xx, T yy, T xy, T& first, T& second) const {
    const T u = xx - t * xy, v = yy + t * xy;
    first = swapped ? v : u;
    second = swapped ? u : v;
    first = first > T(0) ? first : T(0);
    second = second > T(0) ? second : T(0);
  }
};

// The lower index i of the p-th pair i < j = i ^ r of round r.
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

// The squared norm of a column. A warp computes it together.
template <typename T, typename Index>
__device__ __forceinline__ T squared_norm(const T* column, Index n) {  // [n]
  T sum = 0;
  for (Index i = threadIdx.x % kWarp; i < n; i += kWarp) sum += column[i] * column[i];
  return warp_sum(sum);
}

// Writes the squared norms of all columns to a.norm.
template <typename Team, typename T>
__device__ void column_norms(const SharedMatrix<T>& a) {
  const int lane = Team::rank() % kWarp;
  for (int j = Team::rank() / kWarp; j < a.n; j += Team::size() / kWarp) {
    const T sum = squared_norm(a.s + j * a.pitch, a.n);
    if (lane == 0) a.norm[j] = sum;
  }
  Team::sync();
}

// A thread works on two columns and keeps this many rows of each in registers. kLanes *
// kRowsPerThread must be at least n.
constexpr int kRowsPerThread = 8;

// Makes the first `rank` columns orthogonal and returns the number of sweeps, or kNotConverged.
// kLanes threads work on a pair of columns, so a warp works on 32 / kLanes pairs. Norms are
// computed once per sweep and updated by the rotations, so a pair takes one sum over the lanes
// instead of three. Work of a sweep: rank²/2 pairs, each with 10 n flop and 4 n values read or
// written in shared memory, and one barrier per round.
template <int kLanes, typename T>
__device__ int jacobi(const SharedMatrix<T>& a, int rank) {
  const int lane = threadIdx.x % kLanes, first = threadIdx.x / kLanes;
  const int teams = static_cast<int>(blockDim.x) / kLanes;
  const unsigned mask = static_cast<unsigned>((1ull << kLanes) - 1)
                        << (threadIdx.x % kWarp / kLanes * kLanes);
  const int size = power_of_two_above(rank);
  for (int sweep = 1; sweep <= kMaxSweeps; ++sweep) {
    bool rotated = false;
    column_norms<BlockTeam>(a);
    for (int r = 1; r < size; ++r) {
      for (int p = first; p < size / 2; p += teams) {
        const int i = first_of_pair(p, r), j = i ^ r;
        if (j >= rank) continue;
        T* const x = a.s + i * a.pitch + lane;
        T* const y = a.s + j * a.pitch + lane;
        const T xx = a.norm[i], yy = a.norm[j];
        T in_x[kRowsPerThread], in_y[kRowsPerThread];
        T xy = 0;
#pragma unroll
        for (int e = 0; e < kRowsPerThread; ++e) {
          const bool inside = lane + e * kLanes < a.n;
          in_x[e] = inside ? x[e * kLanes] : T(0);
          in_y[e] = inside ? y[e * kLanes] : T(0);
          xy += in_x[e] * in_y[e];
        }
        xy = warp_sum<kLanes>(xy, mask);
        const auto rotation = Rotation<T>::of(xx, yy, xy, kOrthogonal<T>);
        rotated = rotated || !rotation.orthogonal;
        if (rotation.s == T(0) && !rotation.swapped) continue;
#pragma unroll
        for (int e = 0; e < kRowsPerThread; ++e) {
          if (lane + e * kLanes >= a.n) continue;
          rotation.apply(in_x[e], in_y[e]);
          x[e * kLanes] = in_x[e];
          y[e * kLanes] = in_y[e];
        }
        __syncwarp(mask);  // all lanes of the pair have read the norms
        if (lane == 0) rotation.apply_to_norms(xx, yy, xy, a.norm[i], a.norm[j]);
      }
      __syncthreads();
    }
    if (!__syncthreads_or(rotated)) return sweep;
  }
  return kNotConverged;
}

// --- Jacobi in registers ---

// Jacobi for n <= 32 by one warp, without barriers and shared memory. Each lane has one column in
// registers and reads the second column of the pair by shuffles. Work of a sweep: 31 rounds, each
// with 33 shuffles and 12 × 32 flop per lane.
template <typename T>
__device__ int jacobi_in_registers(T (&column)[kWarp]) {
  const int lane = threadIdx.x % kWarp;
  for (int sweep = 1; sweep <= kMaxSweeps; ++sweep) {
    bool rotated = false;
#pragma unroll 1
    for (int r = 1; r < kWarp; ++r) {
      T other[kWarp];
      T mine = 0, dot = 0;
#pragma unroll
      for (int e = 0; e < kWarp; ++e) {
        other[e] = __shfl_xor_sync(kFullMask, column[e], r);
        mine += column[e] * column[e];
        dot += column[e] * other[e];
      }
      const T theirs = __shfl_xor_sync(kFullMask, mine, r);
      const bool lower = lane < (lane ^ r);
      // Both lanes of a pair compute the same rotation.
      const auto rotation =
          Rotation<T>::of(lower ? mine : theirs, lower ? theirs : mine, dot, kOrthogonal<T>);
      rotated = rotated || !rotation.orthogonal;
#pragma unroll
      for (int e = 0; e < kWarp; ++e) {
        T x = lower ? column[e] : other[e], y = lower ? other[e] : column[e];
        rotation.apply(x, y);
        column[e] = lower ? x : y;
      }
    }
    if (!__any_sync(kFullMask, rotated)) return sweep;
  }
  return kNotConverged;
}

// --- results ---

// The number of columns before column j in descending order of the norms; equal norms keep the
// order of the columns. All lanes of a warp must call this together.
template <typename T>
__device__ int position_of(const T* norm,  // [n]
                           int64_t n, int64_t j) {
  const T mine = norm[j];
  int before = 0;
  for (int64_t i = threadIdx.x % kWarp; i < n; i += kWarp)
    before += norm[i] > mine || (norm[i] == mine && i < j);
  return warp_sum(before);
}

// Where the eigenpairs of one matrix are written, and how: λ = (‖a‖² − shift) / scale. All results
// are NaN if `failed`.
template <typename T>
struct Spectral {
  T shift, scale;
  bool failed;
  T* values;   // [n], ascending
  T* vectors;  // [n, n], one vector per row; zeros if ‖a‖ = 0
};

// Writes the eigenvalue and the unit eigenvector of column j to their sorted position. A warp does
// this together. Row i of the column is row row_of(i) of the matrix.
template <typename T, typename Index, typename RowOf>
__device__ __forceinline__ void write_eigenpair(const T* column,  // [n]
                                                const T* norm,    // [n]: squared norms
                                                Index n, Index j, const Spectral<T>& out,
                                                const RowOf& row_of) {
  const Index place = out.failed ? j : n - 1 - position_of(norm, n, j);  // NaNs cannot be sorted
  const T lambda = norm[j];
  const T inverse = lambda > T(0) ? T(1) / sqrt(lambda) : T(0);
  const double value = static_cast<double>(lambda - out.shift) / static_cast<double>(out.scale);
  const Index lane = threadIdx.x % kWarp;
  if (lane == 0) out.values[place] = out.failed ? not_a_number<T>() : saturate<T>(value);
  for (Index i = lane; i < n; i += kWarp)
    out.vectors[static_cast<int64_t>(place) * n + row_of(i)] =
        out.failed ? not_a_number<T>() : column[i] * inverse;
}

}  // namespace mige::cuda
