// Inverse of a symmetric positive definite matrix, by blocks: A = UᵀU, V = U^{−1}, A^{−1} = V Vᵀ.
//
// All three are updates of what is left by the product of two panels, one block of columns wide,
// with T_k = U_kk^{−1} for the block on the diagonal:
//
//   U_kj = T_kᵀ A_kj,     A_ij −= U_kiᵀ U_kj        for i, j > k     from the first block on
//   V_kj = −T_k S_kj,     S_ij += U_ik V_kj         for i < k <= j   from the last block on
//                         B_ij += V_ik V_jkᵀ        for i, j <= k
//
// Work: m³ flop, all of it but m² times the block in the register tiles of tile.h: three times the
// speed of LAPACK's potrf and potri for m = 256. Gauss-Jordan steps, one update in place of three,
// were as fast and lost everything in float at condition numbers of 1e5, where this loses 6e-4.
#pragma once

#include "cpu/group.h"

namespace mige::cpu {

// Columns of a block: enough to read and write the matrix seldom, and few against it.
constexpr int64_t kBlock = 32;
constexpr int64_t kLargeBlock = 64;
constexpr int64_t kLargeMatrix = 512;  // from here on

template <typename T, typename Runtime>
class Inverter {
 public:
  Inverter(int64_t m, Runtime& runtime)
      : m_(m), width_(m < kLargeMatrix ? kBlock : kLargeBlock), runtime_(runtime) {}

  // A and its inverse. `v` is scratch memory.
  void invert(T* a,    // [m, m]: the upper triangle is read, both are written
              T* v) {  // [m, m]
    const int64_t m = m_;
    const int64_t last = (divide_up(m, width_) - 1) * width_;
    for (int64_t k0 = 0; k0 <= last; k0 += width_) factor(a, k0);
    std::fill(v, v + m * m, T(0));
    for (int64_t k0 = last; k0 >= 0; k0 -= width_) invert_rows(a, k0, v);
    std::fill(a, a + m * m, T(0));
    for (int64_t k0 = 0; k0 <= last; k0 += width_) {
      const int64_t k1 = std::min(k0 + width_, m), b = k1 - k0;
      copy(v + k0, m, k1, b, left_.get());
      pack_rows(left_.get(), k1, b, T(1), panels_.get());
      add(k1, k1, b, true, a);
    }
    mirror(a, m, runtime_);
  }

 private:
  // Rows k0 … of U, in place, and what they leave of A.
  void factor(T* a, int64_t k0) {
    const int64_t m = m_, b = std::min(width_, m - k0), k1 = k0 + b, n = m - k1;
    copy(a + k0 * m + k0, m, b, b, square_.get());
    T* const t = t_.get() + k0 * width_;
    invert_factor(square_.get(), b, t);
    if (n == 0) return;
    copy(a + k0 * m + k1, m, b, n, rows_.get());
    pack_columns(rows_.get(), b, n, T(1), panels_.get());
    product_rows(t, true, panels_.get(), b, b, n, rows_.get(), int64_t(0), b);
    pack_columns(rows_.get(), b, n, T(1), panels_.get());
    for (int64_t r = 0; r < b; ++r) {
      std::copy_n(rows_.get() + r * n, n, a + (k0 + r) * m + k1);
      for (int64_t i = 0; i < n; ++i) left_.get()[i * b + r] = -rows_.get()[r * n + i];
    }
    add(n, n, b, true, a + k1 * m + k1);
  }

  // Rows k0 … of V, from the sums that are there, and what they add to the rows above.
  void invert_rows(const T* a, int64_t k0, T* v) {
    const int64_t m = m_, b = std::min(width_, m - k0), n = m - k0;
    const T* const t = t_.get() + k0 * width_;
    copy(v + k0 * m + k0, m, b, n, rows_.get());
    pack_columns(rows_.get(), b, n, T(-1), panels_.get());
    product_rows(t, false, panels_.get(), b, b, n, rows_.get(), int64_t(0), b);
    for (int64_t r = 0; r < b; ++r) {
      std::copy_n(t + r * b, b, rows_.get() + r * n);
      std::copy_n(rows_.get() + r * n, n, v + (k0 + r) * m + k0);
    }
    if (k0 == 0) return;
    pack_columns(rows_.get(), b, n, T(1), panels_.get());
    copy(a + k0, m, k0, b, left_.get());
    add(k0, n, b, false, v + k0);
  }

  // a += left · panels, for `rows` rows and n columns.
  void add(int64_t rows, int64_t n, int64_t depth, bool upper, T* a) {
    const auto run = [&](int64_t begin, int64_t end) {
      add_product_rows(left_.get(), panels_.get(), n, depth, upper, a, m_, begin, end);
    };
    if (upper)
      parallel_triangle(runtime_, rows, run);
    else
      runtime_.parallel(rows, kRowGrain, run);
  }

  // A block of a larger matrix, on its own.
  static void copy(const T* from, int64_t stride, int64_t rows, int64_t columns, T* to) {
    for (int64_t i = 0; i < rows; ++i) std::copy_n(from + i * stride, columns, to + i * columns);
  }

  const int64_t m_, width_;
  Runtime& runtime_;
  const Buffer<T> t_{(m_ + width_) * width_};  // every T_k
  const Buffer<T> square_{width_ * width_}, rows_{width_ * m_}, left_{m_ * width_};
  const Buffer<T> panels_{panels_size<T>(width_, m_)};
};

}  // namespace mige::cpu
