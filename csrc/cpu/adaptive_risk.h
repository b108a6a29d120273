// The risk of the candidates of one λ, computed in passes over the rows of m×m matrices.
// adaptive_candidates.h gives the formulas and the notation.
//
// All matrices are row-major. Every sum over a row is a LaneSum (scaling.h), so its bits do not
// depend on the vector width.
#pragma once

#include <cmath>

#include "cpu/scaling.h"

namespace mige::cpu {
namespace {

// Replaces squared distances by the IMQ kernel: k_ij becomes (1 + k_ij / σ²)^(−1/2) for j >= i.
template <int kBytes, typename T>
MIGE_INLINE void imq_rows_impl(T* k,  // [m, m]
                               int64_t m, T inverse_variance, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    T* row = k + i * m;
#pragma omp simd
    for (int64_t j = i; j < m; ++j) row[j] = T(1) / std::sqrt(T(1) + inverse_variance * row[j]);
  }
}

// Writes p = φ' = −k³ / 2σ², and the sums over l of p_il and of q_il = k_il³ (3 − d − 3 k_il²) /
// σ². The sums of q leave out the diagonal.
template <int kBytes, typename T>
MIGE_INLINE void imq_derivative_rows_impl(const T* k,  // [m, m]
                                          int64_t m, int64_t d, T inverse_variance,
                                          T* p,      // [m, m]
                                          T* p_sum,  // [m], Σ_l p_il
                                          T* q_sum,  // [m]
                                          int64_t begin, int64_t end) {
  const T half = inverse_variance / 2, constant = static_cast<T>(3 - d);
  for (int64_t i = begin; i < end; ++i) {
    const T* from = k + i * m;
    T* to = p + i * m;
    LaneSum<T> ps, qs;
    for_lanes<T>(m, [&](int64_t j, int64_t l) {
      const T square = from[j] * from[j];
      const T derivative = -half * square * from[j];
      to[j] = derivative;
      ps.lane[l] += derivative;
      qs.lane[l] += derivative * (constant - 3 * square);
    });
    p_sum[i] = ps.total();
    q_sum[i] = -2 * (qs.total() - to[i] * static_cast<T>(-d));
  }
}

// Writes w = B∘p and the sums over l of w_il and B_il q_il, with B = (K + λM I)^{−1}. The sums of
// B_il q_il leave out the diagonal.
template <int kBytes, typename T>
MIGE_INLINE void weigh_rows_impl(const T* k,  // [m, m]
                                 const T* p,  // [m, m]
                                 const T* b,  // [m, m]
                                 int64_t m, int64_t d,
                                 T* w,       // [m, m]
                                 T* w_sum,   // [m]
                                 T* bq_sum,  // [m]
                                 int64_t begin, int64_t end) {
  const T constant = static_cast<T>(3 - d);
  for (int64_t i = begin; i < end; ++i) {
    const T *k_row = k + i * m, *p_row = p + i * m, *b_row = b + i * m;
    T* to = w + i * m;
    LaneSum<T> ws, qs;
    for_lanes<T>(m, [&](int64_t j, int64_t l) {
      const T weight = b_row[j] * p_row[j];
      to[j] = weight;
      ws.lane[l] += weight;
      qs.lane[l] += weight * (constant - 3 * k_row[j] * k_row[j]);
    });
    w_sum[i] = ws.total();
    bq_sum[i] = -2 * (qs.total() - to[i] * static_cast<T>(-d));
  }
}

// Writes the last columns of wy: W_i·z_i, Y_i·z_i and, with three bases, X_i·z_i.
template <int kBytes, typename T>
MIGE_INLINE void dot_columns_impl(const T* z,  // [m, r]
                                  int64_t r, int64_t bases,
                                  T* wy,  // [m, bases (r + 1)]
                                  int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    T* row = wy + i * bases * (r + 1);
    for (int64_t c = 0; c < bases; ++c) row[bases * r + c] = dot(row + c * r, z + i * r, r);
  }
}

