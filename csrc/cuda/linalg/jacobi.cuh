// One-sided Jacobi: rotates the columns of a Cholesky factor L until they are orthogonal.
//
//   K = L Lᵀ,   A = L V with orthogonal columns a_j,
//   K = Σ_j a_j a_jᵀ,   λ_j = ‖a_j‖²,   u_j = a_j / √λ_j
//
// Veselić and Hari (1989) describe the method. A overwrites L. Small λ keep their relative
// accuracy.
//
// A sweep visits every pair of columns once, in rounds r = 1, 2, … of disjoint pairs (i, i ^ r).
// Gram matrices of n = 32 to 128 in float32 took 6-8 sweeps. The usual round-robin order took 7-13
// sweeps. Invariant: after a rotation the column with the larger norm has the lower index.
#pragma once

#include "cuda/core/approximate.cuh"
#include "cuda/linalg/cholesky.cuh"

namespace mige::cuda {

constexpr int kMaxSweeps = 30;

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

// A rotation of two columns x and y: x − s (y + τ x) and y + s (x − τ y), with the sine s, the
// cosine c and τ = s / (1 + c). In most rotations c is nearly 1, and this form does not round c to
// 1. With the form c x − s y, the norm of a column would grow by a relative 1e-5 over the thousand
// rotations of each column.
template <typename T>
struct PlaneRotation {
  T s, tau;

  __device__ __forceinline__ T first(T x, T y) const { return x - s * (y + tau * x); }
  __device__ __forceinline__ T second(T x, T y) const { return y + s * (x - tau * y); }
};

// The rotation that makes columns x and y orthogonal.
template <typename T>
struct Rotation : PlaneRotation<T> {
  T t;              // the tangent
  bool orthogonal;  // whether x and y were orthogonal
  bool swapped;     // whether the new y is the larger one

  // Whether |g| <= limit √(a b), for a = ‖x‖², b = ‖y‖² and g = x·y. If g² and (b − a)² underflow,
  // the norms of both columns are rounding errors, and the columns count as orthogonal.
  static __device__ __forceinline__ bool are_orthogonal(T a, T b, T g, T limit) {
    const T difference = b - a, square = 4 * g * g;
    return !(square > 4 * limit * limit * (a * b) &&
             difference * difference + square >= kSmallestNormal<T>);
  }

  // The rotation for a = ‖x‖², b = ‖y‖² and g = x·y. `limit` is the largest cosine of columns that
  // count as orthogonal. The tangent t may be approximate, because a later rotation corrects the
  // angle. But c, s and τ must belong to the same angle. Therefore one Newton step makes c
  // accurate, and a second Newton step makes τ accurate.
  static __device__ __forceinline__ Rotation of(T a, T b, T g, T limit) {
    // t is the smaller root of g t² + (b − a) t = g.
    const T difference = b - a, twice = 2 * g, sum = difference * difference + twice * twice;
    const T magnitude = difference < T(0) ? -difference : difference;
    const T root = sum * approximate_rsqrt(sum);
    const T ratio = twice * approximate_reciprocal(magnitude + root);
    const T t =
        are_orthogonal(a, b, g, kNegligible<T>) ? T(0) : (difference < T(0) ? -ratio : ratio);
    const T secant_square = 1 + t * t;
    T c = approximate_rsqrt(secant_square);
    c += c * (T(0.5) - T(0.5) * secant_square * c * c);
    const T s = c * t, inverse = approximate_reciprocal(1 + c);
    const T tau = s * inverse;
    return {{s, tau + (s - tau * (1 + c)) * inverse},
            t,
            are_orthogonal(a, b, g, limit),
            difference + t * twice > T(0)};
  }

  // Whether the rotation leaves the columns as they are.
  __device__ __forceinline__ bool is_identity() const { return t == T(0) && !swapped; }

