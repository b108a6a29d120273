// The schema of every operator. Shapes: x (..., M, d), y (..., N, d), q (..., Q, d), w (..., M, p).
// `bandwidth` has shape (...), with one value per group. mige_ext.ops documents what the operators
// compute.
#include "bind/torch_compat.h"

STABLE_TORCH_LIBRARY(mige_ext, m) {
  m.def("squared_distances(Tensor x, Tensor? y) -> Tensor");
  m.def("distance_quantile(Tensor x, float quantile) -> Tensor");
  m.def("rbf_gram(Tensor x, Tensor? y, Tensor bandwidth) -> Tensor");
  m.def("rbf_gradient_sum(Tensor x, Tensor bandwidth) -> Tensor");
  m.def("rbf_product(Tensor q, Tensor x, Tensor w, Tensor bandwidth) -> Tensor");
  m.def("eigh(Tensor k) -> (Tensor eigenvalues, Tensor eigenvectors)");
  m.def(
      "ssge(Tensor x, Tensor? bandwidth, float quantile, float multiplier, float threshold, "
      "int? rank, int power) -> (Tensor out, Tensor eigenvalues, Tensor bandwidth_out, Tensor "
      "rank_out)");
  m.def(
      "ridge_whitening(Tensor x, float? factor) -> (Tensor mean, Tensor whitening, Tensor ridge)");
  m.def(
      "student_score(Tensor x) -> (Tensor departure, Tensor divergence, Tensor nu, Tensor "
      "weights)");
  m.def(
      "adaptive_score(Tensor x, Tensor? start, Tensor? start_divergence) -> (Tensor scores, Tensor "
      "lam, Tensor base, Tensor risk, Tensor standard_error, Tensor bandwidth, Tensor left_out, "
      "Tensor departure, Tensor divergence)");
  m.def(
      "adaptive_student_score(Tensor x) -> (Tensor scores, Tensor lam, Tensor base, Tensor risk, "
      "Tensor standard_error, Tensor bandwidth, Tensor left_out, Tensor departure, Tensor "
      "divergence, Tensor nu, Tensor weights)");
}
