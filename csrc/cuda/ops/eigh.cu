// eigh: K = U diag(λ) Uᵀ of symmetric matrices, k [groups, n, n]; λ [groups, n] ascending, and one
// eigenvector per row of Uᵀ [groups, n, n]. The solvers are in eigh.cuh, and the refinement of
// their results in eigh_refinement.cuh. Work: 6 to 8 sweeps of 5 n³ to 8 n³ flop, and the
// refinement.
#include "cuda/launchers.h"
#include "cuda/linalg/eigh_refinement.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout : Workspace {
  EighArguments<T> p;
  Key<T>* largest = take<Key<T>>(p.groups);
  char* refinement = take<char>(refine_eigenpairs_work<T>({p, largest}));
  char* solver = take<char>(eigendecompose_work<T, MatrixKind::kSymmetric>(p.groups, p.n));
};

}  // namespace

template <typename T>
int64_t eigh_work(const EighArguments<T>& p) {
  return Layout<T>{Workspace(nullptr), p}.size();
}

template <typename T>
int eigh(const EighArguments<T>& p, void* work, void* cuda_stream) {
  if (p.groups == 0) return 0;
  Stream stream(cuda_stream);
  const Layout<T> at{Workspace(work), p};
  const Eigenproblem<T> e{p, at.largest};
  stream.zero(at.largest, p.groups);
  add_magnitudes(p.k, p.groups, int64_t(p.n) * p.n, p.n, at.largest, stream);
  eigendecompose<T, MatrixKind::kSymmetric>(e, at.solver, stream);
  refine_eigenpairs(e, at.refinement, stream);
  return stream.status();
}

MIGE_INSTANTIATE(eigh);

}  // namespace mige::cuda
