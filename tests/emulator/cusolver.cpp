// A stand-in for the functions of cuSOLVER that csrc/cuda/linalg/eigh_library.h calls, on memory of
// the host: test_emulated_library.py compiles it. The environment variable MIGE_FAKE_CUSOLVER names
// what fails: "create", "call", or "info" for the second matrix of every batch. A matrix that is
// not finite is an invalid value.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

namespace {

constexpr size_t kOnDevice = 1000, kOnHost = 100;  // bytes

bool fails(const char* what) {
  const char* const setting = std::getenv("MIGE_FAKE_CUSOLVER");
  return setting != nullptr && std::strcmp(setting, what) == 0;
}

template <typename T>
bool is_finite(const T* matrices, int64_t count) {
  return std::all_of(matrices, matrices + count, [](T value) { return std::isfinite(value); });
}

// Cyclic two-sided Jacobi on the upper triangle of a column-major matrix, in double. Eigenvectors
// replace the matrix, one per column.
template <typename T>
void decompose(T* matrix, int64_t n, T* values) {
  std::vector<double> a(n * n), v(n * n, 0.0);
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = 0; i <= j; ++i) a[i * n + j] = a[j * n + i] = matrix[j * n + i];
  for (int64_t i = 0; i < n; ++i) v[i * n + i] = 1;
  // Smaller elements are rounding errors. Their rotations would add errors to the eigenvalues.
  double negligible = 0;
  for (const double value : a) negligible = std::max(negligible, 1e-18 * std::abs(value));
  for (int sweep = 0; sweep < 30; ++sweep)
    for (int64_t p = 0; p < n; ++p)
      for (int64_t q = p + 1; q < n; ++q) {
        if (std::abs(a[p * n + q]) <= negligible) continue;
        const double theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
        const double t = std::copysign(1 / (std::abs(theta) + std::hypot(theta, 1.0)), theta);
        const double c = 1 / std::hypot(t, 1.0), s = t * c, tau = s / (1 + c);
        const auto rotate = [&](double& x, double& y) {  // this form does not round c to 1
          const double before = x;
          x -= s * (y + tau * before);
          y += s * (before - tau * y);
        };
        for (int64_t k = 0; k < n; ++k) rotate(a[k * n + p], a[k * n + q]);
        for (int64_t k = 0; k < n; ++k) rotate(a[p * n + k], a[q * n + k]);
        for (int64_t k = 0; k < n; ++k) rotate(v[k * n + p], v[k * n + q]);
      }
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int64_t i, int64_t j) { return a[i * n + i] < a[j * n + j]; });
  for (int64_t j = 0; j < n; ++j) {
    values[j] = static_cast<T>(a[order[j] * n + order[j]]);
    for (int64_t i = 0; i < n; ++i) matrix[j * n + i] = static_cast<T>(v[i * n + order[j]]);
  }
}

}  // namespace

extern "C" {

int cusolverDnCreate(void** handle) {
  static char solver;
  *handle = &solver;
  return fails("create") ? 1 : 0;
}

int cusolverDnCreateParams(void** parameters) { return cusolverDnCreate(parameters); }

int cusolverDnSetStream(void*, void*) { return 0; }

int cusolverDnXsyevBatched_bufferSize(void*, void*, int, int, int64_t, int, const void*, int64_t,
                                      int, const void*, int, size_t* on_device, size_t* on_host,
                                      int64_t) {
  *on_device = kOnDevice;
  *on_host = kOnHost;
  return 0;
}

int cusolverDnXsyevBatched(void* solver, void* parameters, int with_vectors, int triangle,
                           int64_t n, int type, void* a, int64_t lda, int value_type, void* w,
                           int compute_type, void* device_buffer, size_t on_device,
                           void* host_buffer, size_t on_host, int* info, int64_t batch) {
  if (solver == nullptr || parameters == nullptr || with_vectors != 1 || triangle != 1 ||
      lda != n || value_type != type || compute_type != type || on_device != kOnDevice ||
      on_host != kOnHost || fails("call"))
    return 3;  // an invalid value
  std::memset(device_buffer, 0, on_device);
  std::memset(host_buffer, 0, on_host);
  const int64_t count = batch * n * n;
  if (type == 0 ? !is_finite(static_cast<float*>(a), count)
                : !is_finite(static_cast<double*>(a), count))
    return 3;
  for (int64_t g = 0; g < batch; ++g) {
    if (type == 0)
      decompose(static_cast<float*>(a) + g * n * n, n, static_cast<float*>(w) + g * n);
    else
      decompose(static_cast<double*>(a) + g * n * n, n, static_cast<double*>(w) + g * n);
    info[g] = g == 1 && fails("info") ? 7 : 0;
  }
  return 0;
}

}  // extern "C"
