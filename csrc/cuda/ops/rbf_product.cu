// rbf_product: k(q, X) W without k in memory, the Nyström extension.
#include "cuda/launchers.h"
#include "cuda/rbf/rbf_product.cuh"

namespace mige::cuda {

int64_t rbf_product_work(int64_t groups) {
  WorkSpace space(nullptr);
  space.take<Key<double>>(groups);
  return space.size();
}

template <typename T>
int rbf_product(const T* q, const T* x, const T* w, const T* bandwidth, int64_t groups, int64_t m,
                int64_t n, int64_t d, int64_t p, T* out, void* work, void* stream) {
  if (groups == 0 || m == 0 || p == 0) return 0;
  auto* const largest = WorkSpace(work).take<Key<T>>(groups);
  const int failed = largest_magnitudes(q, m * d, x, n * d, groups, largest, stream);
  if (failed) return failed;
  const int64_t row_tiles = divide_up(m, kProductTile), column_tiles = divide_up(p, kProductTile);
  if (row_tiles > kLargestGridX) return static_cast<int>(cudaErrorInvalidConfiguration);
  // Columns are shared out over blocks, at the price of computing k once more for each share, only
  // where the rows alone would leave multiprocessors idle.
  const int64_t idle = kProductBlocks / (row_tiles * groups) + 1;
  int64_t shares = idle < column_tiles ? idle : column_tiles;
  shares = shares < kLargestGridYZ ? shares : kLargestGridYZ;
  const dim3 grid(static_cast<unsigned>(row_tiles), static_cast<unsigned>(shares), grid_z(groups));
  return launch(rbf_product_kernel<T>, grid, dim3(kTileThreads), kRbfProductSmem<T>, stream, q, x,
                w, bandwidth, largest, groups, m, n, d, p, out);
}

template int rbf_product(const float*, const float*, const float*, const float*, int64_t, int64_t,
                         int64_t, int64_t, int64_t, float*, void*, void*);
template int rbf_product(const double*, const double*, const double*, const double*, int64_t,
                         int64_t, int64_t, int64_t, int64_t, double*, void*, void*);

}  // namespace mige::cuda
