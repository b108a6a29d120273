// The state and the workspace of an eigendecomposition by many thread blocks. Pivoted Cholesky
// computes L with L Lᵀ = scale K + shift I, and then Jacobi computes A = L V (see eigh.cuh).
#pragma once

#include "cuda/core/tasks.cuh"
#include "cuda/core/workspace.cuh"
#include "cuda/linalg/contraction.cuh"
#include "cuda/linalg/eigh_small.cuh"

namespace mige::cuda {

constexpr int kPanel = 32;  // columns of a panel of Cholesky, and of a column block of Jacobi
constexpr int kPairColumns = 2 * kPanel;
constexpr int kPiece = 256;  // rows of a pair of column blocks that one thread block takes
constexpr int kMaxLargeSweeps = 15;

template <typename T>
struct LargeState {
  Key<T> bound;    // if `indefinite`: the squared bound of the eigenvalues' magnitudes, as a key
  int rank;        // columns of L
  int indefinite;  // whether Cholesky with the small shift failed
  TaskCount finished[kMaxLargeSweeps];  // number of finished tasks of a sweep (jacobi_large.cuh)
  int rotated[kMaxLargeSweeps];         // whether a sweep found columns that were not orthogonal

  // The number of sweeps, and whether the last sweep found only orthogonal columns.
  __device__ Iteration iteration() const {
    int sweep = 0;
    while (sweep < kMaxLargeSweeps && rotated[sweep]) ++sweep;
    return {sweep + 1, sweep < kMaxLargeSweeps};
  }
};

// A sweep of Jacobi over all groups.
struct LargeSweep {
  TaskCount next;  // number of the next task
  int rotated;     // whether the sweep found columns that were not orthogonal in any group
};

// The argument of all kernels for large matrices: the problem, and the arrays of the workspace.
template <typename T>
struct LargeArguments : Workspace {
  Eigenproblem<T> e;
  int blocks = static_cast<int>(divide_up(e.n, kPanel));  // column blocks
  int pairs = power_of_two_above(blocks) / 2;             // pairs of column blocks in a round
  int pieces = static_cast<int>(divide_up(e.n, kPiece));  // pieces of 256 rows
  LargeState<T>* state = take<LargeState<T>>(e.groups);
  LargeSweep* sweeps = take<LargeSweep>(kMaxLargeSweeps);
  int32_t* ended = take<int32_t>(e.groups);  // −1 when Cholesky has ended, otherwise 0
  T* rest = take<T>(e.groups * e.n * e.n);   // scale K + shift I, minus P Pᵀ of all panels so far
  T* diagonal = take<T>(e.groups * e.n);     // cholesky_large.cuh defines it
  T* a = take<T>(a_size());                  // zeros, then Lᵀ, then Aᵀ: a row is a column of L or A
  // [groups, pairs, pieces, 64, 64]: CᵀC of each piece of the columns C of each pair
  T* grams = take<T>(e.groups * pairs * pieces * kPairColumns * kPairColumns);
  T* norm = take<T>(e.groups * e.n);  // squared norms of the columns of A

  // The phases of a sweep of Jacobi: two steps in each of the 2 pairs − 1 rounds.
  __host__ __device__ TaskCount phases() const { return 2 * (2 * TaskCount(pairs) - 1); }
  // The tasks of one group in a phase.
  __host__ __device__ TaskCount tasks_per_phase() const { return TaskCount(pairs) * pieces; }
  int64_t a_size() const { return e.groups * blocks * kPanel * e.n; }
  __device__ __forceinline__ T* columns(int64_t g) const { return a + g * blocks * kPanel * e.n; }
};

// The shift of group g. It is larger if the decomposition with the small shift has failed.
template <typename T>
__device__ __forceinline__ T large_shift(const LargeArguments<T>& p, MatrixKind kind, int64_t g) {
  if (kind == MatrixKind::kGram) return T(0);
  return p.state[g].indefinite ? indefinite_shift(p.e.n, sqrt(value_of<T>(p.state[g].bound)))
                               : small_shift<T>(p.e.n);
}

// Writes the eigenvalues, the eigenvectors and info of every group (eigh_large.cu).
template <typename T, MatrixKind kKind>
void eigh_large(const Eigenproblem<T>& e, void* work, Stream& stream);

}  // namespace mige::cuda
