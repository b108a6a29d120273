// Eigendecomposition of matrices too large for one block's shared memory: the algorithm of
// jacobi.cuh by many blocks, in global memory, with the barriers between launches.
//
// Cholesky takes 32 columns at a time: a panel by one block, then the rest of the matrix minus the
// panel's product with itself, by tiles. Jacobi works on pairs of blocks of 32 columns:
//   1. the 64×64 Gram matrix G of the pair's columns, each piece of 256 rows by a block of its own;
//   2. one sweep of two-sided Jacobi on G in shared memory gives an orthogonal V; the columns times
//   V.
// Each block of step 2 computes the same V anew rather than wait for one that does. Measured in
// float32 for n = 256 and 512: 6-7 sweeps; a second inner sweep saves one of them and costs more.
//
// Work: n³ multiply-adds for Cholesky, whose trailing update does not spare the half that symmetry
// would; a sweep is n/32 rounds of two launches and 8 n³ flop, and the inner sweeps. The
// number of launches is fixed, since nothing waits for the device; those after convergence return
// at once.
#pragma once

#include "cuda/linalg/eigh_small.cuh"
#include "cuda/linalg/tile.cuh"

namespace mige::cuda {

constexpr int kPanel = 32;  // columns of a block, and of a step of Cholesky
constexpr int kPair = 2 * kPanel;
constexpr int kPiece = 256;  // rows of the columns that one block takes
constexpr int kMaxLargeSweeps = 15;
constexpr int kPanelThreads = 512;

// Rounding of longer sums hides smaller cosines than kOrthogonal.
template <typename T>
constexpr T kLargeOrthogonal = 16 * kEpsilon<T>;

// What is known of one matrix.
template <typename T>
struct LargeState {
  Key<T> bound;                  // the square of a bound of the eigenvalues, if `indefinite`
  int rank;                      // columns of L
  int finished;                  // Cholesky has come to its end
  int indefinite;                // the small shift did not do
  int rotated[kMaxLargeSweeps];  // whether a sweep found columns that were not orthogonal
};

template <typename T>
struct LargeArguments {
  EighArguments<T> e;
  int blocks;            // of columns: n / 32, rounded up
  int pairs;             // in a round
  int pieces;            // of rows: n / 256, rounded up
  LargeState<T>* state;  // [groups]
  T* rest;               // [groups, n, n]: what is left of K
  T* diagonal;           // [groups, n]: of `rest`; −1 where a row has been the pivot
  T* a;                  // [groups, 32 blocks, n]: columns of L, then of A, a column a row; zeroed
  T* grams;              // [groups, pairs, pieces, 64, 64]
  T* norm;               // [groups, n]
};

template <typename T>
__device__ __forceinline__ T large_shift(const LargeArguments<T>& p, Spectrum spectrum, int64_t g) {
  if (spectrum == Spectrum::kGram) return T(0);
  const T small = small_shift<T>(p.e.n);
  return p.state[g].indefinite ? small + sqrt(value_of<T>(p.state[g].bound)) : small;
}

// --- Cholesky ---

// `rest` from the lower triangle of K, shifted. In the second attempt only for matrices that turned
// out to be indefinite. A thread an element. Registers: at most 64.
template <typename T, Spectrum kSpectrum>
__global__ void __launch_bounds__(256, 4) load_large_kernel(LargeArguments<T> p, bool again) {
  const int64_t n = p.e.n;
  for (int64_t g = blockIdx.z; g < p.e.groups; g += gridDim.z) {
    if (again && !p.state[g].indefinite) continue;
    const T magnitude = magnitude_of<T>(p.e.largest[g]);
    const T scale = kSpectrum == Spectrum::kGram ? T(1) : matrix_scale(magnitude);
    const T shift = large_shift(p, kSpectrum, g);
    for (int64_t i = blockIdx.y; i < n; i += gridDim.y)
      for (int64_t j = blockIdx.x * 256 + threadIdx.x; j < n; j += int64_t(gridDim.x) * 256) {
        const int64_t at = j <= i ? i * n + j : j * n + i;
        const T value = scale * p.e.k[g * n * n + at] + (i == j ? shift : T(0));
        p.rest[(g * n + i) * n + j] = value;
        if (again) p.a[(g * p.blocks * kPanel + i) * n + j] = 0;  // of the first attempt
        if (i == j) p.diagonal[g * n + i] = value;
      }
  }
}

// The bound for matrices that turned out to be indefinite: √‖K²‖_∞ (see eigenvalue_bound), from
// `rest`. A warp a row. Work: 2 n³ flop. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(256, 4) bound_kernel(LargeArguments<T> p) {
  const int64_t n = p.e.n;
  const int lane = threadIdx.x % kWarp;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y) {
    if (!p.state[g].indefinite) continue;
    const T* const k = p.rest + g * n * n;
    for (int64_t i = blockIdx.x * 8 + threadIdx.x / kWarp; i < n; i += int64_t(gridDim.x) * 8) {
      T sum = 0;
      for (int64_t j = lane; j < n; j += kWarp) {
        T dot = 0;
#pragma unroll 2
        for (int64_t l = 0; l < n; ++l) dot += k[l * n + i] * k[l * n + j];
        sum += dot < T(0) ? -dot : dot;
      }
      for (int offset = kWarp / 2; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(kFullMask, sum, offset);
      if (lane == 0 && sum > T(0)) atomicMax(&p.state[g].bound, key_of(sum));
    }
  }
}

