// Whitening of one group of samples, with the ridge τ that the samples choose.
//
// With V the standardized samples, D the deviations and R = VᵀV / M = U Λ Uᵀ the correlations:
//
//   z = (x − mean) D^{−1} U (Λ + τ)^{−1/2},   τ = factor · argmin J(τ)
//
// J is the leave-one-out Hyvärinen objective of the Gaussian score (mige_ext.ops.ridge_whitening).
// The primal form decomposes R, [d, d]. The dual form decomposes VVᵀ / M, [m, m], which has the
// same eigenvalues; it is for more dimensions than samples and does not give the matrix W. Work: 4
// m d r + 11 r³ flop, r = min(m, d).
#pragma once

#include <cmath>

#include "common/whitening_rule.h"
#include "cpu/product.h"
#include "cpu/scaling.h"

namespace mige::cpu {

template <typename T>
struct Whitening {
  Whitening(int64_t m, int64_t d, bool primal)
      : v(m * d),
        mean(d),
        inverse(d),
        rotated(m * (primal ? d : m)),
        values(primal ? d : m),
        vectors((primal ? d : m) * (primal ? d : m)),
        rank(primal ? d : m) {}

  Buffer<T> v;        // [m, d], standardized samples
  Buffer<T> mean;     // [d]
  Buffer<T> inverse;  // [d], 1 / deviation; 0 where that is 0
  Buffer<T> rotated;  // [m, rank], V U
  Buffer<T> values;   // [rank], Λ
  Buffer<T> vectors;  // [rank, rank], a row each: of VᵀV / M, or of VVᵀ / M
  int64_t rank;
  double ridge = 1;  // τ
  Support support{};
};

// Everything of `w`.
template <typename T>
void whiten(const T* x,  // [m, d]
            int64_t m, int64_t d, double factor, Whitening<T>& w);

// 1 / √(λ_k + τ); 0 where there is no density.
template <typename T>
T whitening_factor(const Whitening<T>& w, int64_t k) {
  if (k < w.support.excluded) return T(0);
  return static_cast<T>(1 / std::sqrt(static_cast<double>(w.values[k]) + w.ridge));
}

}  // namespace mige::cpu
