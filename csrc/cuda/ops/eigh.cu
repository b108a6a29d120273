// eigh: symmetric eigendecomposition, by the Jacobi kernels or by a library.
#include "cuda/launchers.h"
#include "cuda/linalg/eigh.cuh"
#include "cuda/linalg/eigh_library.cuh"

namespace mige::cuda {
namespace {

template <typename T>
int64_t solver_work(const EighArguments<T>& p) {
  return solver_of(p.n) == Solver::kLibrary ? library_work(p) : spectral_work<T>(p.groups, p.n);
}

template <typename T>
struct Layout : Workspace {
  EighArguments<T> of;
  Key<T>* largest = take<Key<T>>(of.groups);
  char* solver = take<char>(solver_work(of));
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
  stream.zero(at.largest, p.groups);
  add_magnitudes(p.k, p.groups, int64_t(p.n) * p.n, p.n, at.largest, stream);
  if (solver_of(p.n) == Solver::kLibrary)
    eigh_by_library<T>({p, at.largest}, at.solver, stream);
  else
    spectral<T, Spectrum::kSymmetric>({p, at.largest}, at.solver, stream);
  return stream.status();
}

MIGE_INSTANTIATE(eigh);

}  // namespace mige::cuda
