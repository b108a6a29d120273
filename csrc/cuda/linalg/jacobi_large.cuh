// Jacobi between column blocks, for matrices that are too large for the shared memory of one thread
// block. It makes the columns of L orthogonal. A column block has 32 columns. A round works on
// disjoint pairs of column blocks, so a pair has 64 columns.
//
// For each pair, with C its 64 columns:
//   1. G = CᵀC, a 64×64 matrix. One thread block sums over each piece of 256 rows.
//   2. One sweep of two-sided Jacobi on G in shared memory gives an orthogonal V; then C ← C V.
// Every thread block of step 2 computes V of its pair itself, so that it does not wait for another
// thread block. In float32 for n = 256 and 512, 6-7 sweeps were measured. With a second sweep on G
// there is one sweep less, but the total time is longer.
//
// Work of a sweep: n/32 rounds of two launches, 8 n³ flop, and the sweeps on G. The host does not
// wait for the device, so the number of launches is fixed. Launches after convergence return at
// once.
#pragma once

#include "cuda/linalg/large_matrix.cuh"

namespace mige::cuda {

// The limit for the cosine of orthogonal columns. It is larger than kOrthogonal, because the
// rounding errors of longer sums hide smaller cosines.
template <typename T>
constexpr T kLargeOrthogonal = 16 * kEpsilon<T>;

// The 64 columns of a pair of column blocks. Column c of the pair is row of(c) of `a`. Columns 0 to
// 31 belong to the first column block, and columns 32 to 63 to the second.
struct ColumnPair {
  int first, second;
  __device__ __forceinline__ int of(int c) const {
    return c < kPanel ? first * kPanel + c : second * kPanel + c - kPanel;
  }
};

// Whether this thread block has work in this round: its pair exists and is not all zero, and the
// previous sweep rotated columns.
template <typename T>
__device__ __forceinline__ bool pair_of_round(const LargeArguments<T>& p, int64_t g, int sweep,
                                              int r, ColumnPair& pair) {
  const LargeState<T>& state = p.state[g];
  pair.first = first_of_pair(static_cast<int>(blockIdx.x), r);
  pair.second = pair.first ^ r;
  return pair.second < p.blocks && pair.first * kPanel < state.rank &&
         (sweep == 0 || state.rotated[sweep - 1]);
}

// The operand (see tile.cuh) for the 64 columns of a pair and a piece of their rows.
template <typename T>
struct PairOperand : Operand<T, true> {
  ColumnPair pair;

