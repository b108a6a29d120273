// ssge: samples to score, in one launch for small groups and in one pass over the device for
// others.
#include "cuda/linalg/eigh_dispatch.cuh"
#include "cuda/launchers.h"
#include "cuda/rbf/pairwise.cuh"
#include "cuda/ssge/ssge_fused.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout {
  WorkSpace space;
  Key<T>* largest;
  Selection<T>* selections;
  Count* counts;
  T* centred;  // [groups, m, d]; later the projection Uᵀ H
  T* h;        // [groups, m, d]
  T* k;        // [groups, m, m]
  T* vectors;  // [groups, m, m]
  T* factor;   // [groups, m]
  void* spectral;

  Layout(void* work, int64_t groups, int64_t m, int64_t d)
      : space(work),
        largest(space.take<Key<T>>(groups)),
        selections(space.take<Selection<T>>(groups)),
        counts(space.take<Count>(groups * kDigits)),
        centred(space.take<T>(groups * m * d)),
        h(space.take<T>(groups * m * d)),
        k(space.take<T>(groups * m * m)),
        vectors(space.take<T>(groups * m * m)),
        factor(space.take<T>(groups * m)),
        spectral(space.take<char>(spectral_work<T>(groups, m))) {}
};

template <typename T>
bool fits_fused(int64_t m) {
  return m <= kLargestFused && ssge_fused_size<T>(static_cast<int>(m)) <= largest_smem();
}

template <typename T, int kLanes>
int launch_fused(const SsgeArguments<T>& arguments, void* stream) {
  const int64_t blocks = arguments.groups < kLargestGridX ? arguments.groups : kLargestGridX;
  return launch(ssge_fused_kernel<T, kLanes>, dim3(static_cast<unsigned>(blocks)),
                dim3(kFusedThreads<T, kLanes>), ssge_fused_size<T>(arguments.m), stream, arguments);
}

template <typename T>
int ssge_in_steps(const SsgeArguments<T>& p, void* work, void* stream) {
  const int64_t groups = p.groups, m = p.m, d = p.d;
  const SsgeOptions& o = p.options;
  const Layout<T> at(work, groups, m, d);
  int failed = largest_magnitudes<T>(p.x, m * d, nullptr, 0, groups, at.largest, stream);
  if (!failed) failed = centre<T>(p.x, groups, m, d, at.largest, nullptr, at.centred, stream);
  if (!failed)
    failed = pairwise<T, Pairwise::kSquaredDistance>(at.centred, nullptr, groups, m, m, d,
                                                     at.largest, nullptr, at.k, stream);
  if (!failed && p.given)
    failed = launch(given_bandwidth_kernel<T>, dim3(grid_z(divide_up(groups, 256))), dim3(256), 0,
                    stream, p.given, groups, p.bandwidth);
  if (!failed && !p.given)
    failed = select_bandwidth(at.k, groups, m, o.quantile, o.multiplier, kSmallestNormal<T>,
                              at.largest, at.selections, at.counts, p.bandwidth, stream);
  const int64_t blocks = divide_up(m * m, 256);
  const dim3 elements(static_cast<unsigned>(blocks < 4096 ? blocks : 4096), grid_z(groups));
  if (!failed)
    failed = launch(gram_in_place_kernel<T>, elements, dim3(256), 0, stream, at.k, groups, m,
                    at.largest, p.bandwidth);
  if (!failed)
    failed = product<T, Epilogue::kGradientSum>(
        {at.k, at.centred, at.h, groups, m, d, m, at.largest, p.bandwidth, nullptr, false, T(0)},
        stream);
  if (!failed)
    failed = spectral<T, Spectrum::kGram>(
        {at.k, groups, p.m, at.largest, p.values, at.vectors, nullptr}, at.spectral, stream);
  if (!failed)
    failed = launch(rank_kernel<T>,
                    dim3(static_cast<unsigned>(groups < kLargestGridX ? groups : kLargestGridX)),
                    dim3(kWarp), 0, stream, groups, m, o.threshold, o.rank, o.power, at.largest,
                    p.bandwidth, p.values, at.factor, p.rank);
  T* const projected = at.centred;
  if (!failed)
    failed = product<T, Epilogue::kScaleRows>(
        {at.vectors, at.h, projected, groups, m, d, m, at.largest, nullptr, at.factor, false, T(0)},
        stream);
  if (!failed)
    failed = product<T, Epilogue::kScore>({at.vectors, projected, p.out, groups, m, d, m,
                                           at.largest, p.bandwidth, nullptr, false, p.bound},
                                          stream);
  return failed;
}

}  // namespace

template <typename T>
int64_t ssge_work(int64_t groups, int64_t m, int64_t d) {
  return fits_fused<T>(m) ? 0 : Layout<T>(nullptr, groups, m, d).space.size();
}

template <typename T>
int ssge(const T* x, const T* given_bandwidth, int64_t groups, int64_t m, int64_t d,
         const SsgeOptions& options, T* out, T* eigenvalues, T* bandwidth, int64_t* rank,
         void* work, void* stream) {
  if (groups == 0) return 0;
  // Coefficients leave room for the sum of m of them.
  const T bound =
      options.power == 2 ? kLargestFinite<T> / static_cast<T>(2 * m) : kLargestFinite<T>;
  const SsgeArguments<T> arguments{
      x,   given_bandwidth, groups,    d,   static_cast<int>(m), options, bound,
      out, eigenvalues,     bandwidth, rank};
  if (!fits_fused<T>(m)) return ssge_in_steps(arguments, work, stream);
  return m <= 64 ? launch_fused<T, 8>(arguments, stream) : launch_fused<T, 16>(arguments, stream);
}

template int64_t ssge_work<float>(int64_t, int64_t, int64_t);
template int64_t ssge_work<double>(int64_t, int64_t, int64_t);
template int ssge(const float*, const float*, int64_t, int64_t, int64_t, const SsgeOptions&, float*,
                  float*, float*, int64_t*, void*, void*);
template int ssge(const double*, const double*, int64_t, int64_t, int64_t, const SsgeOptions&,
                  double*, double*, double*, int64_t*, void*, void*);

}  // namespace mige::cuda
