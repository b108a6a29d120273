// Squared distances and RBF Gram matrices by direct differences:
//
//   s_ij = Σ_c (r (x_ic − y_jc))²,   k_ij = exp(−γ s_ij),   out [groups, m, n] row-major.
//
// γ is 1 / (2 (rσ)²). The scale r is a power of two, so multiplication by r is exact.
#pragma once

#include "common/operators.h"
#include "cuda/core/scale.cuh"

namespace mige::cuda {

enum class Pairwise {
  kSquaredDistance,        // squared distances
  kScaledSquaredDistance,  // squared distances of the coordinates times normal_scale
  kRbf,                    // RBF Gram matrix
  kScaledRbf               // RBF Gram matrix of coordinates that `center` has scaled for it
};

// The arguments for all pairs of one set of samples.
template <typename T>
PairwiseArguments<T> pairs_of(const T* x,  // [groups, m, d]
                              int64_t groups, int64_t m, int64_t d,
                              T* out,                          // [groups, m, m]
                              const T* bandwidth = nullptr) {  // [groups]
  PairwiseArguments<T> p{};
  p.x = x;
  p.bandwidth = bandwidth;
  p.groups = groups;
  p.m = p.n = m;
  p.d = d;
  p.out = out;
  return p;
}

// Computes `out`. The kernels are in pairwise.cu.
template <typename T, Pairwise kKind>
void pairwise(const PairwiseArguments<T>& p,
              const Key<T>* largest,  // [groups], magnitudes of x and y
              Stream& stream);

// The launcher of squared_distances and rbf_gram: computes the magnitudes of x and y, then `out`.
template <typename T, Pairwise kKind>
int pairwise_of_samples(const PairwiseArguments<T>& p, void* work, void* cuda_stream) {
  if (p.groups == 0) return 0;
  Stream stream(cuda_stream);
  auto* const largest = static_cast<Key<T>*>(work);
  largest_magnitudes(p.x, p.m * p.d, p.y, p.n * p.d, p.groups, largest, stream);
  pairwise<T, kKind>(p, largest, stream);
  return stream.status();
}

}  // namespace mige::cuda
