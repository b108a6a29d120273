// eigh: symmetric eigendecomposition, by the size of the matrix by a warp, a block, or many blocks.
#include "cuda/linalg/eigh_dispatch.cuh"
#include "cuda/launchers.h"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout {
  WorkSpace space;
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
         void* stream) {
  if (groups == 0) return 0;
  const Layout<T> at(work, groups, n);
  int failed =
      static_cast<int>(cudaMemsetAsync(at.largest, 0, static_cast<size_t>(groups) * sizeof(Key<T>),
                                       static_cast<cudaStream_t>(stream)));
  const int64_t rows = divide_up(n, 8);
  const dim3 grid(static_cast<unsigned>(rows < 256 ? rows : 256), grid_z(groups));
  if (!failed)
    failed = launch(lower_magnitude_kernel<T>, grid, dim3(kScaleThreads), 0, stream, k, groups, n,
                    at.largest);
  if (!failed)
    failed = spectral<T, Spectrum::kSymmetric>(
        {k, groups, static_cast<int>(n), at.largest, values, vectors, info}, at.rest, stream);
  return failed;
}

template int64_t eigh_work<float>(int64_t, int64_t);
template int64_t eigh_work<double>(int64_t, int64_t);
template int eigh(const float*, int64_t, int64_t, float*, float*, int32_t*, void*, void*);
template int eigh(const double*, int64_t, int64_t, double*, double*, int32_t*, void*, void*);

}  // namespace mige::cuda
