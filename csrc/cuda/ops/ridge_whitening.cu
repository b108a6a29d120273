// ridge_whitening: W = D⁻¹ (R + τI)^{-1/2}, with the ridge τ chosen from the samples.
#include "cuda/adaptive/whitening.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout {
  Workspace space;
  Whitening<T> whitening;
  T* s;  // [groups, r, d]

  Layout(void* work, int64_t groups, int64_t m, int64_t d)
      : space(work),
        whitening(whitening_layout<T>(space, groups, m, d)),
        s(space.take<T>(groups * whitening.r() * d)) {}
};

// W = D⁻¹ SᵀS. For the dual without excluded directions W = D⁻¹ (τ^{-1/2} I − SᵀS).
template <typename T>
struct StoreWhitening {
  using Sum = T;
  Whitening<T> w;
  const T* ridge;  // [groups]
  T* out;          // [groups, d, d]

  __device__ auto of(int64_t g, int64_t d, int64_t) const {
    const bool rest = w.dual() && w.support[g].excluded == 0;
    const T tau = ridge[g];
    const T* const inverse = w.inverse + g * d;
    T* const target = out + g * d * d;
    return [=](int64_t i, int64_t j, T sum) {
      const T root = rest ? (i == j ? 1 / sqrt(tau) : T(0)) - sum : sum;
      target[i * d + j] = clamped(inverse[i] * root);
    };
  }
};

}  // namespace

template <typename T>
int64_t ridge_whitening_work(int64_t groups, int64_t m, int64_t d) {
  return Layout<T>(nullptr, groups, m, d).space.size();
}

template <typename T>
int ridge_whitening(const T* x, int64_t groups, int64_t m, int64_t d, double factor, T* mean,
                    T* whitening, T* ridge, void* work, void* cuda_stream) {
  if (groups == 0) return 0;
  Stream stream(cuda_stream);
  Layout<T> at(work, groups, m, d);
  Whitening<T>& w = at.whitening;
  w.x = x;
  w.factor = factor;
  whiten(w, mean, ridge, stream);
  filter_vectors(w, w.dual() ? RidgeFilter::kDualWhitening : RidgeFilter::kWhitening, ridge, at.s,
                 stream);
  const Columns<T> s{at.s, w.r(), d};
  contract<T>(s, s, StoreWhitening<T>{w, ridge, whitening}, {groups, d, d}, stream);
  return stream.status();
}

MIGE_INSTANTIATE(ridge_whitening_work);
MIGE_INSTANTIATE(ridge_whitening);

}  // namespace mige::cuda
