// rbf_gram: the Gram matrix exp(−‖x_i − y_j‖² / 2σ²). pairwise.cuh has the layout and the work.
#include "cuda/launchers.h"
#include "cuda/rbf/pairwise.cuh"

namespace mige::cuda {

template <typename T>
int64_t rbf_gram_work(const PairwiseArguments<T>& p) {
  return magnitudes_work(p.groups);
}

template <typename T>
int rbf_gram(const PairwiseArguments<T>& p, void* work, void* stream) {
  return pairwise_of_samples<T, Pairwise::kRbf>(p, work, stream);
}

MIGE_INSTANTIATE(rbf_gram);

}  // namespace mige::cuda
