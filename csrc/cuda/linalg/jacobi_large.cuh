// Jacobi between column blocks, for matrices that are too large for the shared memory of one thread
// block. The iteration makes the columns of L orthogonal. A column block has 32 columns. A round
// works on disjoint pairs of column blocks. For each pair, whose 64 columns are C:
//
//   1. G = CᵀC, a 64×64 matrix. One thread block sums over each piece of 256 rows.
//   2. One sweep of two-sided Jacobi on G in shared memory gives an orthogonal V; then C ← C V.
// Every thread block of step 2 computes V of its pair, so that no thread block waits for another.
// Matrices of n = 256 and 512 in float32 take 6-7 sweeps. With a second sweep on G they take one
// sweep less, but the total time is longer.
//
// A sweep is one launch. Its tasks are the steps of every pair and piece. A step of a group begins
// when the previous step of all pairs of the group has finished (tasks.cuh). Work of a sweep: 8 n³
// flop, and the sweeps on G. The host does not wait for the device, so the number of launches is
// fixed. Launches after convergence return at once.
#pragma once

#include "cuda/linalg/large_matrix.cuh"

namespace mige::cuda {

// Columns with a cosine up to this limit count as orthogonal. A sweep that finds only such columns
// is the last one. The limit is larger than kOrthogonal, because the rounding errors of longer sums
// hide smaller cosines.
template <typename T>
constexpr T kLargeOrthogonal = 16 * kEpsilon<T>;
// A pair whose columns have cosines up to this limit is not rotated. As with kNegligible
// (jacobi.cuh), the last sweep also rotates columns that already count as orthogonal.
template <typename T>
constexpr T kLargeNegligible = 2 * kEpsilon<T>;

// The 64 columns of a pair of column blocks. Column c of the pair is row of(c) of `a`. Columns 0 to
// 31 belong to the first column block, and columns 32 to 63 to the second.
struct ColumnPair {
  int first, second;

  // Pair number `pair` of round r. If `second` is not a column block, the pair does not exist.
  static __device__ __forceinline__ ColumnPair of_round(int pair, int r) {
    const int first = first_of_pair(pair, r);
    return {first, first ^ r};
  }
  __device__ __forceinline__ int of(int c) const {
    return c < kPanel ? first * kPanel + c : second * kPanel + c - kPanel;
  }
};

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

constexpr int kGramPitch = kPairColumns + 1;  // rows and columns of G cause no bank conflicts
constexpr int kRotationPitch = Tile<kProductThreadTile>::kPitch;
constexpr int kSweepWarps = kTileThreads / kWarp;
static_assert((kSweepWarps & (kSweepWarps - 1)) == 0, "a mask gives the remainder");
static_assert(kPairColumns == kProductTile, "the tile engine multiplies a pair in one tile");

// The rotation of columns i < j in shared memory. A thread reads a rotation in float, 16 bytes, by
// one access.
template <typename T>
struct alignas(16) StoredRotation : PlaneRotation<T> {
  int to_i, to_j;  // where the new columns i and j are written: i and j, or j and i if swapped

  __device__ __forceinline__ bool swapped() const { return to_i > to_j; }
  __device__ __forceinline__ int i() const { return swapped() ? to_j : to_i; }
  __device__ __forceinline__ int j() const { return swapped() ? to_i : to_j; }
};

// The shared memory of a task. Step 1 needs only the two slices of tile.cuh, for which it uses the
// memory of `slice` and V.
template <typename T>
struct PairMemory {
  T* slice;                      // [kTileDepth, kRotationPitch]
  T* v;                          // [64, kRotationPitch]: V − I
  T* gram;                       // [64, kGramPitch]
  StoredRotation<T>* rotations;  // [32]: the rotations of a round on G

  static constexpr size_t kValues =
      (kTileDepth + kPairColumns) * kRotationPitch + static_cast<size_t>(kPairColumns) * kGramPitch;
  static constexpr size_t kSize = sizeof(T) * kValues + sizeof(StoredRotation<T>) * kPanel;

