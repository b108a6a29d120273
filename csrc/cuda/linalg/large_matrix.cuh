// The state and the workspace of one eigendecomposition by many blocks; see eigh_large.cuh.
#pragma once

#include "cuda/core/workspace.cuh"
#include "cuda/linalg/eigh_small.cuh"
#include "cuda/linalg/tile.cuh"

namespace mige::cuda {

constexpr int kPanel = 32;  // columns of a panel of Cholesky, and of a column block of Jacobi
constexpr int kPairColumns = 2 * kPanel;
constexpr int kPiece = 256;  // rows of the columns that one block takes
constexpr int kMaxLargeSweeps = 15;

template <typename T>
struct LargeState {
  Key<T> bound;                  // the square of a bound of the eigenvalues, if `indefinite`
  int rank;                      // columns of L
  int finished;                  // Cholesky has ended
  int indefinite;                // Cholesky with the small shift failed
  int rotated[kMaxLargeSweeps];  // whether a sweep found columns that were not orthogonal
};

template <typename T>
struct LargeArguments {
  EighArguments<T> e;
  int blocks;            // column blocks: n / 32, rounded up
  int pairs;             // pairs of column blocks in a round
  int pieces;            // pieces of rows: n / 256, rounded up
  LargeState<T>* state;  // [groups]
  T* rest;               // [groups, n, n]: K minus the product of the columns of L so far
  T* diagonal;           // [groups, n]: the diagonal of `rest`; −1 where a row has been the pivot
  T* a;                  // [groups, 32 blocks, n]: columns of L, then of A, a column a row; zeroed
  T* grams;              // [groups, pairs, pieces, 64, 64]
  T* norm;               // [groups, n]

  LargeArguments(const EighArguments<T>& eigh, Workspace& space)
      : e(eigh),
        blocks(static_cast<int>(divide_up(e.n, kPanel))),
        pairs(power_of_two_above(blocks) / 2),
        pieces(static_cast<int>(divide_up(e.n, kPiece))),
        state(space.take<LargeState<T>>(e.groups)),
        rest(space.take<T>(e.groups * e.n * e.n)),
        diagonal(space.take<T>(e.groups * e.n)),
        a(space.take<T>(a_size())),
        grams(space.take<T>(e.groups * pairs * pieces * kPairColumns * kPairColumns)),
        norm(space.take<T>(e.groups * e.n)) {}

  int64_t a_size() const { return e.groups * blocks * kPanel * e.n; }
  __device__ __forceinline__ T* columns(int64_t g) const { return a + g * blocks * kPanel * e.n; }
};

template <typename T>
__device__ __forceinline__ T large_shift(const LargeArguments<T>& p, Spectrum spectrum, int64_t g) {
  if (spectrum == Spectrum::kGram) return T(0);
  const T small = small_shift<T>(p.e.n);
  return p.state[g].indefinite ? small + sqrt(value_of<T>(p.state[g].bound)) : small;
}

}  // namespace mige::cuda
