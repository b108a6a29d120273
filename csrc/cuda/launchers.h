// Host launchers of the CUDA kernels, one an operator. No CUDA headers are needed to call them.
//
// All pointers are on the device of `stream`. A launcher enqueues its kernels, does not wait for
// the device, and returns a cudaError_t (0 for success). `work` is a workspace of at least
// <operator>_work bytes, aligned to 256; its contents do not matter before or after the call.
// Results are bitwise the same from run to run and for any number of groups. A group with a NaN or
// an infinity in its input, or with a bandwidth that is not positive and finite, gives NaN in all
// results except J, which is 0.
#pragma once

#include "common/operators.h"

namespace mige::cuda {

const char* error_text(int status);

template <typename T>
int squared_distances(const PairwiseArguments<T>& p, void* work, void* stream);
template <typename T>
int64_t squared_distances_work(const PairwiseArguments<T>& p);

template <typename T>
int rbf_gram(const PairwiseArguments<T>& p, void* work, void* stream);
template <typename T>
int64_t rbf_gram_work(const PairwiseArguments<T>& p);

template <typename T>
int distance_quantile(const DistanceQuantileArguments<T>& p, void* work, void* stream);
template <typename T>
int64_t distance_quantile_work(const DistanceQuantileArguments<T>& p);

template <typename T>
int rbf_gradient_sum(const RbfGradientSumArguments<T>& p, void* work, void* stream);
template <typename T>
int64_t rbf_gradient_sum_work(const RbfGradientSumArguments<T>& p);

template <typename T>
int rbf_product(const RbfProductArguments<T>& p, void* work, void* stream);
template <typename T>
int64_t rbf_product_work(const RbfProductArguments<T>& p);

template <typename T>
int eigh(const EighArguments<T>& p, void* work, void* stream);
template <typename T>
int64_t eigh_work(const EighArguments<T>& p);

template <typename T>
int ssge(const SsgeArguments<T>& p, void* work, void* stream);
template <typename T>
int64_t ssge_work(const SsgeArguments<T>& p);

template <typename T>
int ridge_whitening(const RidgeWhiteningArguments<T>& p, void* work, void* stream);
template <typename T>
int64_t ridge_whitening_work(const RidgeWhiteningArguments<T>& p);

template <typename T>
int adaptive_score(const AdaptiveScoreArguments<T>& p, void* work, void* stream);
template <typename T>
int64_t adaptive_score_work(const AdaptiveScoreArguments<T>& p);

}  // namespace mige::cuda
