// student_score: the score of a Student distribution whose scatter matrix is estimated robustly,
// for x [groups, m, d]. student.cuh has the formulas, the layout and the kernels. Work: the
// whitening, 4 EM steps of 4 m r² + r³ flop with r = min(m, d), and 2 m d r flop for the departure.
// The host does not wait for the device.
#include "cuda/adaptive/student.cuh"

namespace mige::cuda {
namespace {

template <typename T>
Student<T> layout(const StudentScoreArguments<T>& p, void* work) {
  const Whitening<T> w{Workspace(work), p.x, p.groups, p.m, p.d, kWeakRidge};
  return {w, w, p};
}

// One EM step in every group with a finite ν.
template <typename T>
void step(const Student<T>& p, Stream& stream) {
  const int64_t groups = p.groups, m = p.m, r = p.r;
  stream.launch(student_center_kernel<T>,
                {{divide_up(r, kWarp), 1, group_blocks(groups)}, kScaleThreads}, p);
  const Columns<T> u{p.u, m, r};
  contract<T>(u, u, StoreScatter<T>{p}, {groups, r, r, p.next, p.partial}, stream);
  invert(p.inversion, stream);
  contract<T>(Rows<T>{p.u, m, r}, Rows<T>{p.inversion.out, r, r}, Store<T>{p.pu},
              {groups, m, r, p.next, p.partial}, stream);
  stream.launch(student_squares_kernel<T>, row_warps(m, groups), p);
}

}  // namespace

template <typename T>
int64_t student_score_work(const StudentScoreArguments<T>& p) {
  return layout(p, nullptr).inversion.size();
}

template <typename T>
int student_score(const StudentScoreArguments<T>& p, void* work, void* cuda_stream) {
  if (p.groups == 0) return 0;
  Stream stream(cuda_stream);
  const Student<T> at = layout(p, work);
  const int64_t groups = at.groups, m = at.m, r = at.r;
  const LaunchShape block_per_group{{group_blocks(groups)}, kRowThreads};
  whiten<T>(at.w, nullptr, at.ridge, stream);
  stream.launch(student_begin_kernel<T>, row_warps(m, groups), at);
  stream.launch(student_choice_kernel<T>, block_per_group, at, 1.0, true);
  for (int i = 0; i < kStudentSteps; ++i) step(at, stream);
  stream.launch(student_choice_kernel<T>, block_per_group, at, 0.0, false);
  stream.launch(student_departure_kernel<T>, row_warps(m, groups), at);
  filter_vectors(at.w, at.w.dual() ? RidgeFilter::kDualScore : RidgeFilter::kScore, at.ridge, at.s,
                 stream);
  contract<T>(Rows<T>{at.z, m, r}, Columns<T>{at.s, r, p.d},
              StoreScaled<T, false>{p.departure, at.w.inverse},
              {groups, m, p.d, at.next, at.partial}, stream);
  return stream.status();
}

MIGE_INSTANTIATE(student_score);

}  // namespace mige::cuda