  // Computes the squared norms after the rotation from a = ‖x‖², b = ‖y‖² and g = x·y before it,
  // the larger one first. A norm that rounding would make negative becomes 0.
  __device__ __forceinline__ void apply_to_norms(T a, T b, T g, T& larger, T& smaller) const {
    const T u = a - t * g, v = b + t * g;
    larger = swapped ? v : u;
    smaller = swapped ? u : v;
    larger = larger > T(0) ? larger : T(0);
    smaller = smaller > T(0) ? smaller : T(0);
  }
};

// The lower index i of pair number `pair` of round r, whose members are i < j = i ^ r. The highest
// bit of r is 0 in i and 1 in j, so the pairs are counted by the other bits of i: i is `pair` with
// a 0 inserted at the place of this bit.
__device__ __forceinline__ int first_of_pair(int pair, int r) {
  const int high = 31 - __clz(r);
  return ((pair >> high) << (high + 1)) | (pair & ((1 << high) - 1));
}

// The smallest power of two that is not below n.
__host__ __device__ constexpr int power_of_two_above(int n) {
  int size = 1;
  while (size < n) size *= 2;
  return size;
}

// --- Jacobi in shared memory ---

// The squared norm of a column. All lanes of a warp compute it together.
template <typename T, typename Index>
__device__ __forceinline__ T squared_norm(const T* column, Index n) {  // [n]
  T sum = 0;
  for (Index i = threadIdx.x % kWarp; i < n; i += kWarp) sum += column[i] * column[i];
  return warp_sum(sum);
}

// Writes the squared norms of all columns to a.norm.
template <typename Team, typename T>
__device__ void column_norms(const SharedMatrix<T>& a) {
  const int lane = Team::thread() % kWarp;
  for (int j = Team::thread() / kWarp; j < a.n; j += Team::threads() / kWarp) {
    const T sum = squared_norm(a.s + j * a.pitch, a.n);
    if (lane == 0) a.norm[j] = sum;
  }
  Team::sync();
}

// How threads divide the pairs of columns of a matrix of at most kLargest rows. kLanes threads take
// a pair, and each of them keeps kRows rows of both columns in registers. A warp takes 32 / kLanes
// pairs. Columns are padded with zeros to kLargest rows, so that no thread tests bounds. The pitch
// is the smallest one that leaves the remainder kLanes when divided by 32. The columns that a warp
// reads at once then start on different banks of shared memory.
template <int kLanes, int kRows>
struct PairShape {
  static constexpr int kLargest = kLanes * kRows;
  static constexpr int kPitch = (kLargest - kLanes + 31) / 32 * 32 + kLanes;
  static constexpr int kPairs = kWarp / kLanes;
};

// Rotates the columns i and j of a pair, with their norms. All lanes of a warp must call this
// together, kLanes neighboring lanes with the same pair. If `valid` is false, these lanes change
// nothing, and i and j must be columns that no other warp changes. Returns whether the columns were
// not orthogonal.
template <int kLanes, int kRows, typename T>
__device__ __forceinline__ bool rotate_pair(const SharedMatrix<T>& a, int i, int j, bool valid) {
  constexpr int kPitch = PairShape<kLanes, kRows>::kPitch;
  const int lane = threadIdx.x % kLanes;
  T* const x = a.s + i * kPitch + lane;
  T* const y = a.s + j * kPitch + lane;
  const T xx = a.norm[i], yy = a.norm[j];
  T in_x[kRows], in_y[kRows];
  T xy = 0;
#pragma unroll
  for (int e = 0; e < kRows; ++e) {
    in_x[e] = x[e * kLanes];
    in_y[e] = y[e * kLanes];
    xy += in_x[e] * in_y[e];
  }
  xy = warp_sum<kLanes>(xy);
  const auto rotation = Rotation<T>::of(xx, yy, xy, kOrthogonal<T>);
  __syncwarp();  // all lanes of the pair have read the norms
  if (valid && !rotation.is_identity()) {
    // Swapped columns are written to each other's place.
    T* const to_x = rotation.swapped ? y : x;
    T* const to_y = rotation.swapped ? x : y;
#pragma unroll
    for (int e = 0; e < kRows; ++e) {
      to_x[e * kLanes] = rotation.first(in_x[e], in_y[e]);
      to_y[e * kLanes] = rotation.second(in_x[e], in_y[e]);
    }
    if (lane == 0) {
      T larger, smaller;
      rotation.apply_to_norms(xx, yy, xy, larger, smaller);
      a.norm[i] = larger;
      a.norm[j] = smaller;
    }
  }
  return valid && !rotation.orthogonal;
}

// The number of sweeps, and whether the last sweep found only orthogonal columns.
struct Iteration {
  int sweeps;
  bool converged;
};

// Makes the first `rank` columns of `a` orthogonal; the others are zero. Norms are computed once
// per sweep and updated by the rotations, so a pair takes one sum over the lanes instead of three.
// Work of a sweep: rank²/2 pairs, each with 10 kLargest flop and 4 kLargest values read or written
// in shared memory, and one barrier per round. The comment of eigh_block_kernel has the number of
// instructions of a pass of the loop over pairs.
template <int kLanes, int kRows, typename T>
__device__ Iteration jacobi(const SharedMatrix<T>& a, int rank) {
  using Shape = PairShape<kLanes, kRows>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp, size = power_of_two_above(rank);
  for (int j = warp; j < rank; j += warps)
    for (int i = a.n + lane; i < Shape::kLargest; i += kWarp) a.s[j * Shape::kPitch + i] = 0;
  for (int sweep = 1; sweep <= kMaxSweeps; ++sweep) {
    bool rotated = false;
    column_norms<BlockTeam>(a);
    for (int r = 1; r < size; ++r) {
#pragma unroll 1
      for (int p0 = warp * Shape::kPairs; p0 < size / 2; p0 += warps * Shape::kPairs) {
        const int i = first_of_pair(p0 + lane / kLanes, r), j = i ^ r;
        const bool valid = j < rank;
        if (!__any_sync(kFullMask, valid)) continue;
        // An invalid pair passes column `spare` twice. This column belongs to the first pair of the
        // warp, so no other warp changes it. If any pair of the warp is valid, `spare` < rank.
        const int spare = first_of_pair(p0, r);
        rotated |= rotate_pair<kLanes, kRows>(a, valid ? i : spare, valid ? j : spare, valid);
      }
      __syncthreads();
    }
    if (!__syncthreads_or(rotated)) return {sweep, true};
  }
  return {kMaxSweeps, false};
}

// --- Jacobi in registers ---

// Jacobi for n <= 32 by one warp, without barriers or shared memory. Each lane has one column in
// registers and reads the second column of the pair by shuffles. Work of a sweep: 31 rounds, each
// with 33 shuffles and 6 × 32 flop per lane.
template <typename T>
__device__ Iteration jacobi_in_registers(T (&column)[kWarp]) {
  const int lane = threadIdx.x % kWarp;
  for (int sweep = 1; sweep <= kMaxSweeps; ++sweep) {
    bool rotated = false;
    T norm = 0;
#pragma unroll
    for (int e = 0; e < kWarp; ++e) norm += column[e] * column[e];
#pragma unroll 1
    for (int r = 1; r < kWarp; ++r) {
      T other[kWarp];
      T dot = 0;
#pragma unroll
      for (int e = 0; e < kWarp; ++e) {
        other[e] = __shfl_xor_sync(kFullMask, column[e], r);
        dot += column[e] * other[e];
      }
      const T other_norm = __shfl_xor_sync(kFullMask, norm, r);
      const bool lower = lane < (lane ^ r);
      const T a = lower ? norm : other_norm, b = lower ? other_norm : norm;
      // Both lanes of a pair compute the same rotation. The lane with the lower index keeps the
      // larger column.
      const auto rotation = Rotation<T>::of(a, b, dot, kOrthogonal<T>);
      rotated = rotated || !rotation.orthogonal;
      const bool second = lower == rotation.swapped;  // whether this lane keeps y + s (x − τ y)
      const T s = second ? rotation.s : -rotation.s, tau = second ? -rotation.tau : rotation.tau;
#pragma unroll
      for (int e = 0; e < kWarp; ++e) {
        const T from = rotation.swapped ? other[e] : column[e];
        const T with = rotation.swapped ? column[e] : other[e];
        column[e] = from + s * (with + tau * from);
      }
      T larger, smaller;
      rotation.apply_to_norms(a, b, dot, larger, smaller);
      norm = lower ? larger : smaller;
    }
    if (!__any_sync(kFullMask, rotated)) return {sweep, true};
  }
  return {kMaxSweeps, false};
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

// Where and how the eigenpairs of one matrix are written. λ is (‖a‖² − shift) / scale. If the
// columns are unit vectors (`unit`), `norm` holds scale · λ + shift in place of ‖a‖². All results
// are NaN if `failed`.
template <typename T>
struct Eigenpairs {
  T shift, scale;
  bool unit, failed;
  T* values;   // [n], ascending
  T* vectors;  // [n, n], one vector per row; zeros if ‖a‖ = 0
};

// Writes the eigenvalue and the unit eigenvector of column j to their sorted position. All lanes
// of a warp do this together. Row i of the column is row row_of(i) of the matrix.
template <typename T, typename Index, typename RowOf>
__device__ __forceinline__ void write_eigenpair(const T* column,  // [n]
                                                const T* norm,    // [n]: ‖a‖², or scale λ + shift
                                                Index n, Index j, const Eigenpairs<T>& out,
                                                const RowOf& row_of) {
  const Index place = out.failed ? j : n - 1 - position_of(norm, n, j);  // NaNs cannot be sorted
  const T lambda = norm[j];
  const T inverse = out.unit ? T(1) : (lambda > T(0) ? T(1) / sqrt(lambda) : T(0));
  const double value = static_cast<double>(lambda - out.shift) / static_cast<double>(out.scale);
  const Index lane = threadIdx.x % kWarp;
  if (lane == 0) out.values[place] = out.failed ? not_a_number<T>() : saturate<T>(value);
  for (Index i = lane; i < n; i += kWarp)
    out.vectors[static_cast<int64_t>(place) * n + row_of(i)] =
        out.failed ? not_a_number<T>() : column[i] * inverse;
}

}  // namespace mige::cuda