// After the first attempt: is the matrix indefinite? Then the second starts from nothing.
// Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kWarp) judge_kernel(LargeArguments<T> p) {
  for (int64_t g = blockIdx.x * int64_t(kWarp) + threadIdx.x; g < p.e.groups;
       g += int64_t(gridDim.x) * kWarp) {
    const T magnitude = magnitude_of<T>(p.e.largest[g]);
    if (magnitude == magnitude && p.state[g].rank < p.e.n) {
      p.state[g].indefinite = 1;
      p.state[g].finished = 0;
      p.state[g].rank = 0;
    }
  }
}

// Columns k0 … k0 + 31 of L by one block: pivot, column minus what the panel's columns before it
// hold, diagonal. 32 n²/2 multiply-adds over the whole decomposition. Registers: at most 64 in
// float, 128 in double.
template <typename T, Spectrum kSpectrum>
__global__ void __launch_bounds__(kPanelThreads, sizeof(T) == 4 ? 2 : 1)
    panel_kernel(LargeArguments<T> p, int k0) {
  constexpr int kWarps = kPanelThreads / kWarp;
  __shared__ T best_of[kWarps];
  __shared__ int at_of[kWarps];
  __shared__ T factor[kPanel];
  const int64_t n = p.e.n;
  const int t = static_cast<int>(threadIdx.x), lane = t % kWarp;

  for (int64_t g = blockIdx.x; g < p.e.groups; g += gridDim.x) {
    if (p.state[g].finished) continue;  // the same for all threads: written by an earlier launch
    const T stop = kSpectrum == Spectrum::kGram
                       ? kGramStop<T>
                       : (p.state[g].indefinite ? T(0) : small_shift<T>(n) / 4);
    const T* const rest = p.rest + g * n * n;
    T* const diagonal = p.diagonal + g * n;
    T* const a = p.a + g * p.blocks * kPanel * n;
    int k = k0;
    bool ended = false;
    for (; k < k0 + kPanel && k < n; ++k) {
      T best = -1;
      int at = static_cast<int>(n) - 1;
      for (int i = t; i < n; i += kPanelThreads)
        if (diagonal[i] > best) {
          best = diagonal[i];
          at = i;
        }
      const auto take_larger = [&](T other, int other_at) {
        if (other > best || (other == best && other_at < at)) {
          best = other;
          at = other_at;
        }
      };
      for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        const T other = __shfl_xor_sync(kFullMask, best, offset);
        take_larger(other, __shfl_xor_sync(kFullMask, at, offset));
      }
      if (lane == 0) {
        best_of[t / kWarp] = best;
        at_of[t / kWarp] = at;
      }
      __syncthreads();
      for (int w = 0; w < kWarps; ++w) take_larger(best_of[w], at_of[w]);
      if (!(best > stop)) {
        ended = true;
        break;
      }
      if (t < k - k0) factor[t] = a[(k0 + t) * n + at];
      __syncthreads();
      const T root = sqrt(best);
      for (int i = t; i < n; i += kPanelThreads) {
        T value = rest[at * n + i];
        for (int c = 0; c < k - k0; ++c) value -= a[(k0 + c) * n + i] * factor[c];
        const T before = diagonal[i];
        const T l = i == at ? root : (before < T(0) ? T(0) : value / root);
        a[k * n + i] = l;
        const T left = before - l * l;
        diagonal[i] = i == at || before < T(0) ? T(-1) : (left > T(0) ? left : T(0));
      }
      __syncthreads();  // the diagonal is complete, and `factor` free
    }
    if (t == 0) {
      p.state[g].rank = k;
      p.state[g].finished = ended || k == n;
    }
    __syncthreads();
  }
}