// The inputs of the risk of one λ. Matrices with W and Y have n = bases (r + 1) columns.
template <typename T>
struct RiskRows {
  int64_t m, r, d, bases;
  T shift;                    // λM
  const T* z;                 // [m, r]
  const T* wy;                // [m, n]: W, Y, X, W_i·z_i, Y_i·z_i, X_i·z_i; no X with two bases
  const T* pwy;               // [m, n]: p times wy
  const T* weighted_z;        // [m, r]: (B∘p) z
  const T* inverse;           // [m, m]: B; only the diagonal is read
  const T* q_sum;             // [m]
  const T* w_sum;             // [m]
  const T* bq_sum;            // [m]
  const T* start_divergence;  // [m], or nullptr with two bases
};

// Writes r_i and div_i for every base.
template <int kBytes, typename T>
MIGE_INLINE void risk_rows_impl(const RiskRows<T>& of,
                                double* risks,        // [m, bases]
                                double* divergences,  // [m, bases]
                                int64_t begin, int64_t end) {
  const int64_t r = of.r, bases = of.bases, n = bases * (r + 1);
  const Buffer<T> rows(2 * r);
  T *const f = rows.get(), *const pf = f + r;
  for (int64_t i = begin; i < end; ++i) {
    const T *z = of.z + i * r, *w = of.wy + i * n, *y = w + r;
    const T *pw = of.pwy + i * n, *py = pw + r, *bz = of.weighted_z + i * r;
    const double zz = dot(z, z, r), ww = dot(w, w, r), wy = dot(w, y, r), yy = dot(y, y, r);
    const double zw = w[bases * r], zy = w[bases * r + 1];
    // The terms of W and of Y in Σ p_il (F_l·z_i − F_l·z_l) and in Σ (B∘p)_il (F_i·z_i − F_i·z_l).
    const double across_w = dot(z, pw, r) - pw[bases * r];
    const double across_y = dot(z, py, r) - pw[bases * r + 1];
    const double along_w = zw * of.w_sum[i] - dot(w, bz, r);
    const double along_y = zy * of.w_sum[i] - dot(y, bz, r);
    const double b = of.inverse[i * of.m + i], d = static_cast<double>(of.d);
    for (int base = 0; base < 2; ++base) {
      const double s = base * static_cast<double>(of.shift);  // F = −W − s Y
      const double ff = ww + s * (2 * wy + s * yy);
      const double divergence = b * of.q_sum[i] - of.bq_sum[i] + 2 * b * (across_w + s * across_y) +
                                2 * (along_w + s * along_y) + d * (1 - s * b);
      // ½‖F + z‖² − z·(F + z) = ½‖F‖² − ½‖z‖²
      risks[bases * i + base] = (ff - zz) / 2 + divergence;
      divergences[bases * i + base] = divergence;
    }
    if (bases == 2) continue;
    // −F = W + s (Y − X) and p times −F. With these rows three sums suffice.
    const T *x = y + r, *px = py + r;
    const T shift = of.shift;
#pragma omp simd
    for (int64_t c = 0; c < r; ++c) {
      f[c] = w[c] + shift * (y[c] - x[c]);
      pf[c] = pw[c] + shift * (py[c] - px[c]);
    }
    const double s = shift, ff = dot(f, f, r);
    const double zf = zw + s * (zy - w[3 * r + 2]);
    const double across =
        dot(z, pf, r) - (pw[3 * r] + s * (static_cast<double>(pw[3 * r + 1]) - pw[3 * r + 2]));
    const double along = zf * of.w_sum[i] - dot(f, bz, r);
    const double divergence = b * of.q_sum[i] - of.bq_sum[i] + 2 * b * across + 2 * along + d +
                              s * b * (static_cast<double>(of.start_divergence[i]) - d);
    risks[3 * i + 2] = (ff - zz) / 2 + divergence;
    divergences[3 * i + 2] = divergence;
  }
}

MIGE_KERNEL(imq_rows, imq_rows_impl)
MIGE_KERNEL(imq_derivative_rows, imq_derivative_rows_impl)
MIGE_KERNEL(weigh_rows, weigh_rows_impl)
MIGE_KERNEL(dot_columns, dot_columns_impl)
MIGE_KERNEL(risk_rows, risk_rows_impl)

}  // namespace
}  // namespace mige::cpu
