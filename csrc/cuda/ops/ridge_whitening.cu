// ridge_whitening: W = D⁻¹ (R + τI)^{-1/2} with the ridge τ that chooses itself.
#include "cuda/adaptive/whitening.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout {
  WorkSpace space;
  Whitening<T> whitening;
  T* s;  // [groups, r, d]

  Layout(void* work, int64_t groups, int64_t m, int64_t d)
      : space(work),
        whitening(whitening_layout<T>(space, groups, m, d)),
        s(space.take<T>(groups * whitening.r() * d)) {}
};

// W = D⁻¹ SᵀS, or of the dual D⁻¹ (τ^{-1/2} I − SᵀS) unless directions are excluded.
template <typename T>
struct WhiteningForm {
  using Sum = T;
  Whitening<T> w;
  const T* s;      // [groups, r, d]
  const T* ridge;  // [groups]
  T* out;          // [groups, d, d]
  __device__ bool idle(int64_t) const { return false; }
  __device__ auto left(int64_t g, int64_t) const {
    return columns_of(s + g * w.r() * w.d, w.r(), w.d);
  }
  __device__ auto right(int64_t g, int64_t) const { return left(g, 0); }
  __device__ void finish(int64_t g, int64_t i, int64_t j, T sum) const {
    const bool rest = w.dual() && w.support[g].excluded == 0;
    const T root = rest ? (i == j ? 1 / sqrt(ridge[g]) : T(0)) - sum : sum;
    out[(g * w.d + i) * w.d + j] = clamped(w.inverse[g * w.d + i] * root);
  }
};

}  // namespace

template <typename T>
int64_t ridge_whitening_work(int64_t groups, int64_t m, int64_t d) {
  return Layout<T>(nullptr, groups, m, d).space.size();
}

template <typename T>
int ridge_whitening(const T* x, int64_t groups, int64_t m, int64_t d, double factor, T* mean,
                    T* whitening, T* ridge, void* work, void* stream) {
  if (groups == 0) return 0;
  Layout<T> at(work, groups, m, d);
  Whitening<T>& w = at.whitening;
  w.x = x;
  w.factor = factor;
  int failed = whiten(w, mean, ridge, stream);
  if (!failed)
    failed = filter_vectors(w, w.dual() ? RidgeFilter::kDualWhitening : RidgeFilter::kWhitening,
                            ridge, at.s, stream);
  if (!failed)
    failed = contract<T>(WhiteningForm<T>{w, at.s, ridge, whitening}, groups, d, d, stream);
  return failed;
}

template int64_t ridge_whitening_work<float>(int64_t, int64_t, int64_t);
template int64_t ridge_whitening_work<double>(int64_t, int64_t, int64_t);
template int ridge_whitening(const float*, int64_t, int64_t, int64_t, double, float*, float*,
                             float*, void*, void*);
template int ridge_whitening(const double*, int64_t, int64_t, int64_t, double, double*, double*,
                             double*, void*, void*);

}  // namespace mige::cuda