// rest −= P Pᵀ with the panel P of 32 columns, a 64×64 tile a block. Registers: at most 128 in
// float, 255 in double.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, 4>)
    trailing_kernel(LargeArguments<T> p, int k0) {
  __shared__ __align__(16) T slices[Tile<4>::kSlices];
  const int64_t n = p.e.n;
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  const int64_t row0 = blockIdx.y * int64_t(Tile<4>::kSize);
  const int64_t column0 = blockIdx.x * int64_t(Tile<4>::kSize);
  for (int64_t g = blockIdx.z; g < p.e.groups; g += gridDim.z) {
    if (p.state[g].finished) continue;
    T sum[4][4] = {};
    const Operand<T, false> panel{p.a + (g * p.blocks * kPanel + k0) * n, n, kPanel, n, T(1)};
    accumulate<T, 4>(panel, row0, panel, column0, slices, sum, Multiply{});
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t r = row0 + Tile<4>::own(ty, i), c = column0 + Tile<4>::own(tx, j);
        if (r < n && c < n) p.rest[(g * n + r) * n + c] -= sum[i][j];
      }
  }
}

// --- Jacobi ---

// The columns of a pair of blocks: column c < 32 is the first block's, the others the second's.
// Column c is row `of(c)` of a.
struct ColumnPair {
  int first, second;
  __device__ __forceinline__ int of(int c) const {
    return c < kPanel ? first * kPanel + c : second * kPanel + c - kPanel;
  }
};

// Whether this block has work in this round: the pair exists, is not all zero, and the sweep before
// has not found everything orthogonal.
template <typename T>
__device__ __forceinline__ bool pair_of_round(const LargeArguments<T>& p, int64_t g, int sweep,
                                              int r, ColumnPair& pair) {
  const LargeState<T>& state = p.state[g];
  pair.first = first_of_pair(static_cast<int>(blockIdx.x), r);
  pair.second = pair.first ^ r;
  return pair.second < p.blocks && pair.first * kPanel < state.rank &&
         (sweep == 0 || state.rotated[sweep - 1]);
}

// An operand (see tile.cuh) of the 64 columns of a pair, over a piece of their rows.
template <typename T>
struct PairOperand {
  const T* a;  // [columns, n], from the first row of the piece
  int64_t n, depth;
  ColumnPair pair;

  template <int kOwn>
  __device__ __forceinline__ void fetch(int64_t, int64_t k0, T (&held)[kOwn]) const {
    using Rows = Operand<T, true>;
#pragma unroll
    for (int e = 0; e < kOwn; ++e) {
      const int64_t k = k0 + Rows::template slice<kOwn>(e);
      held[e] = k < depth ? a[pair.of(Rows::template row<kOwn>(e)) * n + k] : T(0);
    }
  }
  template <int kOwn>
  static __device__ __forceinline__ void store(const T (&held)[kOwn], T* slices) {
    Operand<T, true>::template store<kOwn>(held, slices);
  }
};

