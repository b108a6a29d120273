// eigh: symmetric eigendecomposition.
#include "cuda/launchers.h"
#include "cuda/linalg/eigh.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout : Workspace {
  int64_t groups, n;
  Key<T>* largest = take<Key<T>>(groups);
  char* spectral = take<char>(spectral_work<T>(groups, n));
};

}  // namespace

template <typename T>
int64_t eigh_work(const EighArguments<T>& p) {
  return Layout<T>{Workspace(nullptr), p.groups, p.n}.size();
}

template <typename T>
int eigh(const EighArguments<T>& p, void* work, void* cuda_stream) {
  if (p.groups == 0) return 0;
  Stream stream(cuda_stream);
  const Layout<T> at{Workspace(work), p.groups, p.n};
  stream.zero(at.largest, p.groups);
  add_magnitudes(p.k, p.groups, int64_t(p.n) * p.n, p.n, at.largest, stream);
  spectral<T, Spectrum::kSymmetric>({p, at.largest}, at.spectral, stream);
  return stream.status();
}

MIGE_INSTANTIATE(eigh);

}  // namespace mige::cuda
