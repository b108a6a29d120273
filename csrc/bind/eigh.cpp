// eigh: symmetric eigendecomposition. On the CPU LAPACK, groups in parallel; on CUDA our Jacobi, or
// torch's solver for large matrices.
#include "bind/checks.h"
#include "cpu/group.h"
#ifdef MIGE_WITH_CUDA
#include "bind/cuda.h"
#endif

// What libtorch_cpu contains or links; weak, because a torch without MKL, or one that hides LAPACK,
// does not have it.
extern "C" {
__attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);
__attribute__((weak)) void ssyevd_(const char* jobz, const char* uplo, const int* n, float* a,
                                   const int* lda, float* w, float* work, const int* lwork,
                                   int* iwork, const int* liwork, int* info);
__attribute__((weak)) void dsyevd_(const char* jobz, const char* uplo, const int* n, double* a,
                                   const int* lda, double* w, double* work, const int* lwork,
                                   int* iwork, const int* liwork, int* info);
}

namespace mige::bind {
namespace {

auto syevd(float) { return ssyevd_; }
auto syevd(double) { return dsyevd_; }

constexpr int64_t kLargestSyevd = 32000;  // its work space, 2 m², is counted in int

// values ascending; the eigenvectors' memory holds one vector after the other (column-major U).
//
// Every call leaks 48 bytes: torch's conversion of "U" does not free its copy. Small as they are,
// they keep what a step has freed from being used again, and a training loop grew by 1.6 MB a step.
std::pair<Tensor, Tensor> torch_eigh(const Tensor& k) {
  std::array<StableIValue, 2> stack{torch::stable::detail::from(k),
                                    torch::stable::detail::from(std::string("U"))};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::linalg_eigh", "", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

// MKL's blocking, and with it its rounding, depends on how many threads it may use, even where it
// uses one. Held at one for the calling thread, it gives the same bits for any number of threads;
// groups are what runs in parallel. The price, measured for one matrix and 2 threads: 85 instead of
// 62 ms at n = 1024.
class OneMklThread {
 public:
  OneMklThread() {
    // A thread that torch has not seen yet would set MKL's number at its first operation.
    torch::stable::get_num_threads();
    if (MKL_Set_Num_Threads_Local) before_ = MKL_Set_Num_Threads_Local(1);
  }
  ~OneMklThread() {
    if (MKL_Set_Num_Threads_Local) MKL_Set_Num_Threads_Local(before_);
  }
  OneMklThread(const OneMklThread&) = delete;
  OneMklThread& operator=(const OneMklThread&) = delete;

 private:
  int before_ = 0;
};

}  // namespace

template <typename T>
void Runtime<T>::eigh(T* k, int64_t m, T* values, const T*& vectors) {
  const OneMklThread one_thread;
  const auto solve = syevd(T());
  if (!solve || m > kLargestSyevd) {
    // Seen as column-major, which a symmetric matrix may be: torch's copy for LAPACK then
    // transposes nothing. The lower triangle becomes the upper one.
    const std::array<int64_t, 2> shape{m, m}, strides{1, m};
    auto [eigenvalues, eigenvectors] = torch_eigh(
        torch::stable::from_blob(k, shape, strides, like_.device(), like_.scalar_type()));
    kept_ = torch::stable::contiguous(torch::stable::transpose(eigenvectors, 0, 1));
    std::copy_n(const_data<T>(eigenvalues), m, values);
    vectors = const_data<T>(kept_);
    return;
  }
  vectors_.assign(k, k + m * m);
  vectors = vectors_.data();
  const int n = static_cast<int>(m), query = -1;
  int info = 0, integers = 0;
  T reals = 0;
  const auto call = [&](T* work, const int& length, int* iwork, const int& ilength) {
    solve("V", "U", &n, vectors_.data(), &n, values, work, &length, iwork, &ilength, &info);
    if (info != 0) fail("eigh: LAPACK did not converge (info ", info, ")");
  };
  call(&reals, query, &integers, query);
  work_.resize(std::max(static_cast<size_t>(reals), static_cast<size_t>(1 + 6 * m + 2 * m * m)));
  iwork_.resize(std::max(integers, 3 + 5 * n));
  call(work_.data(), static_cast<int>(work_.size()), iwork_.data(),
       static_cast<int>(iwork_.size()));
}

template class Runtime<float>;
template class Runtime<double>;

namespace {

void check_square(const Tensor& k) {
  check_matrix("k", k, "(..., M, M) with M >= 1", 1, 1);
  if (rows(k) != columns(k)) fail("k must have shape (..., M, M), got ", shape_text(k));
}

std::tuple<Tensor, Tensor> eigh_cpu(const Tensor& k) {
  check_square(k);
  const int64_t m = rows(k);
  const Tensor input = torch::stable::contiguous(k);
  const Tensor values = empty(k, batch_shape(k, 2, {m}));
  const Tensor vectors = empty(k, batch_shape(k, 2, {m, m}));
  dispatch(k, [&](auto zero) {
    using T = decltype(zero);
    check_finite<T>("k", input);
    torch::stable::parallel_for(0, batch_count(k, 2), 1, [&](int64_t begin, int64_t end) {
      Runtime<T> runtime(input);
      for (int64_t g = begin; g < end; ++g) {
        const T* rows = nullptr;
        runtime.eigh(const_cast<T*>(const_data<T>(input)) + g * m * m, m, data<T>(values) + g * m,
                     rows);
        for (int64_t i = 0; i < m; ++i)  // a finite matrix may have an eigenvalue beyond the range
          data<T>(values)[g * m + i] = saturate<T>(static_cast<double>(data<T>(values)[g * m + i]));
        std::copy_n(rows, m * m, data<T>(vectors) + g * m * m);
      }
    });
  });
  return {values, torch::stable::transpose(vectors, -2, -1)};
}

#ifdef MIGE_WITH_CUDA
// Above this torch's solver is predicted to be faster (benchmarks/README.md), at the price of
// waiting for the device. By the size alone: a matrix has the same bits in any batch.
constexpr int64_t kLargestJacobi = 2048;

std::tuple<Tensor, Tensor> eigh_cuda(const Tensor& k) {
  check_square(k);
  const CudaContext context(k);
  const Tensor input = torch::stable::contiguous(k);
  const int64_t groups = batch_count(k, 2), m = rows(k);
  if (m > kLargestJacobi && groups > 0) {
    // The upper triangle of the transpose is the lower one of k.
    const auto [values, vectors] = torch_eigh(torch::stable::transpose(input, -2, -1));
    return {values, vectors};
  }
  const Tensor values = empty(k, batch_shape(k, 2, {m}));
  const Tensor vectors = empty(k, batch_shape(k, 2, {m, m}));
  dispatch(k, [&](auto zero) {
    using T = decltype(zero);
    const Tensor work = work_space(k, cuda::eigh_work<T>(groups, m));
    context.check("eigh",
                  cuda::eigh(const_data<T>(input), groups, m, data<T>(values), data<T>(vectors),
                             static_cast<int32_t*>(nullptr), data<char>(work), context.stream()));
  });
  return {values, torch::stable::transpose(vectors, -2, -1)};
}
#endif

}  // namespace
}  // namespace mige::bind

STABLE_TORCH_LIBRARY_IMPL(mige_ext, CPU, m) { m.impl("eigh", TORCH_BOX(&mige::bind::eigh_cpu)); }

#ifdef MIGE_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(mige_ext, CUDA, m) { m.impl("eigh", TORCH_BOX(&mige::bind::eigh_cuda)); }
#endif