// Step 1: the Gram matrix of a pair's columns over one piece of rows. Registers: at most 128 in
// float, 255 in double.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, 4>)
    pair_gram_kernel(LargeArguments<T> p, int sweep, int r) {
  __shared__ __align__(16) T slices[Tile<4>::kSlices];
  const int64_t n = p.e.n;
  const int tx = threadIdx.x % kTileSide, ty = threadIdx.x / kTileSide;
  const int64_t row0 = blockIdx.y * int64_t(kPiece);
  const int64_t rows = n - row0 < kPiece ? n - row0 : kPiece;
  for (int64_t g = blockIdx.z; g < p.e.groups; g += gridDim.z) {
    ColumnPair pair;
    if (!pair_of_round(p, g, sweep, r, pair)) continue;
    const PairOperand<T> columns{p.a + g * p.blocks * kPanel * n + row0, n, rows, pair};
    T sum[4][4] = {};
    accumulate<T, 4>(columns, 0, columns, 0, slices, sum, Multiply{});
    T* const gram = p.grams + ((g * p.pairs + blockIdx.x) * p.pieces + blockIdx.y) * kPair * kPair;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        gram[Tile<4>::own(ty, i) * kPair + Tile<4>::own(tx, j)] = sum[i][j];
  }
}

constexpr int kGramPitch = kPair + 1;
constexpr int kTurnPitch = Tile<4>::kPitch;
template <typename T>
constexpr size_t kRotateSmem =
    sizeof(T) * (kTileSlice * kTurnPitch + kPair * kTurnPitch + kPair * kGramPitch + 2 * kPanel) +
    sizeof(int) * kPanel;
static_assert(kRotateSmem<double> <= 99 * 1024, "shared memory of the smallest architecture");