  // The arrays that begin at `memory`.
  static __device__ __forceinline__ PairMemory at(T* memory) {  // kSize bytes
    T* const v = memory + kTileDepth * kRotationPitch;
    return {memory, v, v + kPairColumns * kRotationPitch,
            reinterpret_cast<StoredRotation<T>*>(memory + kValues)};
  }
};
static_assert(PairMemory<double>::kSize <= 99 * 1024, "the smallest architecture has only 99 KiB");
static_assert(Tile<kProductThreadTile>::kSlices <= (kTileDepth + kPairColumns) * kRotationPitch,
              "see PairMemory");
static_assert(PairMemory<float>::kValues * sizeof(float) % 16 == 0, "rotations are aligned");

// Applies the rotations of a round to the rows and the columns of G. A lane rotates the two rows of
// one pair in registers, and a warp takes the two columns of every eighth pair.
template <typename T>
__device__ __forceinline__ void rotate_both_sides(const PairMemory<T>& m,
                                                  const StoredRotation<T>& rows) {
  const int warp = threadIdx.x / kWarp;
  const T* const row_i = m.gram + rows.i() * kGramPitch;
  const T* const row_j = m.gram + rows.j() * kGramPitch;
  T* const to_i = m.gram + rows.to_i * kGramPitch;
  T* const to_j = m.gram + rows.to_j * kGramPitch;
#pragma unroll
  for (int e = 0; e < kPanel / kSweepWarps; ++e) {
    const StoredRotation<T> columns = m.rotations[warp + kSweepWarps * e];
    const int k = columns.i(), l = columns.j();
    const T ik = row_i[k], il = row_i[l], jk = row_j[k], jl = row_j[l];
    const T uk = rows.first(ik, jk), vk = rows.second(ik, jk);
    const T ul = rows.first(il, jl), vl = rows.second(il, jl);
    to_i[columns.to_i] = columns.first(uk, ul);
    to_i[columns.to_j] = columns.second(uk, ul);
    to_j[columns.to_i] = columns.first(vk, vl);
    to_j[columns.to_j] = columns.second(vk, vl);
  }
}

// W ← (W + I) R − I = W R + (R − I) for W = V − I and the rotations R of a round. A lane takes two
// columns i and j, and a warp takes every eighth row. R − I has nonzero elements in the rows i and
// j only.
template <typename T>
__device__ __forceinline__ void rotate_v(const PairMemory<T>& m,
                                         const StoredRotation<T>& rotation) {
  const int warp = threadIdx.x / kWarp, i = rotation.i(), j = rotation.j();
  T* const row = m.v + warp * kRotationPitch;
  const T* const at_i = row + i;
  const T* const at_j = row + j;
  T* const to_i = row + rotation.to_i;
  T* const to_j = row + rotation.to_j;
#pragma unroll
  for (int c = 0; c < kPairColumns; c += kSweepWarps) {
    const T x = at_i[c * kRotationPitch], y = at_j[c * kRotationPitch];
    to_i[c * kRotationPitch] = rotation.first(x, y);
    to_j[c * kRotationPitch] = rotation.second(x, y);
  }
  // If the columns are swapped, the elements of R change places, but the ones of I do not.
  const T one = rotation.swapped() ? T(1) : T(0);
  const T diagonal = one - rotation.s * rotation.tau;  // c − 1, plus 1 if swapped
  if ((i & (kSweepWarps - 1)) == warp) {
    m.v[i * kRotationPitch + rotation.to_i] += diagonal;
    m.v[i * kRotationPitch + rotation.to_j] += rotation.s - one;
  }
  if ((j & (kSweepWarps - 1)) == warp) {
    m.v[j * kRotationPitch + rotation.to_i] -= rotation.s + one;
    m.v[j * kRotationPitch + rotation.to_j] += diagonal;
  }
}

// One sweep of two-sided Jacobi on the 64×64 matrix G. It accumulates the rotations in V. All 256
// threads take part. V is stored as V − I, because a cosine near 1 would be rounded to 1, and the
// columns would grow over the sweeps.
template <typename T>
__device__ __forceinline__ void rotate_gram(const PairMemory<T>& m) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll 1
  for (int r = 1; r < kPairColumns; ++r) {
    if (threadIdx.x < kWarp) {
      const int i = first_of_pair(lane, r), j = i ^ r;
      const T a = m.gram[i * kGramPitch + i], b = m.gram[j * kGramPitch + j];
      const auto rotation = Rotation<T>::of(a > T(0) ? a : T(0), b > T(0) ? b : T(0),
                                            m.gram[i * kGramPitch + j], kLargeOrthogonal<T>);
      m.rotations[lane] = {
          {rotation.s, rotation.tau}, rotation.swapped ? j : i, rotation.swapped ? i : j};
    }
    __syncthreads();
    const StoredRotation<T> rotation = m.rotations[lane];
    rotate_both_sides(m, rotation);
    rotate_v(m, rotation);
    __syncthreads();
  }
}