  template <int kThreadTile>
  __device__ __forceinline__ void fetch(int64_t, int64_t k0, T (&values)[kThreadTile]) const {
#pragma unroll
    for (int e = 0; e < kThreadTile; ++e) {
      const auto [c, in_slice] = this->template place<kThreadTile>(e);
      const int64_t k = k0 + in_slice, row = pair.of(c);
      values[e] = k < this->depth ? this->p[row * this->stride + k] : T(0);
    }
  }
};

// Step 1: G = CᵀC [64, 64] for the 64 columns C of a pair, over one piece of 256 rows. A thread
// block takes one pair (x) and one piece (y), groups along z; a thread takes 4×4 elements. Work per
// pair: 2 n 64² flop; reads 128 n values. Shared memory: 8.5 KiB in float, 17 KiB in double.
// Registers: at most 128 in float, 255 in double.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T>)
    pair_gram_kernel(LargeArguments<T> p, int sweep, int r) {
  __shared__ __align__(16) T slices[Tile<4>::kSlices];
  const int64_t n = p.e.n;
  const int64_t row0 = blockIdx.y * int64_t(kPiece);
  const int64_t rows = at_most(n - row0, kPiece);
  for (int64_t g = blockIdx.z; g < p.e.groups; g += gridDim.z) {
    ColumnPair pair;
    if (!pair_of_round(p, g, sweep, r, pair)) continue;
    const PairOperand<T> columns{{p.columns(g) + row0, kPairColumns, rows, n, T(1)}, pair};
    T sum[4][4] = {};
    accumulate(columns, 0, columns, 0, slices, sum);
    T* const gram = p.grams + ((g * p.pairs + blockIdx.x) * p.pieces + blockIdx.y) * kPairColumns *
                                  kPairColumns;
    for_each_element(0, 0, kPairColumns, kPairColumns, [&](int i, int j, int64_t r, int64_t c) {
      gram[r * kPairColumns + c] = sum[i][j];
    });
  }
}

constexpr int kGramPitch = kPairColumns + 1;
constexpr int kRotationPitch = Tile<4>::kPitch;
template <typename T>
constexpr size_t kRotateSmem =
    sizeof(T) * (kTileDepth * kRotationPitch + kPairColumns * kRotationPitch +
                 kPairColumns * kGramPitch + 2 * kPanel) +
    sizeof(int) * kPanel;
static_assert(kRotateSmem<double> <= 99 * 1024, "the smallest architecture has only 99 KiB");

// One sweep of two-sided Jacobi on the 64×64 matrix `gram`. It accumulates the rotations in V. All
// 256 threads take part. V is stored as V − I, because a cosine near 1 would be rounded to 1, and
// the columns would grow over the sweeps.
template <typename T>
__device__ void rotate_gram(T* gram,   // [64, kGramPitch]
                            T* v,      // [64, kRotationPitch]: V − I
                            T* sines,  // [2, 32]
                            int* swaps) {
  const int t = static_cast<int>(threadIdx.x);
  for (int r = 1; r < kPairColumns; ++r) {
    if (t < kPanel) {
      const int i = first_of_pair(t, r), j = i ^ r;
      const T a = gram[i * kGramPitch + i], b = gram[j * kGramPitch + j];
      const auto rotation = Rotation<T>::of(a > T(0) ? a : T(0), b > T(0) ? b : T(0),
                                            gram[i * kGramPitch + j], kLargeOrthogonal<T>);
      sines[t] = rotation.s;
      sines[kPanel + t] = rotation.tau;
      swaps[t] = rotation.swapped;
    }
    __syncthreads();
    const auto rotation_of = [&](int pair) {
      return Rotation<T>{sines[pair], sines[kPanel + pair], T(0), true, swaps[pair] != 0};
    };
    // A thread updates the four elements in the two rows of one pair and the two columns of
    // another pair.
    for (int e = t; e < kPanel * kPanel; e += kTileThreads) {
      const int of_rows = e % kPanel, of_columns = e / kPanel;
      const int i = first_of_pair(of_rows, r), j = i ^ r;
      const int k = first_of_pair(of_columns, r), l = k ^ r;
      T ik = gram[i * kGramPitch + k], il = gram[i * kGramPitch + l];
      T jk = gram[j * kGramPitch + k], jl = gram[j * kGramPitch + l];
      const auto rows = rotation_of(of_rows), columns = rotation_of(of_columns);
      rows.apply(ik, jk);
      rows.apply(il, jl);
      columns.apply(ik, il);
      columns.apply(jk, jl);
      gram[i * kGramPitch + k] = ik;
      gram[i * kGramPitch + l] = il;
      gram[j * kGramPitch + k] = jk;
      gram[j * kGramPitch + l] = jl;
    }
    for (int e = t; e < kPairColumns * kPanel; e += kTileThreads) {
      const int pair = e % kPanel, c = e / kPanel;
      const int i = first_of_pair(pair, r), j = i ^ r;
      T& in_i = v[c * kRotationPitch + i];
      T& in_j = v[c * kRotationPitch + j];
      const auto rotation = rotation_of(pair);
      const T one_i = c == i, one_j = c == j;
      const T x = in_i + one_i, y = in_j + one_j;
      const T u = in_i - rotation.s * (y + rotation.tau * x);
      const T v = in_j + rotation.s * (x - rotation.tau * y);
      in_i = rotation.swapped ? v + (one_j - one_i) : u;
      in_j = rotation.swapped ? u + (one_i - one_j) : v;
    }
    __syncthreads();
  }
}

// Step 2: computes V from the Gram matrix of a pair, and C ← C V for one piece of 256 rows. A
// thread block takes one pair (x) and one piece (y), groups along z. Work per pair: 63 rounds on
// the 64×64 matrix, which take about 12 64³ flop per piece, and 2 n 64² flop for C V; reads and
// writes 64 n values. Shared memory: 38 KiB in float, 76 KiB in double. Registers: at most 128 in
// float, 255 in double.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T>)
    pair_rotate_kernel(LargeArguments<T> p, int sweep, int r) {
  T* const slice = dynamic_smem<T>();                 // [kTileDepth, kRotationPitch]
  T* const v = slice + kTileDepth * kRotationPitch;   // [64, kRotationPitch]
  T* const gram = v + kPairColumns * kRotationPitch;  // [64, kGramPitch]
  T* const sines = gram + kPairColumns * kGramPitch;  // [2, 32]
  int* const swaps = reinterpret_cast<int*>(sines + 2 * kPanel);
  const int64_t n = p.e.n;
  const int t = static_cast<int>(threadIdx.x);

  for (int64_t g = blockIdx.z; g < p.e.groups; g += gridDim.z) {
    ColumnPair pair;
    if (!pair_of_round(p, g, sweep, r, pair)) continue;
    const T* const pieces =
        p.grams + (g * p.pairs + blockIdx.x) * p.pieces * kPairColumns * kPairColumns;
    for (int e = t; e < kPairColumns * kPairColumns; e += kTileThreads) {
      T sum = 0;
      for (int i = 0; i < p.pieces; ++i) sum += pieces[i * kPairColumns * kPairColumns + e];
      gram[e / kPairColumns * kGramPitch + e % kPairColumns] = sum;
      v[e / kPairColumns * kRotationPitch + e % kPairColumns] = 0;
    }
    __syncthreads();
    bool rotated = false;
    for (int e = t; e < kPairColumns * kPairColumns; e += kTileThreads) {
      const int i = e / kPairColumns, j = e % kPairColumns;
      const T cosine = gram[i * kGramPitch + j];
      rotated = rotated || (i != j && (cosine < T(0) ? -cosine : cosine) >
                                          kLargeOrthogonal<T> * sqrt(gram[i * kGramPitch + i]) *
                                              sqrt(gram[j * kGramPitch + j]));
    }
    if (!__syncthreads_or(rotated)) continue;
    if (t == 0 && blockIdx.y == 0) atomicOr(&p.state[g].rotated[sweep], 1);
    rotate_gram(gram, v, sines, swaps);

    T* const a = p.columns(g);
    const int64_t row0 = blockIdx.y * int64_t(kPiece);
    for (int64_t k0 = row0; k0 < row0 + kPiece && k0 < n; k0 += kPairColumns) {
      T sum[4][4] = {};
      for (int c0 = 0; c0 < kPairColumns; c0 += kTileDepth) {
        __syncthreads();  // the previous slice has been read
        for (int e = t; e < kTileDepth * kPairColumns; e += kTileThreads) {
          const int64_t k = k0 + e % kPairColumns;
          slice[e / kPairColumns * kRotationPitch + e % kPairColumns] =
              k < n ? a[pair.of(c0 + e / kPairColumns) * n + k] : T(0);
        }
        __syncthreads();
        use_slice(v + c0 * kRotationPitch, slice, sum);
      }
      for_each_element(0, k0, kPairColumns, n, [&](int i, int j, int64_t c, int64_t k) {
        a[pair.of(static_cast<int>(c)) * n + k] += sum[i][j];
      });
    }
    __syncthreads();  // before the next group overwrites V
  }
}

// Makes the columns of every group orthogonal.
template <typename T>
void jacobi_large(const LargeArguments<T>& p, Stream& stream) {
  const Grid grid{p.pairs, p.pieces, group_blocks(p.e.groups)};
  for (int sweep = 0; sweep < kMaxLargeSweeps; ++sweep)
    for (int r = 1; r < 2 * p.pairs; ++r) {
      stream.launch(pair_gram_kernel<T>, {grid, kTileThreads}, p, sweep, r);
      stream.launch(pair_rotate_kernel<T>, {grid, kTileThreads, kRotateSmem<T>}, p, sweep, r);
    }
}

}  // namespace mige::cuda
