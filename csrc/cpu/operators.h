// The operators on the CPU. Each operator has one file.
//
// A CUDA launcher of the same name takes the same arguments (cuda/launchers.h). Inputs must be
// finite and bandwidths positive; bind/operator.h checks both. Groups run in parallel and, where
// there are fewer groups than threads, the rows of a group. Results have the same bits for any
// number of groups and threads.
#pragma once

#include "common/operators.h"

namespace mige::cpu {

// The index of the first NaN or infinity, or `count` if there is none.
template <typename T>
int64_t first_not_finite(const T* x, int64_t count);

template <typename T>
void squared_distances(const PairwiseArguments<T>& p);
template <typename T>
void rbf_gram(const PairwiseArguments<T>& p);
template <typename T>
void distance_quantile(const DistanceQuantileArguments<T>& p);
template <typename T>
void rbf_gradient_sum(const RbfGradientSumArguments<T>& p);
template <typename T>
void rbf_product(const RbfProductArguments<T>& p);
template <typename T>
void eigh(const EighArguments<T>& p);
template <typename T>
void ssge(const SsgeArguments<T>& p);
template <typename T>
void ridge_whitening(const RidgeWhiteningArguments<T>& p);
template <typename T>
void student_score(const StudentScoreArguments<T>& p);
template <typename T>
void adaptive_score(const AdaptiveScoreArguments<T>& p);

}  // namespace mige::cpu