// One sweep of two-sided Jacobi on the 64×64 matrix `gram`, V along. All 256 threads. V is kept as
// V − I: next to a 1 the cosines of small rotations would all be rounded up, and columns grow over
// the sweeps.
template <typename T>
__device__ void rotate_gram(T* gram,   // [64, kGramPitch]
                            T* turn,   // [64, kTurnPitch]: turn[c][v] is entry (c, v) of V − I
                            T* sines,  // [2, 32]
                            int* swaps) {
  const int t = static_cast<int>(threadIdx.x);
  for (int r = 1; r < kPair; ++r) {
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
    // The four elements where the rows of one pair meet the columns of another are nobody else's.
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
    for (int e = t; e < kPair * kPanel; e += kTileThreads) {
      const int pair = e % kPanel, c = e / kPanel;
      const int i = first_of_pair(pair, r), j = i ^ r;
      T& in_i = turn[c * kTurnPitch + i];
      T& in_j = turn[c * kTurnPitch + j];
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

// Step 2: V from the pair's Gram matrix, and one piece of the columns times V. Shared memory: 38
// KiB in float, 76 KiB in double. Registers: at most 128 in float, 255 in double.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T, 4>)
    pair_rotate_kernel(LargeArguments<T> p, int sweep, int r) {
  T* const slice = dynamic_smem<T>();               // [kTileSlice, kTurnPitch]
  T* const turn = slice + kTileSlice * kTurnPitch;  // [64, kTurnPitch]
  T* const gram = turn + kPair * kTurnPitch;        // [64, kGramPitch]
  T* const sines = gram + kPair * kGramPitch;       // [2, 32]
  int* const swaps = reinterpret_cast<int*>(sines + 2 * kPanel);
  const int64_t n = p.e.n;
  const int t = static_cast<int>(threadIdx.x), tx = t % kTileSide, ty = t / kTileSide;

  for (int64_t g = blockIdx.z; g < p.e.groups; g += gridDim.z) {
    ColumnPair pair;
    if (!pair_of_round(p, g, sweep, r, pair)) continue;
    const T* const pieces = p.grams + (g * p.pairs + blockIdx.x) * p.pieces * kPair * kPair;
    for (int e = t; e < kPair * kPair; e += kTileThreads) {
      T sum = 0;
      for (int i = 0; i < p.pieces; ++i) sum += pieces[i * kPair * kPair + e];
      gram[e / kPair * kGramPitch + e % kPair] = sum;
      turn[e / kPair * kTurnPitch + e % kPair] = 0;
    }
    __syncthreads();
    bool rotated = false;
    for (int e = t; e < kPair * kPair; e += kTileThreads) {
      const int i = e / kPair, j = e % kPair;
      const T cosine = gram[i * kGramPitch + j];
      rotated = rotated || (i != j && (cosine < T(0) ? -cosine : cosine) >
                                          kLargeOrthogonal<T> * sqrt(gram[i * kGramPitch + i]) *
                                              sqrt(gram[j * kGramPitch + j]));
    }
    if (!__syncthreads_or(rotated)) continue;
    if (t == 0 && blockIdx.y == 0) atomicOr(&p.state[g].rotated[sweep], 1);
    rotate_gram(gram, turn, sines, swaps);

    T* const a = p.a + g * p.blocks * kPanel * n;
    const int64_t row0 = blockIdx.y * int64_t(kPiece);
    for (int64_t k0 = row0; k0 < row0 + kPiece && k0 < n; k0 += kPair) {
      T sum[4][4] = {};
      for (int c0 = 0; c0 < kPair; c0 += kTileSlice) {
        __syncthreads();  // the slice before has been read
        for (int e = t; e < kTileSlice * kPair; e += kTileThreads) {
          const int64_t k = k0 + e % kPair;
          slice[e / kPair * kTurnPitch + e % kPair] =
              k < n ? a[pair.of(c0 + e / kPair) * n + k] : T(0);
        }
        __syncthreads();
        use_slice<T, 4>(turn + c0 * kTurnPitch, slice, sum, Multiply{});
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int64_t k = k0 + Tile<4>::own(tx, j);
          if (k < n) a[pair.of(Tile<4>::own(ty, i)) * n + k] += sum[i][j];
        }
    }
    __syncthreads();  // before the next group overwrites V
  }
}

// --- results ---

// Squared norms of the columns, a warp a column. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(256, 4) large_norms_kernel(LargeArguments<T> p) {
  const int64_t n = p.e.n;
  const int lane = threadIdx.x % kWarp;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y)
    for (int64_t j = blockIdx.x * 8 + threadIdx.x / kWarp; j < n; j += int64_t(gridDim.x) * 8) {
      const T* const column = p.a + (g * p.blocks * kPanel + j) * n;
      T sum = 0;
      for (int64_t i = lane; i < n; i += kWarp) sum += column[i] * column[i];
      for (int offset = kWarp / 2; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(kFullMask, sum, offset);
      if (lane == 0) p.norm[g * n + j] = sum;
    }
}

// Columns to their places, a warp a column. Registers: at most 64.
template <typename T, Spectrum kSpectrum>
__global__ void __launch_bounds__(256, 4) large_sort_kernel(LargeArguments<T> p) {
  const int64_t n = p.e.n;
  const int lane = threadIdx.x % kWarp;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y) {
    const LargeState<T>& state = p.state[g];
    const T magnitude = magnitude_of<T>(p.e.largest[g]);
    const bool finite = magnitude == magnitude;
    int sweeps = 0;
    while (sweeps < kMaxLargeSweeps && state.rotated[sweeps]) ++sweeps;
    const bool failed = !finite || sweeps == kMaxLargeSweeps;
    const T scale = kSpectrum == Spectrum::kGram ? T(1) : matrix_scale(magnitude);
    const T shift = large_shift(p, kSpectrum, g);
    for (int64_t j = blockIdx.x * 8 + threadIdx.x / kWarp; j < n; j += int64_t(gridDim.x) * 8) {
      const T* const column = p.a + (g * p.blocks * kPanel + j) * n;
      // Norms that are NaN have no order.
      const int64_t place = failed ? j : n - 1 - position_of(p.norm + g * n, n, j);
      const T lambda = p.norm[g * n + j];
      const T inverse = lambda > T(0) ? T(1) / sqrt(lambda) : T(0);
      const double value = static_cast<double>(lambda - shift) / static_cast<double>(scale);
      if (lane == 0) p.e.values[g * n + place] = failed ? not_a_number<T>() : saturate<T>(value);
      for (int64_t i = lane; i < n; i += kWarp)
        p.e.vectors[(g * n + place) * n + i] = failed ? not_a_number<T>() : column[i] * inverse;
    }
    if (p.e.info && blockIdx.x == 0 && threadIdx.x == 0)
      p.e.info[g] = !finite ? kNotFinite : (failed ? kNotConverged : sweeps + 1);
  }
}

}  // namespace mige::cuda
