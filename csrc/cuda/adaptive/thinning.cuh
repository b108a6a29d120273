// Selects the samples from which λ, the base and the bandwidth are chosen. common/thinning_rule.h
// has the rule and defines s_1 and s_6. The squared distances s [m, m] to samples that are left out
// become infinite. The elements of K for these pairs are then 0, so the choice ignores these
// samples.
#pragma once

#include "common/thinning_rule.h"
#include "cuda/core/device.cuh"
#include "cuda/core/workspace.cuh"

namespace mige::cuda {

template <typename T>
struct Thinning : Workspace {
  T* s;  // [groups, m, m], squared distances
  int64_t groups, m, r;
  T* left_out;  // [groups]

  int32_t* distinct = take<int32_t>(groups * m);  // 1 or 0
  int32_t* kept = take<int32_t>(groups * m);      // 1 or 0
  int32_t* nearest = take<int32_t>(groups * m);   // index of the nearest kept sample
  T* first = take<T>(groups * m);                 // s_1
  T* scale = take<T>(groups * m);                 // s_6
  double* log_ratio = take<double>(groups * m);   // log(s_outer / s_inner)
  double* separation = take<double>(groups);  // the largest s / s_6 of near-coincident pairs, or 0
  int32_t* count = take<int32_t>(groups);     // number of samples that are kept

  __device__ __forceinline__ bool all_kept(int64_t g) const { return count[g] == m; }
};

// Fills the arrays of `p` and masks the squared distances. The kernels are in thinning.cu.
template <typename T>
void thin(const Thinning<T>& p, Stream& stream);

}  // namespace mige::cuda
