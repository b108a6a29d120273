// Inverse of a symmetric positive definite matrix, by blocks: A = UᵀU, V = U^{−1}, A^{−1} = V Vᵀ.
//
// Each of the three steps is a sequence of updates, one for each block k of columns. An update adds
// the product of two matrices, each one block wide, to the rest of the matrix. Let T_k = U_kk^{−1},
// V_kk = T_k and B = A^{−1}, and let S be the sums from which V is computed:
//
//   U_kj = T_kᵀ A_kj,     A_ij −= U_kiᵀ U_kj        for i, j > k     k ascending
//   V_kj = −T_k S_kj,     S_ij += U_ik V_kj         for i < k <= j   k descending
//                         B_ij += V_ik V_jkᵀ        for i, j <= k    k ascending
//
// Work: m³ flop in the register tiles of tile.h, and m² times the block width for the blocks on the
// diagonal. For m = 256 this is three times as fast as LAPACK's potrf and potri. (Gauss-Jordan
// elimination is as fast, but at a condition number of 1e5 it loses all digits in float. Here the
// relative error is 6e-4.)
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/product.h"
#include "cpu/squared_distances.h"

namespace mige::cpu {

// Overwrites the upper triangle of A with U, where UᵀU = A. Writes T = U^{−1} with zeros below the
// diagonal. If rounding makes a pivot smaller than ε, ε replaces the pivot.
template <int kBytes, typename T>
MIGE_INLINE void invert_factor_impl(
    T* a,  // [n, n], positive definite, with a largest element near 1 or above
    int64_t n,
    T* t) {  // [n, n]
  constexpr T kSmallest = std::numeric_limits<T>::epsilon();
  for (int64_t k = 0; k < n; ++k) {
    T* pivot = a + k * n;
    const T root = std::sqrt(pivot[k] > kSmallest ? pivot[k] : kSmallest), inverse = T(1) / root;
    pivot[k] = root;
    for (int64_t j = k + 1; j < n; ++j) pivot[j] *= inverse;
    for (int64_t i = k + 1; i < n; ++i) {
      T* row = a + i * n;
      const T factor = pivot[i];
#pragma omp simd
      for (int64_t j = i; j < n; ++j) row[j] -= factor * pivot[j];
    }
  }
  // T_i = (e_i − Σ_{k>i} U_ik T_k) / U_ii, from the last row to the first.
  for (int64_t i = n - 1; i >= 0; --i) {
    T* row = t + i * n;
    for (int64_t j = 0; j < n; ++j) row[j] = T(0);
    for (int64_t k = i + 1; k < n; ++k) {
      const T *other = t + k * n, factor = a[i * n + k];
#pragma omp simd
      for (int64_t j = k; j < n; ++j) row[j] -= factor * other[j];
    }
    const T inverse = T(1) / a[i * n + i];
    for (int64_t j = i + 1; j < n; ++j) row[j] *= inverse;
    row[i] = inverse;
  }
}

MIGE_KERNEL(invert_factor, invert_factor_impl)

// The width of a block. Wide blocks need fewer passes over the matrix. Narrow blocks need less work
// on the diagonal, which is slower.
constexpr int64_t kBlock = 32;
constexpr int64_t kLargeBlock = 64;
constexpr int64_t kLargeMatrix = 512;  // the smallest m that uses kLargeBlock

template <typename T>
class Inverter {
 public:
  explicit Inverter(int64_t m) : m_(m), width_(m < kLargeMatrix ? kBlock : kLargeBlock) {}

  // Replaces A by its inverse. Reads the upper triangle, writes both triangles. `v` is scratch
  // memory.
  void invert(T* a,    // [m, m]: A, then A^{−1}
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
    mirror(a, m);
  }

 private:
  // Computes the block of rows of U that starts at k0, in place, and updates the rest of A.
  void factor(T* a, int64_t k0) {  // a [m, m]
    const int64_t m = m_, b = std::min(width_, m - k0), k1 = k0 + b, n = m - k1;
    copy(a + k0 * m + k0, m, b, b, square_.get());
    T* const t = t_.get() + k0 * width_;
    invert_factor(square_.get(), b, t);
    if (n == 0) return;
    copy(a + k0 * m + k1, m, b, n, rows_.get());
    pack_columns(rows_.get(), b, n, T(1), panels_.get());
    product_rows(t, true, panels_.get(), b, b, n, Update::kReplace, rows_.get(), n, int64_t(0), b);
    pack_columns(rows_.get(), b, n, T(1), panels_.get());
    for (int64_t r = 0; r < b; ++r) {
      std::copy_n(rows_.get() + r * n, n, a + (k0 + r) * m + k1);
      for (int64_t i = 0; i < n; ++i) left_.get()[i * b + r] = -rows_.get()[r * n + i];
    }
    add(n, n, b, true, a + k1 * m + k1);
  }

  // Computes the block of rows of V that starts at k0 from S, and updates S in the rows above.
  void invert_rows(const T* a, int64_t k0, T* v) {  // a, v [m, m]
    const int64_t m = m_, b = std::min(width_, m - k0), n = m - k0;
    const T* const t = t_.get() + k0 * width_;
    copy(v + k0 * m + k0, m, b, n, rows_.get());
    pack_columns(rows_.get(), b, n, T(-1), panels_.get());
    product_rows(t, false, panels_.get(), b, b, n, Update::kReplace, rows_.get(), n, int64_t(0), b);
    for (int64_t r = 0; r < b; ++r) {
      std::copy_n(t + r * b, b, rows_.get() + r * n);
      std::copy_n(rows_.get() + r * n, n, v + (k0 + r) * m + k0);
    }
    if (k0 == 0) return;
    pack_columns(rows_.get(), b, n, T(1), panels_.get());
    copy(a + k0, m, k0, b, left_.get());
    add(k0, n, b, false, v + k0);
  }

  // a += left_ · panels_, with `upper` only on and above the diagonal.
  void add(int64_t rows, int64_t n, int64_t depth, bool upper,
           T* a) {  // [rows, n], its rows m apart
    parallel_rows(rows, upper, [&](int64_t begin, int64_t end) {
      product_rows(left_.get(), false, panels_.get(), rows, depth, n,
                   upper ? Update::kAddUpper : Update::kAdd, a, m_, begin, end);
    });
  }

  // Copies a block of a matrix to contiguous memory.
  static void copy(const T* from,  // [rows, columns], its rows `stride` apart
                   int64_t stride, int64_t rows, int64_t columns,
                   T* to) {  // [rows, columns]
    for (int64_t i = 0; i < rows; ++i) std::copy_n(from + i * stride, columns, to + i * columns);
  }

  const int64_t m_, width_;
  const Buffer<T> t_{(m_ + width_) * width_};  // T_k of every block
  // Copies of a block on the diagonal, of the blocks to its right, and of the left operand of add.
  const Buffer<T> square_{width_ * width_}, rows_{width_ * m_}, left_{m_ * width_};
  const Buffer<T> panels_{panels_size<T>(width_, m_)};
};

}  // namespace mige::cpu
