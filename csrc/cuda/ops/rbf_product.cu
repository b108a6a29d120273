// rbf_product: the Nyström extension k(q, X) W, without k in memory.
#include "cuda/launchers.h"
#include "cuda/rbf/rbf_product.cuh"

namespace mige::cuda {

template <typename T>
int64_t rbf_product_work(const RbfProductArguments<T>& p) {
  return magnitudes_work(p.groups);
}

template <typename T>
int rbf_product(const RbfProductArguments<T>& p, void* work, void* cuda_stream) {
  if (p.groups == 0 || p.m == 0 || p.p == 0) return 0;
  Stream stream(cuda_stream);
  auto* const largest = static_cast<Key<T>*>(work);
  largest_magnitudes(p.q, p.m * p.d, p.x, p.n * p.d, p.groups, largest, stream);
  const int64_t row_tiles = divide_up(p.m, kProductTile);
  const int64_t column_tiles = divide_up(p.p, kProductTile);
  // Thread blocks divide the columns only if the rows alone would leave multiprocessors idle,
  // because k is computed again for each part of the columns.
  const int64_t idle = kProductBlocks / (row_tiles * p.groups) + 1;
  const int64_t parts = at_most(at_most(idle, column_tiles), kLargestGridYZ);
  stream.launch(rbf_product_kernel<T>,
                {{row_tiles, parts, group_blocks(p.groups)}, kTileThreads, kRbfProductSmem<T>}, p,
                largest);
  return stream.status();
}

MIGE_INSTANTIATE(rbf_product);

}  // namespace mige::cuda
