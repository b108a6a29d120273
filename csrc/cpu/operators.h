// The operators on the CPU, one file an operator. mige_ext/ops documents what they compute.
//
// The arguments are those of the CUDA launcher of the same name (cuda/launchers.h), without its
// workspace and stream. All matrices are row-major and contiguous; T is float or double. The input
// is finite and a bandwidth positive: bind/operator.h has checked it. Groups run in parallel and,
// where there are fewer groups than threads, the rows of a group. Results have the same bits for
// any number of groups and threads.
#pragma once

#include "common/ssge.h"

namespace mige::cpu {

// The index of the first NaN or infinity; count if there is none.
template <typename T>
int64_t first_not_finite(const T* x, int64_t count);

template <typename T>
void squared_distances(const T* x,  // [groups, m, d]
                       const T* y,  // [groups, n, d] or nullptr
                       int64_t groups, int64_t m, int64_t n, int64_t d,
                       T* out);  // [groups, m, n]

template <typename T>
void distance_quantile(const T* x,  // [groups, m, d], m >= 2
                       int64_t groups, int64_t m, int64_t d, double quantile,
                       T* out);  // [groups]

template <typename T>
void rbf_gram(const T* x,          // [groups, m, d]
              const T* y,          // [groups, n, d] or nullptr
              const T* bandwidth,  // [groups]
              int64_t groups, int64_t m, int64_t n, int64_t d,
              T* out);  // [groups, m, n]

template <typename T>
void rbf_gradient_sum(const T* x,          // [groups, m, d]
                      const T* bandwidth,  // [groups]
                      int64_t groups, int64_t m, int64_t d,
                      T* out);  // [groups, m, d]

template <typename T>
void rbf_product(const T* q,          // [groups, m, d]
                 const T* x,          // [groups, n, d]
                 const T* w,          // [groups, n, p]
                 const T* bandwidth,  // [groups]
                 int64_t groups, int64_t m, int64_t n, int64_t d, int64_t p,
                 T* out);  // [groups, m, p]

template <typename T>
void ssge(const T* x,                // [groups, m, d], m >= 2
          const T* given_bandwidth,  // [groups] or nullptr
          int64_t groups, int64_t m, int64_t d, const SsgeOptions& options,
          T* out,          // [groups, m, d]
          T* eigenvalues,  // [groups, m], ascending
          T* bandwidth,    // [groups]
          int64_t* rank);  // [groups]

template <typename T>
void ridge_whitening(const T* x,  // [groups, m, d], m >= 2
                     int64_t groups, int64_t m, int64_t d, double factor,
                     T* mean,       // [groups, d]
                     T* whitening,  // [groups, d, d]
                     T* ridge);     // [groups]

template <typename T>
void adaptive_score(const T* x,  // [groups, m, d], m >= 2
                    int64_t groups, int64_t m, int64_t d,
                    T* scores,          // [groups, m, d]
                    T* lambda,          // [groups], infinite for the Gaussian score
                    int64_t* base,      // [groups]
                    T* risk,            // [groups], less the risk of the Gaussian score
                    T* standard_error,  // [groups], of the risk
                    T* bandwidth);      // [groups], in whitened units

}  // namespace mige::cpu
