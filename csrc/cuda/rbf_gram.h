// Host launcher of the RBF Gram matrix; no CUDA headers needed to call it.
#pragma once

#include <cstdint>

namespace mige::cuda {

// out_ij = exp(−‖x_i − y_j‖² / 2σ²) for every group; y == nullptr means y = x, where only half of
// the tiles are computed. Returns a cudaError_t. All pointers are on the device of `stream`.
int rbf_gram(const float* x,          // [groups, m, d]
             const float* y,          // [groups, n, d] or nullptr
             const float* bandwidth,  // [groups]
             int64_t groups, int64_t m, int64_t n, int64_t d,
             float* out,  // [groups, m, n]
             void* stream);
int rbf_gram(const double* x, const double* y, const double* bandwidth, int64_t groups, int64_t m,
             int64_t n, int64_t d, double* out, void* stream);

}  // namespace mige::cuda
