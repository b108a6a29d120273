#include "rbf_gram.h"

#include <algorithm>

#include "rbf_gram.cuh"

namespace mige::cuda {

const char* error_text(int status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

namespace {

template <typename T>
int launch_rbf_gram(const T* x, const T* y, const T* bandwidth, int64_t groups, int64_t m,
                    int64_t n, int64_t d, T* out, void* stream) {
  if (groups == 0 || m == 0 || n == 0) return 0;
  const int64_t grid_x = divide_up(n, kGramTile), grid_y = divide_up(m, kGramTile);
  if (grid_x > kLargestGridX || grid_y > kLargestGridYZ)
    return static_cast<int>(cudaErrorInvalidConfiguration);
  const dim3 grid(static_cast<unsigned>(grid_x), static_cast<unsigned>(grid_y),
                  static_cast<unsigned>(std::min(groups, kLargestGridYZ)));
  return launch(rbf_gram_kernel<T>, grid, dim3(kGramThreads), 0, stream, x, y ? y : x, bandwidth,
                groups, m, n, d, y == nullptr, out);
}

}  // namespace

int rbf_gram(const float* x, const float* y, const float* bandwidth, int64_t groups, int64_t m,
             int64_t n, int64_t d, float* out, void* stream) {
  return launch_rbf_gram(x, y, bandwidth, groups, m, n, d, out, stream);
}

int rbf_gram(const double* x, const double* y, const double* bandwidth, int64_t groups, int64_t m,
             int64_t n, int64_t d, double* out, void* stream) {
  return launch_rbf_gram(x, y, bandwidth, groups, m, n, d, out, stream);
}

}  // namespace mige::cuda
