// adaptive_score: the score of the adaptive estimator, which has no settings, for x [groups, m, d].
// adaptive.cuh and risk.cuh have the formulas, the layout and the kernels. Work for one λ:
// m³ + (10 r + 4) m² flop with r = min(m, d), and 4 r m² more with a start. The host always
// enqueues the rounds of the longest possible search, because it does not wait for the device.
#include "cuda/adaptive/risk.cuh"
#include "cuda/rbf/pairwise.cuh"

namespace mige::cuda {
namespace {

template <typename T>
Adaptive<T> layout(const AdaptiveScoreArguments<T>& p, void* work) {
  const Whitening<T> w{Workspace(work), p.x, p.groups, p.m, p.d, kWeakRidge};
  return {w, w, p};
}

// Computes the squared distances of the whitened samples.
template <typename T>
void distances(const Adaptive<T>& p, Stream& stream) {
  pairwise<T, Pairwise::kSquaredDistance>(pairs_of(p.z, p.groups, p.m, p.r, p.k), p.unit, stream);
}

// Computes K and [H z] from the squared distances and the bandwidths.
template <typename T>
void kernel_matrix(const Adaptive<T>& p, bool again, Stream& stream) {
  const int64_t groups = p.groups, m = p.m, r = p.r;
  stream.launch(imq_rows_kernel<T>, row_warps(m, groups), p, again);
  contract<T>(Cubed<T>{{p.k, m, m}}, Columns<T>{p.z, m, r}, ImqGradientSum<T>{p},
              {groups, m, r, p.next, p.partial}, stream);
}

// Computes z, σ, K and [H z], and starts the search of every group at the λ with number `first`.
template <typename T>
void prepare(const Adaptive<T>& p, int first, Stream& stream) {
  const int64_t groups = p.groups, m = p.m, r = p.r;
  whiten<T>(p.w, nullptr, p.ridge, stream);
  if (p.to.start)
    largest_magnitudes<T>(p.to.start, m * p.d, p.to.start_divergence, m, groups, p.start_largest,
                          stream);
  stream.launch(whitened_kernel<T>, elementwise(m * r, groups), p);
  distances(p, stream);
  thin(p.thinning, stream);
  select_bandwidth(p.k, groups, m, 0.5, 1.0, T(0), p.unit, p.selections, p.counts, p.to.bandwidth,
                   stream, p.thinning.count);
  stream.launch(search_begin_kernel<T>, elementwise(groups, 1), p, first);
  kernel_matrix(p, false, stream);
  if (p.to.start == nullptr) return;
  // R₀ = A D U (Λ + τ)^{1/2} for the start A [m, d] and the standard deviations D.
  stream.launch(scale_start_kernel<T>, elementwise(m * p.d, groups), p);
  filter_vectors(p.w, p.w.dual() ? RidgeFilter::kDualStart : RidgeFilter::kStart, p.ridge, p.s,
                 stream);
  contract<T>(Rows<T>{p.start_scaled, m, p.d}, Rows<T>{p.s, r, p.d}, StoreStart<T>{p},
              {groups, m, r, p.next, p.partial}, stream);
  stream.launch(start_risk_kernel<T>, {{group_blocks(groups)}, kRowThreads}, p);
}

// Computes B and [W Y] for the λ of each group. Groups whose search has stopped are skipped.
template <typename T>
void solve(const Adaptive<T>& p, Stream& stream) {
  const int64_t groups = p.groups, m = p.m, n = p.n;
  const ContractionShape pairs{groups, m, n, p.next, p.partial};
  stream.launch(regularize_kernel<T>, elementwise(m * m, groups), p);
  invert(p.inversion, stream);
  // Computes [W Y] = B [H z] as L⁻ᵀ (L⁻¹ [H z]), with the Cholesky factor L of K + μI. With a
  // start, B R₀ is computed in the same way. L⁻¹ [H z] is stored in the memory of K³ [W Y]. This
  // form takes as many flop as a product with B, but has a smaller residual. The large terms of the
  // divergence nearly cancel, and with a small residual their errors cancel too. Measured in float
  // for 200 cubed normal samples and λ = 1e-5, the risk is −80.46 by this product and −79.18 by
  // B [H z]; the exact risk is −80.45.
  contract<T>(LowerTriangle<T>{p.inversion.a, m, m}, Columns<T>{p.hz, m, n}, Store<T>{p.kwy}, pairs,
              stream);
  contract<T>(ColumnsBelow<T>{p.inversion.a, m, m}, ColumnsBelow<T>{p.kwy, m, n}, Store<T>{p.wy},
              pairs, stream);
}

// Evaluates the λ that each group tries in this round. Groups whose search has stopped skip the
// round.
template <typename T>
void evaluate(const Adaptive<T>& p, Stream& stream) {
  const int64_t groups = p.groups, m = p.m, r = p.r, n = p.n;
  const ContractionShape pairs{groups, m, n, p.next, p.partial};
  solve(p, stream);
  contract<T>(Cubed<T>{{p.k, m, m}}, Columns<T>{p.wy, m, n}, Store<T>{p.kwy}, pairs, stream);
  contract<T>(Cubed<T, true>{{p.k, m, m}, {p.inversion.out, m, m}}, Columns<T>{p.z, m, r},
              Store<T>{p.bz}, {groups, m, r, p.next, p.partial}, stream);
  stream.launch(along_kernel<T>, row_warps(m, groups), p);
  if (p.bases == 2)
    stream.launch(risk_kernel<T, 2>, row_warps(m, groups), p);
  else
    stream.launch(risk_kernel<T, 3>, row_warps(m, groups), p);
  stream.launch(search_kernel<T>, {{group_blocks(groups)}, kRowThreads}, p);
  stream.launch(keep_kernel<T>, elementwise(m * r, groups), p, false);
}

// Computes the score at all samples, in groups where samples were left out of the choice. In other
// groups only the distances are computed again.
template <typename T>
void solve_at_all_samples(const Adaptive<T>& p, Stream& stream) {
  stream.launch(all_samples_kernel<T>, elementwise(p.groups, 1), p);
  distances(p, stream);
  kernel_matrix(p, true, stream);
  solve(p, stream);
  stream.launch(keep_kernel<T>, elementwise(p.m * p.r, p.groups), p, true);
  stream.launch(nearest_divergence_kernel<T>, elementwise(p.m, p.groups), p);
}

}  // namespace

template <typename T>
int64_t adaptive_score_work(const AdaptiveScoreArguments<T>& p) {
  return layout(p, nullptr).inversion.size();
}

template <typename T>
int adaptive_score(const AdaptiveScoreArguments<T>& p, void* work, void* cuda_stream) {
  if (p.groups == 0) return 0;
  Stream stream(cuda_stream);
  const Adaptive<T> at = layout(p, work);
  const int first = first_lambda(p.m);
  prepare(at, first, stream);
  for (int round = 0; round < LambdaSearch::most_rounds(first); ++round) evaluate(at, stream);
  solve_at_all_samples(at, stream);
  filter_vectors(at.w, at.w.dual() ? RidgeFilter::kDualScore : RidgeFilter::kScore, at.ridge, at.s,
                 stream);
  // Computes the scores F S D⁻¹, with the filtered eigenvectors S and the standard deviations D.
  contract<T>(Rows<T>{at.best, p.m, at.r}, Columns<T>{at.s, at.r, p.d},
              StoreScaled<T, false>{p.scores, at.w.inverse},
              {p.groups, p.m, p.d, nullptr, at.partial}, stream);
  stream.zero(p.departure, p.groups * p.m * p.d);
  stream.launch(departure_kernel<T>, elementwise(p.m * at.r, p.groups), at);
  contract<T>(Rows<T>{at.z, p.m, at.r}, Columns<T>{at.s, at.r, p.d},
              StoreScaled<T, false>{p.departure, at.w.inverse},
              {p.groups, p.m, p.d, at.next, at.partial}, stream);
  return stream.status();
}

MIGE_INSTANTIATE(adaptive_score);

}  // namespace mige::cuda
