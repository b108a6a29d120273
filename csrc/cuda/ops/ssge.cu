// ssge: the score −U_J Λ_J^−power U_Jᵀ H of the Spectral Stein Gradient Estimator, for x
// [groups, m, d]. Groups of at most 128 samples take one launch (ssge_fused.cu). Larger groups take
// several launches. Their work is 1.5 m² d flop for the distances, 2 m² d for H, 4 m² d for the
// score, and one eigendecomposition (eigh.cuh).
#include "cuda/launchers.h"
#include "cuda/linalg/eigh.cuh"
#include "cuda/rbf/gradient_sum.cuh"
#include "cuda/rbf/pairwise.cuh"
#include "cuda/ssge/ssge.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout : Workspace {
  int64_t groups, m, d;
  Key<T>* largest = take<Key<T>>(groups);
  Selection<T>* selections = take<Selection<T>>(groups);
  Count* counts = take<Count>(groups * kDigits);
  T* centered = take<T>(groups * m * d);  // later the projection Uᵀ H
  T* h = take<T>(groups * m * d);
  T* k = take<T>(groups * m * m);
  T* vectors = take<T>(groups * m * m);
  T* factor = take<T>(groups * m);
  PartialSums partial = take_partial_sums(*this, {partial_bytes<T>(groups, m, d, m)});
  char* solver = take<char>(eigendecompose_work<T, MatrixKind::kGram>(groups, m));
};

template <typename T>
void ssge_in_steps(const SsgeArguments<T>& p, void* work, Stream& stream) {
  const int64_t groups = p.groups, m = p.m, d = p.d;
  const SsgeOptions& o = p.options;
  const Layout<T> at{Workspace(work), groups, m, d};
  largest_magnitudes<T>(p.x, m * d, nullptr, 0, groups, at.largest, stream);
  center<T>(p.x, groups, m, d, at.largest, nullptr, at.centered, stream);
  const ContractionShape shape{groups, m, d, nullptr, at.partial};
  pairwise<T, Pairwise::kSquaredDistance>(pairs_of(at.centered, groups, m, d, at.k), at.largest,
                                          stream);
  if (p.given)
    stream.launch(given_bandwidth_kernel<T>, elementwise(groups, 1), p);
  else
    select_bandwidth(at.k, groups, m, o.quantile, o.multiplier, kSmallestNormal<T>, at.largest,
                     at.selections, at.counts, p.bandwidth, stream);
  stream.launch(gram_in_place_kernel<T>, elementwise(m * m, groups), p, at.largest, at.k);
  contract<T>(Rows<T>{at.k, m, m}, Columns<T>{at.centered, m, d},
              GradientSum<T>{at.centered, at.h, at.largest, p.bandwidth, false}, shape, stream);
  const EighArguments<T> e{at.k, groups, static_cast<int>(m), p.values, at.vectors, nullptr};
  eigendecompose<T, MatrixKind::kGram>({e, at.largest}, at.solver, stream);
  stream.launch(rank_kernel<T>, {{at_most(groups, kLargestGridX)}, kWarp}, p, at.largest,
                at.factor);
  T* const projected = at.centered;
  contract<T>(Rows<T>{at.vectors, m, m}, Columns<T>{at.h, m, d},
              StoreScaled<T, true>{projected, at.factor}, shape, stream);
  contract<T>(Columns<T>{at.vectors, m, m}, Columns<T>{projected, m, d},
              ScaleScore<T>{p, at.largest}, shape, stream);
}

}  // namespace

template <typename T>
int64_t ssge_work(const SsgeArguments<T>& p) {
  return ssge_fits_a_block<T>(p.m) ? 0 : Layout<T>{Workspace(nullptr), p.groups, p.m, p.d}.size();
}

template <typename T>
int ssge(const SsgeArguments<T>& p, void* work, void* cuda_stream) {
  if (p.groups == 0) return 0;
  Stream stream(cuda_stream);
  if (!ssge_fits_a_block<T>(p.m))
    ssge_in_steps(p, work, stream);
  else
    ssge_fused(p, stream);
  return stream.status();
}

MIGE_INSTANTIATE(ssge);

}  // namespace mige::cuda
