// The kernel of matrix products (product.h).
#include "cpu/product.h"

#include <algorithm>

#include "cpu/tile.h"

namespace mige::cpu {
namespace {

template <int kBytes, typename T>
MIGE_INLINE void product_rows_impl(const T* a,  // [m, depth], or [depth, m] when transposed
                                   bool transposed,
                                   const T* b_panels,  // [depth, n] packed by columns
                                   int64_t m, int64_t depth, int64_t n, Update update,
                                   T* c,  // [m, n], its rows `stride` apart
                                   int64_t stride, int64_t begin, int64_t end) {
  const auto store = [=](int64_t i, int64_t rows, int64_t j, const Vector<T, kBytes>* acc) {
    T* const target = c + i * stride + j;
    if (update != Update::kReplace)
      add_tile<kBytes, T>(acc, rows, n - j, target, stride);
    else
      store_tile<kBytes, T>(acc, rows, n - j, target, stride);
  };
  const Panels<T> b{b_panels, panel_count<T>(n), depth};
  if (!transposed)
    return for_each_tile<kBytes>(Rows<T>{a, depth}, b, depth, begin, end, Multiply{},
                                 update == Update::kAddUpper, store);
  // Rows of aᵀ are columns of a, whose elements are m values apart and may evict each other from
  // the cache (at m = 1024 in float, every 4 KiB). A block of rows of aᵀ is therefore copied first.
  const Buffer<T> copy(kBlockRows * depth);
  for (int64_t block = begin; block < end; block += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, end - block);
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t r = 0; r < rows; ++r) copy[r * depth + k] = a[k * m + block + r];
    for_each_tile<kBytes>(Rows<T>{copy.get(), depth, block}, b, depth, block, block + rows,
                          Multiply{}, false, store);
  }
}

MIGE_KERNEL(product_rows_kernel, product_rows_impl)

}  // namespace

template <typename T>
void product_rows(const T* a, bool transposed, const T* b_panels, int64_t m, int64_t depth,
                  int64_t n, Update update, T* c, int64_t stride, int64_t begin, int64_t end) {
  product_rows_kernel(a, transposed, b_panels, m, depth, n, update, c, stride, begin, end);
}

#define MIGE_INSTANTIATE_PRODUCT(T)                                                           \
  template void product_rows(const T*, bool, const T*, int64_t, int64_t, int64_t, Update, T*, \
                             int64_t, int64_t, int64_t)
MIGE_INSTANTIATE_PRODUCT(float);
MIGE_INSTANTIATE_PRODUCT(double);

}  // namespace mige::cpu
