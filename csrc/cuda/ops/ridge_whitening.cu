// ridge_whitening: W = D⁻¹ (R + τI)^{-1/2} [d, d] for x [m, d]. D holds the standard deviations and
// R the correlations, and the samples determine the ridge τ. whitening.cuh has the kernels. Work:
// one eigendecomposition of size r = min(m, d), and products of 2 (m d r + r² m + d² r) flop.
#include "cuda/adaptive/whitening.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout : Workspace {
  Whitening<T> whitening;
  T* s = take<T>(whitening.groups * whitening.r() * whitening.d);  // [groups, r, d]
};

template <typename T>
Layout<T> layout(const RidgeWhiteningArguments<T>& p, void* work) {
  const Whitening<T> w{Workspace(work), p.x, p.groups, p.m, p.d, p.factor};
  return {w, w};
}

// The finish of a product (contraction.cuh) that stores W. The rows of S are the filtered
// eigenvectors (filter_vectors), and W = D⁻¹ SᵀS. In the dual form without excluded directions,
// W = D⁻¹ (τ^{-1/2} I − SᵀS).
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
int64_t ridge_whitening_work(const RidgeWhiteningArguments<T>& p) {
  return layout(p, nullptr).size();
}

template <typename T>
int ridge_whitening(const RidgeWhiteningArguments<T>& p, void* work, void* cuda_stream) {
  if (p.groups == 0) return 0;
  Stream stream(cuda_stream);
  const Layout<T> at = layout(p, work);
  const Whitening<T>& w = at.whitening;
  whiten(w, p.mean, p.ridge, stream);
  filter_vectors(w, w.dual() ? RidgeFilter::kDualWhitening : RidgeFilter::kWhitening, p.ridge, at.s,
                 stream);
  const Columns<T> s{at.s, w.r(), p.d};
  contract<T>(s, s, StoreWhitening<T>{w, p.ridge, p.whitening},
              {p.groups, p.d, p.d, nullptr, w.partial}, stream);
  return stream.status();
}

MIGE_INSTANTIATE(ridge_whitening);

}  // namespace mige::cuda
