// Implements cpu/runtime.h with the threads of torch and the LAPACK that torch contains.
#include "cpu/runtime.h"

#include <algorithm>
#include <memory>
#include <type_traits>
#include <utility>

#include "bind/checks.h"
#include "cpu/background.h"
#include "cpu/interrupt.h"
#include "cpu/simd.h"

namespace mige::cpu {
namespace {

using bind::Tensor;

// A thread polls for Ctrl-C after so many grains of its range, 768 rows in a loop over rows.
constexpr int64_t kPollGrains = 16;

// LAPACK stores the size of its workspace, about 2 m² values, in an int: 2 × 32,000² < 2³¹.
constexpr int64_t kLargestSyevd = 32000;

// One call of LAPACK cannot poll for Ctrl-C. A matrix with so many rows, whose decomposition takes
// 60 ms or more, is therefore decomposed in the background.
constexpr int64_t kSmallestInBackground = 1000;

// Limits MKL to one thread, for the calling thread only. MKL's blocking, and with it its rounding,
// depends on the number of threads that it may use. With one thread the bits do not depend on the
// number of threads, and groups run in parallel instead. For one matrix of n = 1024 on 2 threads
// the decomposition takes 85 ms instead of 62 ms.
class OneMklThread {
 public:
  OneMklThread() {
    // The first call of torch on a thread sets MKL's number of threads. This call makes sure that
    // none comes later.
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

// eigh of cpu/runtime.h on the calling thread.
template <typename T>
void decompose(T* k, int64_t m, T* values) {
  const OneMklThread one_thread;
  constexpr bool kFloat = std::is_same_v<T, float>;
  auto* const solve = [] {
    if constexpr (kFloat)
      return ssyevd_;
    else
      return dsyevd_;
  }();
  if (!solve || m > kLargestSyevd) {
    // Read as column-major, the matrix needs no transposition in torch's copy for LAPACK. Its lower
    // triangle then is the upper triangle, which linalg_eigh reads.
    const std::array<int64_t, 2> shape{m, m}, strides{1, m};
    const auto dtype = kFloat ? bind::ScalarType::Float : bind::ScalarType::Double;
    const torch::stable::Device device(torch::headeronly::DeviceType::CPU);
    const auto [eigenvalues, eigenvectors] =
        bind::linalg_eigh(torch::stable::from_blob(k, shape, strides, device, dtype));
    const Tensor by_rows = torch::stable::contiguous(torch::stable::transpose(eigenvectors, 0, 1));
    std::copy_n(static_cast<const T*>(eigenvalues.const_data_ptr()), m, values);
    std::copy_n(static_cast<const T*>(by_rows.const_data_ptr()), m * m, k);
    return;
  }
  const int n = static_cast<int>(m), query = -1;
  const auto call = [&](T* work, const int& length, int* integers, const int& integer_length) {
    int info = 0;
    solve("V", "U", &n, k, &n, values, work, &length, integers, &integer_length, &info);
    if (info != 0) bind::fail("eigh: LAPACK did not converge (info ", info, ")");
  };
  T best_length = 0;
  int best_integers = 0;
  call(&best_length, query, &best_integers, query);
  const int length = std::max(static_cast<int>(best_length), 1 + 6 * n + 2 * n * n);
  const int integer_length = std::max(best_integers, 3 + 5 * n);
  const Buffer<T> work(length);
  const Buffer<int> integers(integer_length);
  call(work.get(), length, integers.get(), integer_length);
}

}  // namespace

void parallel_ranges(int64_t n, int64_t grain, void (*call)(const void*, int64_t, int64_t),
                     const void* f) {
  Interruption* const shared = current_interruption();
  torch::stable::parallel_for(0, n, grain, [=](int64_t begin, int64_t end) {
    const Interruptible scope(shared);
    const int64_t step = kPollGrains * grain;
    for (int64_t at = begin; at < end; at += step) {
      poll_interrupt();
      call(f, at, std::min(at + step, end));
    }
  });
}

template <typename T>
void eigh(Buffer<T>& k, int64_t m, T* values) {
  const Interruption* const shared = current_interruption();
  if (m < kSmallestInBackground || !shared || !shared->possible)
    return decompose(k.get(), m, values);
  struct Work {
    Buffer<T> k, values;
  };
  const auto work = std::make_shared<Work>(Work{std::move(k), Buffer<T>(m)});
  call_in_background([work, m] { decompose(work->k.get(), m, work->values.get()); });
  k = std::move(work->k);
  std::copy_n(work->values.get(), m, values);
}

template void eigh(Buffer<float>&, int64_t, float*);
template void eigh(Buffer<double>&, int64_t, double*);

}  // namespace mige::cpu