// --- the tasks of a sweep ---

// One step of one pair of column blocks and one piece of 256 rows. Phase 2 (r − 1) is step 1 of
// round r (r = 1, 2, …), and phase 2 (r − 1) + 1 is step 2.
struct SweepTask {
  int64_t g;
  int phase, pair, piece;

  // Tasks are in the order of phases, groups, pairs and pieces.
  template <typename T>
  static __device__ __forceinline__ SweepTask of(const LargeArguments<T>& p, TaskCount number) {
    const TaskCount per_group = p.tasks_per_phase(), per_phase = per_group * p.e.groups;
    const int in_group = static_cast<int>(number % per_group);
    return {static_cast<int64_t>(number % per_phase / per_group),
            static_cast<int>(number / per_phase), in_group / p.pieces, in_group % p.pieces};
  }

  __device__ __forceinline__ int round() const { return phase / 2 + 1; }
  __device__ __forceinline__ bool is_gram() const { return phase % 2 == 0; }

  template <typename T>
  __device__ __forceinline__ T* gram(const LargeArguments<T>& p, int of_piece) const {
    return p.grams + ((g * p.pairs + pair) * p.pieces + of_piece) * kPairColumns * kPairColumns;
  }
};

// Step 1: one piece of G = CᵀC. A thread takes 4×4 elements. Work: 2 × 256 × 64² flop; reads
// 128 × 256 values.
template <typename T>
__device__ __forceinline__ void add_gram(const LargeArguments<T>& p, const SweepTask& task,
                                         const ColumnPair& pair,
                                         T* slices) {  // [Tile<kProductThreadTile>::kSlices]
  const int64_t n = p.e.n, row0 = task.piece * int64_t(kPiece);
  const PairOperand<T> columns{
      {p.columns(task.g) + row0, kPairColumns, at_most(n - row0, kPiece), n, T(1)}, pair};
  T sum[kProductThreadTile][kProductThreadTile] = {};
  accumulate(columns, 0, columns, 0, slices, sum);
  T* const gram = task.gram(p, task.piece);
  for_each_element(0, 0, kPairColumns, kPairColumns, [&](int i, int j, int64_t r, int64_t c) {
    gram[r * kPairColumns + c] = sum[i][j];
  });
}

// Whether all cosines of the columns of a pair are at most kLargeOrthogonal, and at most
// kLargeNegligible.
struct PairCosines {
  bool orthogonal, negligible;
};

// Loads G, the sum over its pieces, and V − I = 0. All threads get the same result.
template <typename T>
__device__ __forceinline__ PairCosines load_gram(const LargeArguments<T>& p, const SweepTask& task,
                                                 const PairMemory<T>& m) {
  const T* const pieces = task.gram(p, 0);
  for (int e = threadIdx.x; e < kPairColumns * kPairColumns; e += kTileThreads) {
    T sum = 0;
    for (int i = 0; i < p.pieces; ++i) sum += pieces[i * kPairColumns * kPairColumns + e];
    m.gram[e / kPairColumns * kGramPitch + e % kPairColumns] = sum;
    m.v[e / kPairColumns * kRotationPitch + e % kPairColumns] = 0;
  }
  __syncthreads();
  bool orthogonal = true, negligible = true;
  for (int e = threadIdx.x; e < kPairColumns * kPairColumns; e += kTileThreads) {
    const int i = e / kPairColumns, j = e % kPairColumns;
    if (i >= j) continue;
    const T a = m.gram[i * kGramPitch + i], b = m.gram[j * kGramPitch + j];
    const T g = m.gram[i * kGramPitch + j];
    orthogonal &= Rotation<T>::are_orthogonal(a, b, g, kLargeOrthogonal<T>);
    negligible &= Rotation<T>::are_orthogonal(a, b, g, kLargeNegligible<T>);
  }
  orthogonal = __syncthreads_or(!orthogonal) == 0;
  return {orthogonal, __syncthreads_or(!negligible) == 0};
}

