// eigh: symmetric eigendecomposition.
#include "cuda/launchers.h"
#include "cuda/linalg/eigh_dispatch.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout {
  Workspace space;
  Key<T>* largest;
  void* rest;

  Layout(void* work, int64_t groups, int64_t n)
      : space(work),
        largest(space.take<Key<T>>(groups)),
        rest(space.take<char>(spectral_work<T>(groups, n))) {}
};

}  // namespace

template <typename T>
int64_t eigh_work(int64_t groups, int64_t n) {
  return Layout<T>(nullptr, groups, n).space.size();
}

template <typename T>
int eigh(const T* k, int64_t groups, int64_t n, T* values, T* vectors, int32_t* info, void* work,
         void* cuda_stream) {
  if (groups == 0) return 0;
  Stream stream(cuda_stream);
  const Layout<T> at(work, groups, n);
  stream.zero(at.largest, groups);
  stream.launch(lower_magnitude_kernel<T>,
                {{at_most(divide_up(n, 8), 256), group_blocks(groups)}, kScaleThreads}, k, groups,
                n, at.largest);
  const EighArguments<T> e{k, groups, static_cast<int>(n), at.largest, values, vectors, info};
  spectral<T, Spectrum::kSymmetric>(e, at.rest, stream);
  return stream.status();
}

MIGE_INSTANTIATE(eigh_work);
MIGE_INSTANTIATE(eigh);

}  // namespace mige::cuda
