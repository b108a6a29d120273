// The kernels around a call of the library, and the sizes for which it is called.
#include "cuda/linalg/eigh_library.cuh"
#include "cuda/linalg/eigh_library.h"

namespace mige::cuda {
namespace {

struct SolverRange {
  int largest;  // the largest n for this solver
  Solver solver;
};

// These limits are predicted and not measured. The times of XsyevBatched are from public reports
// that do not name the GPU, and the times of the Jacobi kernels are from counts of operations:
//
//   number of matrices × rows    500 × 100   128 × 128   16 × 256   1 × 512
//   XsyevBatched, ms                   8.4        11.5        2.4       1.7
//   Jacobi kernels, ms                 1-5         1-5        2-4         5
//
// The size of a matrix alone determines the solver, so a matrix has the same bits alone and in a
// batch.
constexpr SolverRange kSolvers[] = {{128, Solver::kOwn}, {2048, Solver::kLibrary}};

// Whether MIGE_CUSOLVER turns the library on. The variable is read only once, because the answer
// must not change between the size of a workspace and its use.
bool library_is_on() {
  static const bool on = [] {
    const char* const setting = std::getenv("MIGE_CUSOLVER");
    return setting != nullptr && *setting != '\0' && std::strcmp(setting, "off") != 0;
  }();
  return on;
}

template <typename T>
struct LibraryEighArguments : Workspace {
  Eigenproblem<T> e;
  MatrixKind kind;
  int32_t* info = take<int32_t>(e.groups);  // info that the library writes
  LibraryBuffers sizes{};
  void* buffer = nullptr;

  BatchedEigh call() const { return {e.vectors, e.values, info, e.n, e.groups, sizeof(T) == 8}; }
  // Takes the buffer of the library, after all other arrays. Returns a cudaError_t.
  int take_buffer() {
    const EighLibrary* const library = EighLibrary::get();
    if (library == nullptr) return cudaErrorSharedObjectSymbolNotFound;
    const int status = library->buffers(call(), sizes);
    buffer = take<char>(static_cast<int64_t>(sizes.on_device));
    return status;
  }
};

// Copies the lower triangles of the scaled matrices to `vectors`. Elements that are NaN or infinite
// become 0, because a library might not return for them. The results of such a matrix are not used.
// A thread takes every (256 gridDim.x)-th element, and blockIdx.y selects the groups. Work: reads
// and writes n² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4)
    load_for_library_kernel(LibraryEighArguments<T> p) {
  const int64_t count = static_cast<int64_t>(p.e.n) * p.e.n;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y) {
    const T scale = matrix_scale(p.kind, magnitude_of<T>(p.e.largest[g]));
    grid_stride<kElementThreads>(count, [&](int64_t i) {
      const T value = i % p.e.n <= i / p.e.n ? scale * p.e.k[g * count + i] : T(0);
      p.e.vectors[g * count + i] = value - value == T(0) ? value : T(0);
    });
  }
}

// Undoes the scale, and writes NaN for matrices that were not decomposed. A thread takes every (256
// gridDim.x)-th element, and blockIdx.y selects the groups. Work: reads and writes n values, and
// writes n² values of a matrix that was not decomposed. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4)
    finish_library_kernel(LibraryEighArguments<T> p) {
  const int64_t n = p.e.n;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y) {
    const T magnitude = magnitude_of<T>(p.e.largest[g]);
    const bool finite = magnitude == magnitude, failed = !finite || p.info[g] != 0;
    const T scale = matrix_scale(p.kind, magnitude);
    grid_stride<kElementThreads>(failed ? n * n : n, [&](int64_t i) {
      if (failed) p.e.vectors[g * n * n + i] = not_a_number<T>();
      if (i < n)
        p.e.values[g * n + i] = failed ? not_a_number<T>() : clamped(p.e.values[g * n + i] / scale);
    });
    if (p.e.info && blockIdx.x == 0 && threadIdx.x == 0)
      p.e.info[g] = info_of(finite, {0, p.info[g] == 0});
  }
}

}  // namespace

Solver solver_of(int64_t n) {
  if (!library_is_on()) return Solver::kOwn;
  for (const SolverRange& range : kSolvers)
    if (n <= range.largest) return range.solver;
  return Solver::kOwn;
}

template <typename T>
int64_t library_work(const Eigenproblem<T>& e) {
  LibraryEighArguments<T> p{Workspace(nullptr), e, MatrixKind::kSymmetric};
  p.take_buffer();  // eigh_by_library() reports an error
  return p.size();
}

template <typename T>
void eigh_by_library(const Eigenproblem<T>& e, MatrixKind kind, void* work, Stream& stream) {
  LibraryEighArguments<T> p{Workspace(work), e, kind};
  const int64_t count = static_cast<int64_t>(e.n) * e.n;
  stream.call([&](void*) { return p.take_buffer(); });
  stream.launch(load_for_library_kernel<T>, elementwise(count, e.groups), p);
  stream.call(
      [&](void* s) { return EighLibrary::get()->decompose(p.call(), p.buffer, p.sizes, s); });
  stream.launch(finish_library_kernel<T>, elementwise(count, e.groups), p);
}

#define MIGE_INSTANTIATE_LIBRARY(T)                      \
  template int64_t library_work(const Eigenproblem<T>&); \
  template void eigh_by_library(const Eigenproblem<T>&, MatrixKind, void*, Stream&)
MIGE_INSTANTIATE_LIBRARY(float);
MIGE_INSTANTIATE_LIBRARY(double);

}  // namespace mige::cuda