// C ← C V for one piece. Work: 2 × 256 × 64² flop; reads and writes 64 × 256 values.
template <typename T>
__device__ __forceinline__ void multiply_by_v(const LargeArguments<T>& p, const SweepTask& task,
                                              const ColumnPair& pair, const PairMemory<T>& m) {
  const int64_t n = p.e.n, row0 = task.piece * int64_t(kPiece);
  T* const a = p.columns(task.g);
  for (int64_t k0 = row0; k0 < row0 + kPiece && k0 < n; k0 += kPairColumns) {
    T sum[kProductThreadTile][kProductThreadTile] = {};
    for (int c0 = 0; c0 < kPairColumns; c0 += kTileDepth) {
      __syncthreads();  // the previous slice has been read
      for (int e = threadIdx.x; e < kTileDepth * kPairColumns; e += kTileThreads) {
        const int64_t k = k0 + e % kPairColumns;
        m.slice[e / kPairColumns * kRotationPitch + e % kPairColumns] =
            k < n ? a[pair.of(c0 + e / kPairColumns) * n + k] : T(0);
      }
      __syncthreads();
      use_slice(m.v + c0 * kRotationPitch, m.slice, sum);
    }
    for_each_element(0, k0, kPairColumns, n, [&](int i, int j, int64_t c, int64_t k) {
      a[pair.of(static_cast<int>(c)) * n + k] += sum[i][j];
    });
  }
}

// One sweep over all pairs of every group that has not converged. A thread block takes one task
// after another. Work of a task: add_gram in step 1; in step 2, 63 rounds on G with about 12 × 64³
// flop, and multiply_by_v. Shared memory: 38 KiB in float, 76 KiB in double. Registers: at most 128
// in float, 255 in double. A pass of the loop over r is a round on G. Instructions of the loop with
// MUFU.RSQ and BAR: at most 380 in float.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<T>)
    sweep_kernel(LargeArguments<T> p, int sweep) {
  __shared__ TaskCount broadcast;
  const auto memory = PairMemory<T>::at(dynamic_smem<T>());
  if (sweep > 0 && !p.sweeps[sweep - 1].rotated) return;
  const TaskCount tasks = p.phases() * p.tasks_per_phase() * p.e.groups;
  for (;;) {
    const TaskCount number = take_task(&p.sweeps[sweep].next, &broadcast);
    if (number >= tasks) return;
    const auto task = SweepTask::of(p, number);
    LargeState<T>& state = p.state[task.g];
    if (sweep > 0 && !state.rotated[sweep - 1]) continue;  // this group has converged
    wait_for_tasks(&state.finished[sweep], task.phase * p.tasks_per_phase());
    const auto pair = ColumnPair::of_round(task.pair, task.round());
    if (pair.second < p.blocks && pair.first * kPanel < state.rank) {
      if (task.is_gram()) {
        add_gram(p, task, pair, memory.slice);
      } else {
        const PairCosines cosines = load_gram(p, task, memory);
        if (!cosines.orthogonal && threadIdx.x == 0 && task.piece == 0) {
          atomicOr(&state.rotated[sweep], 1);
          atomicOr(&p.sweeps[sweep].rotated, 1);
        }
        if (!cosines.negligible) {
          rotate_gram(memory);
          multiply_by_v(p, task, pair, memory);
        }
      }
    }
    finish_task(&state.finished[sweep]);
  }
}

// Makes the columns of every group orthogonal. The grid has a thread block for every task of a
// phase, because more thread blocks could not work at the same time.
template <typename T>
void jacobi_large(const LargeArguments<T>& p, Stream& stream) {
  const Grid grid{at_most(static_cast<int64_t>(p.tasks_per_phase()) * p.e.groups, kLargestGridX)};
  for (int sweep = 0; sweep < kMaxLargeSweeps; ++sweep)
    stream.launch(sweep_kernel<T>, {grid, kTileThreads, PairMemory<T>::kSize}, p, sweep);
}

}  // namespace mige::cuda
