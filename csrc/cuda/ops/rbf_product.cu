// rbf_product: the Nyström extension k(q, X) W. The matrix k(q, X) is not stored. rbf_product.cuh
// has the layout and the work.
#include "cuda/launchers.h"
#include "cuda/rbf/rbf_product.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout : Workspace {
  RbfProductArguments<T> of;
  int64_t row_tiles = divide_up(of.m, kProductTile);
  Key<T>* largest = take<Key<T>>(of.groups);
  RbfProductParts parts = divided();

  // Divides the samples into parts of whole tiles of 64 samples, and takes memory for the partial
  // sums (RbfProductParts).
  RbfProductParts divided() {
    RbfProductParts made{Parts::of(row_tiles, of.n, kProductTile), {}};
    const int64_t values = of.m * (of.p + 1);
    const int64_t bytes = made.bytes(of.groups, row_tiles, values, sizeof(T));
    const int64_t of_one = of.groups * values * static_cast<int64_t>(sizeof(T));
    made.separate = bytes > 0;
    made.partial =
        take_partial_sums(*this, {bytes > 0 ? bytes : (made.count > 1 ? of_one : int64_t(0))});
    return made;
  }
};

}  // namespace

template <typename T>
int64_t rbf_product_work(const RbfProductArguments<T>& p) {
  return Layout<T>{Workspace(nullptr), p}.size();
}

template <typename T>
int rbf_product(const RbfProductArguments<T>& p, void* work, void* cuda_stream) {
  if (p.groups == 0 || p.m == 0 || p.p == 0) return 0;
  Stream stream(cuda_stream);
  const Layout<T> at{Workspace(work), p};
  const RbfProductParts& parts = at.parts;
  largest_magnitudes(p.q, p.m * p.d, p.x, p.n * p.d, p.groups, at.largest, stream);
  // The thread blocks of one tile divide the columns of W only if the queries and the parts of the
  // samples alone would leave multiprocessors idle, because each of them computes k again.
  const int64_t tiles = at.row_tiles * (parts.separate ? parts.count : 1);
  const int64_t idle = kFullDevice / (tiles * p.groups) + 1;
  const int64_t divisions = at_most(at_most(idle, divide_up(p.p, kProductTile)), kLargestGridYZ);
  stream.launch(rbf_product_kernel<T>,
                {{tiles, divisions, group_blocks(p.groups)}, kTileThreads, kRbfProductSmem<T>}, p,
                parts, at.largest);
  if (parts.separate)
    stream.launch(add_parts_kernel<Store<T>>, elementwise(p.m * p.p, p.groups), Store<T>{p.out},
                  ContractionShape{p.groups, p.m, p.p, nullptr, parts.partial}, parts.count);
  return stream.status();
}

MIGE_INSTANTIATE(rbf_product);

}  // namespace mige::cuda
