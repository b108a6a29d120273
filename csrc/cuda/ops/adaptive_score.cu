// adaptive_score: samples to score, with nothing to set and nothing to wait for.
#include "cuda/adaptive/risk.cuh"
#include "cuda/rbf/pairwise.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout {
  Workspace space;
  Whitening<T> whitening;
  Adaptive<T> adaptive{};
  Selection<T>* selections;
  Count* counts;
  T* s;  // [groups, r, d]

  Layout(void* work, int64_t groups, int64_t m, int64_t d)
      : space(work), whitening(whitening_layout<T>(space, groups, m, d)) {
    Adaptive<T>& a = adaptive;
    a.groups = groups;
    a.m = m;
    a.d = d;
    a.r = whitening.r();
    a.inversion = inverse_layout<T>(space, groups, m);
    a.inverse = a.inversion.out;
    a.unit = space.take<Key<T>>(groups);
    a.ridge = space.take<T>(groups);
    a.z = whitening.y;
    a.support = whitening.support;
    a.k = space.take<T>(groups * m * m);
    a.cubes = space.take<T>(groups * m);
    a.hz = space.take<T>(groups * m * 2 * a.r);
    a.wy = space.take<T>(groups * m * 2 * a.r);
    a.kwy = space.take<T>(groups * m * 2 * a.r);
    a.bz = space.take<T>(groups * m * a.r);
    a.along = space.take<T>(groups * m * 2);
    a.risks = space.take<double>(groups * kBases * m);
    a.best = space.take<T>(groups * m * a.r);
    a.search = space.take<GroupSearch>(groups);
    a.next = space.take<int32_t>(groups);
    a.inversion.next = a.next;
    selections = space.take<Selection<T>>(groups);
    counts = space.take<Count>(groups * kDigits);
    s = space.take<T>(groups * a.r * d);
  }
};

// z, σ, K, [H z], and the start of the search in every group.
template <typename T>
void prepare(const Layout<T>& at, int start, Stream& stream) {
  const Adaptive<T>& p = at.adaptive;
  const int64_t groups = p.groups, m = p.m, r = p.r;
  whiten<T>(at.whitening, nullptr, p.ridge, stream);
  stream.launch(whitened_kernel<T>, elementwise(m * r, groups), at.whitening, p);
  pairwise<T, Pairwise::kSquaredDistance>(p.z, nullptr, groups, m, m, r, p.unit, nullptr, p.k,
                                          stream);
  select_bandwidth(p.k, groups, m, 0.5, 1.0, T(0), p.unit, at.selections, at.counts, p.bandwidth,
                   stream);
  stream.launch(search_start_kernel<T>, elementwise(groups, 1), p, start);
  stream.launch(imq_rows_kernel<T>, row_warps(m, groups), p);
  contract<T>(Cubed<T>{{p.k, m, m}}, Columns<T>{p.z, m, r}, ImqGradientSum<T>{p},
              {groups, m, r, p.next}, stream);
}

// Evaluates the λ that each group tries in this round; groups that are done skip it.
template <typename T>
void evaluate(const Adaptive<T>& p, Stream& stream) {
  const int64_t groups = p.groups, m = p.m, r = p.r;
  const ContractionShape pairs{groups, m, 2 * r, p.next};
  stream.launch(regularize_kernel<T>, elementwise(m * m, groups), p);
  invert(p.inversion, stream);
  // [W Y] = Xᵀ (X [H z]) with X = L⁻¹, in the place of K³ [W Y] in between. For the same number of
  // flop as B [H z], this has the small residual of a solution, which B [H z] has not: the large
  // terms of the divergence, which nearly cancel, then have a common error. Measured in float for
  // 200 cubed normal samples, λ = 1e-5: risk −80.46 by this, −79.18 by B, −80.45 exactly.
  contract<T>(LowerTriangle<T>{p.inversion.a, m}, Columns<T>{p.hz, m, 2 * r}, Store<T>{p.kwy},
              pairs, stream);
  contract<T>(ColumnsBelow<T>{p.inversion.a, m, m}, ColumnsBelow<T>{p.kwy, m, 2 * r},
              Store<T>{p.wy}, pairs, stream);
  contract<T>(Cubed<T>{{p.k, m, m}}, Columns<T>{p.wy, m, 2 * r}, Store<T>{p.kwy}, pairs, stream);
  contract<T>(Cubed<T, true>{{p.k, m, m}, {p.inverse, m, m}}, Columns<T>{p.z, m, r}, Store<T>{p.bz},
              {groups, m, r, p.next}, stream);
  stream.launch(along_kernel<T>, row_warps(m, groups), p);
  stream.launch(risk_kernel<T>, row_warps(m, groups), p);
  stream.launch(search_kernel<T>, {{group_blocks(groups)}, kRowThreads}, p);
  stream.launch(keep_kernel<T>, elementwise(m * r, groups), p);
}

}  // namespace

template <typename T>
int64_t adaptive_score_work(int64_t groups, int64_t m, int64_t d) {
  return Layout<T>(nullptr, groups, m, d).space.size();
}

template <typename T>
int adaptive_score(const T* x, int64_t groups, int64_t m, int64_t d, T* scores, T* lambda,
                   int64_t* base, T* risk, T* standard_error, T* bandwidth, void* work,
                   void* cuda_stream) {
  if (groups == 0) return 0;
  Stream stream(cuda_stream);
  Layout<T> at(work, groups, m, d);
  Whitening<T>& w = at.whitening;
  Adaptive<T>& p = at.adaptive;
  w.x = x;
  w.factor = kWeakRidge;
  p.lambda = lambda;
  p.base = base;
  p.risk = risk;
  p.error = standard_error;
  p.bandwidth = bandwidth;
  const int start = first_lambda(m);
  prepare(at, start, stream);
  for (int round = 0; round < LambdaSearch::most_rounds(start); ++round) evaluate(p, stream);
  filter_vectors(w, w.dual() ? RidgeFilter::kDualScore : RidgeFilter::kScore, p.ridge, at.s,
                 stream);
  contract<T>(Rows<T>{p.best, m, p.r}, Columns<T>{at.s, p.r, d}, StoreScore<T>{scores, w.inverse},
              {groups, m, d}, stream);
  return stream.status();
}

MIGE_INSTANTIATE(adaptive_score_work);
MIGE_INSTANTIATE(adaptive_score);

}  // namespace mige::cuda
