// adaptive_score: samples to score, with nothing to set and nothing to wait for.
#include "cuda/adaptive/risk.cuh"
#include "cuda/rbf/pairwise.cuh"

namespace mige::cuda {
namespace {

template <typename T>
struct Layout {
  WorkSpace space;
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
    a.climb = space.take<GroupSearch>(groups);
    a.next = space.take<int32_t>(groups);
    a.inversion.next = a.next;
    selections = space.take<Selection<T>>(groups);
    counts = space.take<Count>(groups * kDigits);
    s = space.take<T>(groups * a.r * d);
  }
};

dim3 row_grid(int64_t m, int64_t groups) {
  return dim3(static_cast<unsigned>(divide_up(m, kRowWarps)), 1, grid_z(groups));
}

// z, σ, K, [H z], and every group before its first λ.
template <typename T>
int prepare(const Layout<T>& at, int start, void* stream) {
  const Adaptive<T>& p = at.adaptive;
  const int64_t groups = p.groups, m = p.m;
  int failed = whiten<T>(at.whitening, nullptr, p.ridge, stream);
  if (!failed)
    failed = launch(whitened_kernel<T>, elementwise_grid(m * p.r, groups), dim3(256), 0, stream,
                    at.whitening, p);
  if (!failed)
    failed = pairwise<T, Pairwise::kSquaredDistance>(p.z, nullptr, groups, m, m, p.r, p.unit,
                                                     nullptr, p.k, stream);
  if (!failed)
    failed = select_bandwidth(p.k, groups, m, 0.5, 1.0, T(0), p.unit, at.selections, at.counts,
                              p.bandwidth, stream);
  if (!failed)
    failed = launch(climb_start_kernel<T>, dim3(grid_z(divide_up(groups, 256))), dim3(256), 0,
                    stream, p, start);
  if (!failed)
    failed = launch(imq_rows_kernel<T>, row_grid(m, groups), dim3(kRowThreads), 0, stream, p);
  if (!failed) failed = contract<T>(GradientSumForm<T>{p}, groups, m, p.r, stream);
  return failed;
}

// The λ that is next of every group that is not done.
template <typename T>
int evaluate(const Adaptive<T>& p, void* stream) {
  const int64_t groups = p.groups, m = p.m, r = p.r;
  int failed =
      launch(regularise_kernel<T>, elementwise_grid(m * m, groups), dim3(256), 0, stream, p);
  if (!failed) failed = invert(p.inversion, stream);
  if (!failed) failed = contract<T>(ForwardForm<T>{p}, groups, m, 2 * r, stream);
  if (!failed) failed = contract<T>(BackwardForm<T>{p}, groups, m, 2 * r, stream);
  if (!failed) failed = contract<T>(CubeForm<T>{p}, groups, m, 2 * r, stream);
  if (!failed) failed = contract<T>(HadamardForm<T>{p}, groups, m, r, stream);
  if (!failed)
    failed = launch(along_kernel<T>, row_grid(m, groups), dim3(kRowThreads), 0, stream, p);
  if (!failed)
    failed = launch(risk_kernel<T>, row_grid(m, groups), dim3(kRowThreads), 0, stream, p);
  if (!failed)
    failed = launch(climb_kernel<T>, dim3(grid_z(groups)), dim3(kRowThreads), 0, stream, p);
  if (!failed)
    failed = launch(keep_kernel<T>, elementwise_grid(m * r, groups), dim3(256), 0, stream, p);
  return failed;
}

}  // namespace

template <typename T>
int64_t adaptive_score_work(int64_t groups, int64_t m, int64_t d) {
  return Layout<T>(nullptr, groups, m, d).space.size();
}

template <typename T>
int adaptive_score(const T* x, int64_t groups, int64_t m, int64_t d, T* scores, T* lambda,
                   int64_t* base, T* risk, T* standard_error, T* bandwidth, void* work,
                   void* stream) {
  if (groups == 0) return 0;
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
  int failed = prepare(at, start, stream);
  for (int round = 0; round < LambdaSearch::most_rounds(start) && !failed; ++round)
    failed = evaluate(p, stream);
  if (!failed)
    failed = filter_vectors(w, w.dual() ? RidgeFilter::kDualScore : RidgeFilter::kScore, p.ridge,
                            at.s, stream);
  if (!failed) failed = contract<T>(ScoreForm<T>{p, at.s, w.inverse, scores}, groups, m, d, stream);
  return failed;
}

template int64_t adaptive_score_work<float>(int64_t, int64_t, int64_t);
template int64_t adaptive_score_work<double>(int64_t, int64_t, int64_t);
template int adaptive_score(const float*, int64_t, int64_t, int64_t, float*, float*, int64_t*,
                            float*, float*, float*, void*, void*);
template int adaptive_score(const double*, int64_t, int64_t, int64_t, double*, double*, int64_t*,
                            double*, double*, double*, void*, void*);

}  // namespace mige::cuda
