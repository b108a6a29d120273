// Host launchers of the CUDA kernels, one an operator. No CUDA headers are needed to call them.
//
// All matrices are row-major and contiguous, and all pointers are on the device of `stream`. T is
// float or double. A launcher enqueues its kernels, does not wait for the device, and returns a
// cudaError_t (0 for success). `work` is a workspace of at least <operator>_work bytes, aligned to
// 256; its contents do not matter before or after the call. Results are bitwise the same from run
// to run and for any number of groups. A group with a NaN or an infinity in its input, or with a
// bandwidth that is not positive and finite, gives NaN in all results except J, which is 0.
#pragma once

#include <cstdint>

#include "common/ssge.h"

namespace mige::cuda {

const char* error_text(int status);

// out_ij = ‖x_i − y_j‖², or the largest finite number if it overflows. y == nullptr means y = x,
// for half the work.
template <typename T>
int squared_distances(const T* x,  // [groups, m, d]
                      const T* y,  // [groups, n, d] or nullptr
                      int64_t groups, int64_t m, int64_t n, int64_t d,
                      T* out,  // [groups, m, n]
                      void* work, void* stream);
int64_t squared_distances_work(int64_t groups);

// out_ij = exp(−‖x_i − y_j‖² / 2σ²).
template <typename T>
int rbf_gram(const T* x,          // [groups, m, d]
             const T* y,          // [groups, n, d] or nullptr
             const T* bandwidth,  // [groups]
             int64_t groups, int64_t m, int64_t n, int64_t d,
             T* out,  // [groups, m, n]
             void* work, void* stream);
int64_t rbf_gram_work(int64_t groups);

// The distance of rank ceil(quantile m(m−1)/2) among the pairs; if it is 0, the quantile of the
// positive distances.
template <typename T>
int distance_quantile(const T* x,  // [groups, m, d], m >= 2
                      int64_t groups, int64_t m, int64_t d, double quantile,
                      T* out,  // [groups]
                      void* work, void* stream);
template <typename T>
int64_t distance_quantile_work(int64_t groups, int64_t m);

// H_j = Σ_i ∇_{x_i} k(x_i, x_j).
template <typename T>
int rbf_gradient_sum(const T* x,          // [groups, m, d]
                     const T* bandwidth,  // [groups]
                     int64_t groups, int64_t m, int64_t d,
                     T* out,  // [groups, m, d]
                     void* work, void* stream);
template <typename T>
int64_t rbf_gradient_sum_work(int64_t groups, int64_t m, int64_t d);

// out = k(q, x) w without storing k.
template <typename T>
int rbf_product(const T* q,          // [groups, m, d]
                const T* x,          // [groups, n, d]
                const T* w,          // [groups, n, p]
                const T* bandwidth,  // [groups]
                int64_t groups, int64_t m, int64_t n, int64_t d, int64_t p,
                T* out,  // [groups, m, p]
                void* work, void* stream);
int64_t rbf_product_work(int64_t groups);

// K = U diag(λ) Uᵀ of symmetric matrices; only the lower triangle is read.
template <typename T>
int eigh(const T* k,  // [groups, n, n]
         int64_t groups, int64_t n,
         T* values,      // [groups, n], ascending
         T* vectors,     // [groups, n, n], a vector a row
         int32_t* info,  // [groups]: number of sweeps; −1: input not finite; −2: no convergence
         void* work, void* stream);
template <typename T>
int64_t eigh_work(int64_t groups, int64_t n);

// −U_J Λ_J^{−power} U_Jᵀ H, from samples to result; see mige_ext.ops.ssge.
template <typename T>
int ssge(const T* x,                // [groups, m, d], m >= 2
         const T* given_bandwidth,  // [groups] or nullptr
         int64_t groups, int64_t m, int64_t d, const SsgeOptions& options,
         T* out,          // [groups, m, d]
         T* eigenvalues,  // [groups, m], ascending
         T* bandwidth,    // [groups]
         int64_t* rank,   // [groups]
         void* work, void* stream);
template <typename T>
int64_t ssge_work(int64_t groups, int64_t m, int64_t d);

// Mean, W = D⁻¹ (R + τI)^{-1/2} and τ; see mige_ext.ops.ridge_whitening.
template <typename T>
int ridge_whitening(const T* x,  // [groups, m, d], m >= 2
                    int64_t groups, int64_t m, int64_t d, double factor,
                    T* mean,       // [groups, d]
                    T* whitening,  // [groups, d, d]
                    T* ridge,      // [groups]
                    void* work, void* stream);
template <typename T>
int64_t ridge_whitening_work(int64_t groups, int64_t m, int64_t d);

// The score of the adaptive estimator, without settings; see mige_ext.ops.adaptive_score.
template <typename T>
int adaptive_score(const T* x,  // [groups, m, d], m >= 2
                   int64_t groups, int64_t m, int64_t d,
                   T* scores,          // [groups, m, d]
                   T* lambda,          // [groups]: infinite for the Gaussian score
                   int64_t* base,      // [groups]
                   T* risk,            // [groups]
                   T* standard_error,  // [groups]
                   T* bandwidth,       // [groups]
                   void* work, void* stream);
template <typename T>
int64_t adaptive_score_work(int64_t groups, int64_t m, int64_t d);

}  // namespace mige::cuda
