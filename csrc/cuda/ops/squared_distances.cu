// squared_distances: ‖x_i − y_j‖² for all pairs of rows. pairwise.cuh has the layout and the work.
#include "cuda/launchers.h"
#include "cuda/rbf/pairwise.cuh"

namespace mige::cuda {

template <typename T>
int64_t squared_distances_work(const PairwiseArguments<T>& p) {
  return magnitudes_work(p.groups);
}

template <typename T>
int squared_distances(const PairwiseArguments<T>& p, void* work, void* stream) {
  return pairwise_of_samples<T, Pairwise::kSquaredDistance>(p, work, stream);
}

MIGE_INSTANTIATE(squared_distances);

}  // namespace mige::cuda
