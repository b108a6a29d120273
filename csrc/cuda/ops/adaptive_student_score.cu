// adaptive_student_score: the Student score (student_score.cu), then the adaptive score
// (adaptive_score.cu) that starts from it, for x [groups, m, d]. Each launcher computes the
// whitening. Both use the same part of the workspace, one after the other.
#include <algorithm>

#include "cuda/core/device.cuh"
#include "cuda/core/workspace.cuh"
#include "cuda/launchers.h"

namespace mige::cuda {
namespace {

template <typename T>
struct Steps : Workspace {
  AdaptiveStudentScoreArguments<T> to;
  T* start = take<T>(to.groups * to.m * to.d);
  T* divergence = take<T>(to.groups * to.m);  // of the start
  StudentScoreArguments<T> student{to.x,  to.groups,  to.m,  to.d,
                                   start, divergence, to.nu, to.weights};
  AdaptiveScoreArguments<T> adaptive = to.adaptive(start, divergence);
};

}  // namespace

template <typename T>
int64_t adaptive_student_score_work(const AdaptiveStudentScoreArguments<T>& p) {
  const Steps<T> steps{Workspace(nullptr), p};
  // The size depends on whether there is a start, and nullptr would stand for none.
  const auto adaptive = p.adaptive(p.x, p.x);
  return steps.size() + std::max(student_score_work(steps.student), adaptive_score_work(adaptive));
}

template <typename T>
int adaptive_student_score(const AdaptiveStudentScoreArguments<T>& p, void* work,
                           void* cuda_stream) {
  const Steps<T> steps{Workspace(work), p};
  void* const rest = static_cast<char*>(work) + steps.size();
  const int status = student_score(steps.student, rest, cuda_stream);
  return status != 0 ? status : adaptive_score(steps.adaptive, rest, cuda_stream);
}

MIGE_INSTANTIATE(adaptive_student_score);

}  // namespace mige::cuda
