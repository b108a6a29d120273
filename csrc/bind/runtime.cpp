// Implements cpu/runtime.h with the threads of torch and the LAPACK that torch contains.
#include "cpu/runtime.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>

#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "bind/checks.h"
#include "cpu/background.h"
#include "cpu/interrupt.h"
#include "cpu/operators.h"
#include "cpu/simd.h"

namespace mige::cpu {
namespace {

using bind::Tensor;

// LAPACK stores the size of its workspace, about 2 m² values, in an int: 2 × 32,000² < 2³¹.
constexpr int64_t kLargestSyevd = 32000;

// A call of LAPACK cannot poll for Ctrl-C, so matrices with at least so many rows (about 80 ms) are
// decomposed in the background.
constexpr int64_t kSmallestInBackground = 1000;

// Limits MKL to one thread, for the calling thread only, because MKL's rounding depends on the
// number of threads. Groups run in parallel instead. (One matrix of n = 1024 takes 85 ms instead of
// 62 ms on 2 threads.)
class OneMklThread {
 public:
  OneMklThread() {
    // The first call of torch on a thread sets MKL's number of threads. This call comes before the
    // limit, so that no later call undoes the limit.
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

// Makes denormal numbers 0 on the calling thread. With denormal numbers, MKL's ssyevd fails, or
// returns NaN, for many matrices of low rank, such as the correlations of constant columns.
class NoDenormals {
#ifdef __SSE2__
 public:
  NoDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushToZero | kDenormalsAreZero); }
  ~NoDenormals() { _mm_setcsr(before_); }
  NoDenormals(const NoDenormals&) = delete;
  NoDenormals& operator=(const NoDenormals&) = delete;

 private:
  static constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x40;
  const unsigned before_;
#else
 public:
  ~NoDenormals() {}
#endif
};

// The elements of a parallel loop that no thread has finished.
class Unfinished {
 public:
  explicit Unfinished(int64_t count) : count_(count) {}

  // Polls until no elements are left.
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!changed_.wait_for(lock, kPollInterval, [this] { return count_ == 0; })) {
      lock.unlock();
      poll_interrupt();
      lock.lock();
    }
  }

  // Elements of one thread, which count as finished when this object is destroyed, also after an
  // exception.
  class Part {
   public:
    Part(Unfinished& all, int64_t count) : all_(all), count_(count) {}
    ~Part() {
      const std::lock_guard<std::mutex> lock(all_.mutex_);
      all_.count_ -= count_;
      if (all_.count_ == 0) all_.changed_.notify_one();
    }
    Part(const Part&) = delete;
    Part& operator=(const Part&) = delete;

   private:
    Unfinished& all_;
    const int64_t count_;
  };

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t count_;
};

// Calls LAPACK on the calling thread. Returns whether the decomposition succeeded.
template <typename T>
bool call_lapack(T* k,  // [m, m]: K, becomes Uᵀ
                 int64_t m,
                 T* values) {  // [m]
  const OneMklThread one_thread;
  const NoDenormals no_denormals;
  constexpr bool kFloat = std::is_same_v<T, float>;
  auto* const solve = [] {
    if constexpr (kFloat)
      return ssyevd_;
    else
      return dsyevd_;
  }();
  if (!solve || m > kLargestSyevd) {
    // The strides declare the matrix as column-major, as LAPACK needs it, so torch's copy does not
    // transpose. The lower triangle is then the upper triangle, which linalg_eigh reads.
    const std::array<int64_t, 2> shape{m, m}, strides{1, m};
    const auto dtype = kFloat ? bind::ScalarType::Float : bind::ScalarType::Double;
    const torch::stable::Device device(torch::headeronly::DeviceType::CPU);
    const auto [eigenvalues, eigenvectors] =
        bind::linalg_eigh(torch::stable::from_blob(k, shape, strides, device, dtype));
    const Tensor by_rows = torch::stable::contiguous(torch::stable::transpose(eigenvectors, 0, 1));
    std::copy_n(static_cast<const T*>(eigenvalues.const_data_ptr()), m, values);
    std::copy_n(static_cast<const T*>(by_rows.const_data_ptr()), m * m, k);
    return true;
  }
  const int n = static_cast<int>(m), query = -1;
  int info = 0;
  const auto call = [&](T* work, const int& length, int* integers, const int& integer_length) {
    solve("V", "U", &n, k, &n, values, work, &length, integers, &integer_length, &info);
  };
  T best_length = 0;
  int best_integers = 0;
  call(&best_length, query, &best_integers, query);
  const int length = std::max(static_cast<int>(best_length), 1 + 6 * n + 2 * n * n);
  const int integer_length = std::max(best_integers, 3 + 5 * n);
  const Buffer<T> work(length);
  const Buffer<int> integers(integer_length);
  call(work.get(), length, integers.get(), integer_length);
  // An infinite eigenvalue is valid, because it may overflow although all elements are finite.
  const bool has_nan = std::any_of(values, values + m, [](T value) { return value != value; });
  return info == 0 && !has_nan && first_not_finite(k, m * m) == m * m;
}

// eigh of cpu/runtime.h on the calling thread. If LAPACK fails in float, the matrix is decomposed
// in double.
template <typename T>
void decompose(T* k, int64_t m, T* values) {
  if constexpr (std::is_same_v<T, float>) {
    const Buffer<T> copy(m * m);
    std::copy_n(k, m * m, copy.get());
    if (call_lapack(k, m, values)) return;
    const Buffer<double> wide(m * m), wide_values(m);
    std::copy_n(copy.get(), m * m, wide.get());
    decompose(wide.get(), m, wide_values.get());
    for (int64_t i = 0; i < m * m; ++i) k[i] = static_cast<T>(wide[i]);
    for (int64_t i = 0; i < m; ++i) values[i] = saturate<T>(wide_values[i]);
  } else if (!call_lapack(k, m, values)) {
    bind::fail("eigh: LAPACK did not converge");
  }
}

}  // namespace

void parallel_ranges(int64_t n, int64_t grain, int64_t step,
                     void (*call)(const void*, int64_t, int64_t), const void* f) {
  Interruption* const shared = current_interruption();
  Unfinished unfinished(n);
  std::mutex mutex;
  std::exception_ptr first;  // because torch's loop loses the type and the text of an exception
  torch::stable::parallel_for(
      0, n, grain, [=, &unfinished, &mutex, &first](int64_t begin, int64_t end) {
        try {
          const Interruptible scope(shared);
          const auto start = std::chrono::steady_clock::now();
          {
            const Unfinished::Part part(unfinished, end - begin);
            for (int64_t at = begin; at < end; at += step) {
              poll_interrupt();
              call(f, at, std::min(at + step, end));
            }
          }
          // Wait with polls here, because the end of parallel_for waits for other threads without
          // polls.
          if (handles_signals() && std::chrono::steady_clock::now() - start > kPollInterval)
            unfinished.wait();
        } catch (...) {
          const std::lock_guard<std::mutex> lock(mutex);
          if (!first) first = std::current_exception();
        }
      });
  if (first) std::rethrow_exception(first);
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
