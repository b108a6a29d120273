// The CPU kernels: torch-free functions on raw pointers, each over a range of rows [begin, end).
//
// Every output element is one fixed sequence of operations, whichever range its row falls into, so
// a caller may cut the rows over threads as it likes and gets the same bits. All matrices are
// row-major and contiguous. T is float or double.
//
// Panels: the right-hand operand of the tile kernels is kept as [ceil(n / L)][depth][L], L = 64
// bytes of columns side by side, zero-padded, so that the inner loop reads one whole vector a step.
#pragma once

#include "cpu/simd.h"

namespace mige::cpu {

template <typename T>
constexpr int64_t panel_count(int64_t columns) {
  return divide_up(columns, kLanes<T>);
}

template <typename T>
constexpr int64_t panels_size(int64_t depth, int64_t columns) {
  return panel_count<T>(columns) * depth * kLanes<T>;
}

// Rows a thread takes at least: below this, starting a thread costs more than it saves.
constexpr int64_t kRowGrain = 48;

// The largest |x_i|, or NaN where some x_i is NaN or infinite.
template <typename T>
T largest_magnitude(const T* x, int64_t count);

// centred = scale * x − scale * c, with c the column-wise median of five rows: an offset that all
// samples share goes, and a far outlier, which would carry a mean away, does not matter.
template <typename T>
void centre(const T* x,  // [m, d]
            int64_t m, int64_t d, T scale,
            T* centred);  // [m, d]

// Panels of scale * b.
template <typename T>
void pack_columns(const T* b,  // [depth, n]
                  int64_t depth, int64_t n, T scale,
                  T* panels);  // panels_size(depth, n)

// Panels of scale * xᵀ: the rows of x are the columns of the operand.
template <typename T>
void pack_rows(const T* x,  // [n, depth]
               int64_t n, int64_t depth, T scale,
               T* panels);  // panels_size(depth, n)

// out_ij = scale² ‖x_i − y_j‖² by direct differences: no cancellation, exact zeros.
// With `upper`, x and y are the same points and only j >= i is meaningful afterwards.
template <typename T>
void squared_distance_rows(const T* x,         // [m, d]
                           const T* y_panels,  // scale * y, [n, d] packed by rows
                           int64_t m, int64_t n, int64_t d, T scale, bool upper,
                           T* out,  // [m, n]
                           int64_t begin, int64_t end);

// In place k_ij = exp(-γ k_ij) for j >= i (upper) or for all j.
template <typename T>
void rbf_rows(T* k,  // [m, n]
              int64_t m, int64_t n, T gamma, bool upper, int64_t begin, int64_t end);

// k_ij = k_ji for j < i. Reads the upper triangle, writes the lower one.
template <typename T>
void mirror_rows(T* k,  // [m, m]
                 int64_t m, int64_t begin, int64_t end);

// c = a b, or aᵀ b with `transposed`.
template <typename T>
void product_rows(const T* a,  // [m, depth], or [depth, m] when transposed
                  bool transposed,
                  const T* b_panels,  // [depth, n] packed by columns
                  int64_t m, int64_t depth, int64_t n,
                  T* c,  // [m, n]
                  int64_t begin, int64_t end);

// H from K X, in place: h_j = inverse_variance (x_j Σ_i k_ji − h_j).
template <typename T>
void gradient_sum_rows(const T* k,  // [m, m]
                       const T* x,  // [m, d]
                       int64_t m, int64_t d, T inverse_variance,
                       T* h,  // [m, d]
                       int64_t begin, int64_t end);

// out = k(q, x) w with k = exp(-γ scale² ‖·‖²), a tile of k at a time.
template <typename T>
void kernel_product_rows(const T* q,         // [m, d]
                         const T* x_panels,  // scale * x, [n, d] packed by rows
                         const T* w_panels,  // [n, p] packed by columns
                         int64_t m, int64_t n, int64_t d, int64_t p, T scale, T gamma,
                         T* out,  // [m, p]
                         int64_t begin, int64_t end);

// x_ij *= scale_i, kept within ±bound.
template <typename T>
void scale_rows(T* x,  // [m, d]
                int64_t m, int64_t d,
                const T* scale,  // [m]
                T bound);

// a_ij += Σ_r x_ir p_rj for j = 0 … n − 1, or with `upper` for j >= i alone; what that leaves below
// the diagonal means nothing.
template <typename T>
void add_product_rows(const T* x,         // [rows, depth]
                      const T* p_panels,  // p [depth, n] packed by columns
                      int64_t n, int64_t depth, bool upper,
                      T* a,  // [rows, n], its rows `stride` apart
                      int64_t stride, int64_t begin, int64_t end);

// U with UᵀU = A, in the upper triangle, and T = U^{−1} with zeros below the diagonal. A pivot that
// rounding has made smaller than ε becomes ε.
template <typename T>
void invert_factor(T* a,  // [n, n], positive definite, with a diagonal of at least 1
                   int64_t n,
                   T* t);  // [n, n]

// Standardised samples: v = (x − mean) / deviation by columns, with the sums in double. A column
// that is constant becomes 0, with an inverse deviation of 0.
template <typename T>
void standardise(const T* x,  // [m, d]
                 int64_t m, int64_t d, T scale,
                 T* v,         // [m, d]
                 T* mean,      // [d]
                 T* inverse);  // [d], 1 / deviation

// In place k_ij = (1 + k_ij / σ²)^(−1/2) for j >= i.
template <typename T>
void imq_rows(T* k,  // [m, m]
              int64_t m, T inverse_variance, int64_t begin, int64_t end);

// The derivative of the IMQ kernel, p = φ' = −k³ / 2σ², and Σ_l q_il of q = 2 (d p + 2 s φ'') =
// k³ (3 − d − 3 k²) / σ² without the diagonal.
template <typename T>
void imq_derivative_rows(const T* k,  // [m, m]
                         int64_t m, int64_t d, T inverse_variance,
                         T* p,      // [m, m]
                         T* p_sum,  // [m], Σ_l p_il
                         T* q_sum,  // [m]
                         int64_t begin, int64_t end);

// The inverse B = (K + λM I)^{−1} against p and q: w = B∘p, Σ_l w_il, and Σ_l B_il q_il without
// the diagonal.
template <typename T>
void weigh_rows(const T* k,  // [m, m]
                const T* p,  // [m, m]
                const T* b,  // [m, m]
                int64_t m, int64_t d,
                T* w,       // [m, m]
                T* w_sum,   // [m]
                T* bq_sum,  // [m]
                int64_t begin, int64_t end);

// What the risk of one λ is made of; see adaptive.h for the formula. n = 2 r + 2 columns.
template <typename T>
struct RiskRows {
  int64_t m, r, d;
  T shift;              // λM
  const T* z;           // [m, r]
  const T* wy;          // [m, n]: W, Y, w·z, y·z
  const T* pwy;         // [m, n]: p times that
  const T* weighted_z;  // [m, r]: (B∘p) z
  const T* inverse;     // [m, m]: B, of which the diagonal is read
  const T* q_sum;       // [m]
  const T* w_sum;       // [m]
  const T* bq_sum;      // [m]
};

// r_i for base 0 and base 1.
template <typename T>
void risk_rows(const RiskRows<T>& of,
               double* risks,  // [m, 2]
               int64_t begin, int64_t end);

// The columns w·z and y·z of wy.
template <typename T>
void dot_columns(const T* z,  // [m, r]
                 int64_t r,
                 T* wy,  // [m, 2 r + 2]
                 int64_t begin, int64_t end);

// x_ij *= scale_j, kept within the range.
template <typename T>
void scale_columns(T* x,  // [m, d]
                   int64_t m, int64_t d,
                   const T* scale);  // [d]

// The element of rank ceil(quantile * n), at least 1, among the n = m (m − 1) / 2 entries
// above the diagonal, by radix selection; see quantile.cpp for what a zero becomes.
template <typename T>
T upper_quantile(const T* s,  // [m, m], non-negative
                 int64_t m, double quantile);

}  // namespace mige::cpu
