// rbf_product: k(q, X) W without k in memory, the Nyström extension.
#include "cuda/launchers.h"
#include "cuda/rbf/rbf_product.cuh"

namespace mige::cuda {

int64_t rbf_product_work(int64_t groups) { return magnitudes_work(groups); }

template <typename T>
int rbf_product(const T* q, const T* x, const T* w, const T* bandwidth, int64_t groups, int64_t m,
                int64_t n, int64_t d, int64_t p, T* out, void* work, void* cuda_stream) {
  if (groups == 0 || m == 0 || p == 0) return 0;
  Stream stream(cuda_stream);
  auto* const largest = static_cast<Key<T>*>(work);
  largest_magnitudes(q, m * d, x, n * d, groups, largest, stream);
  const int64_t row_tiles = divide_up(m, kProductTile), column_tiles = divide_up(p, kProductTile);
  // Blocks divide the columns only where the rows alone would leave multiprocessors idle, because
  // each part of the columns computes k once more.
  const int64_t idle = kProductBlocks / (row_tiles * groups) + 1;
  const int64_t parts = at_most(at_most(idle, column_tiles), kLargestGridYZ);
  stream.launch(rbf_product_kernel<T>,
                {{row_tiles, parts, group_blocks(groups)}, kTileThreads, kRbfProductSmem<T>}, q, x,
                w, bandwidth, largest, groups, m, n, d, p, out);
  return stream.status();
}

MIGE_INSTANTIATE(rbf_product);

}  // namespace mige::cuda
