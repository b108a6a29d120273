// The launchers of csrc/cuda as functions of NumPy arrays. A function has the same arguments, in
// the same order, as the function of the same name in mige_ext.ops.
#include "bindings.h"

#include "common/lambda_search.h"
#include "common/whitening_rule.h"
#include "cuda/launchers.h"

namespace mige::emulator {
namespace {

// Calls a launcher with its workspace, and throws if it returns an error.
template <typename Launcher, typename Work, typename Arguments>
void launch(const char* name, const Launcher& launcher, const Work& work_of,
            const Arguments& arguments) {
  const Buffer<char> work(Shape{work_of(arguments)});
  check(name, launcher(arguments, work.data(), nullptr));
}

// The name of an operator, its launcher, and the function that gives the size of its workspace.
#define MIGE_LAUNCHER(name) #name, cuda::name<T>, cuda::name##_work<T>

py::object squared_distances(const py::array& x, const std::optional<py::array>& y) {
  const int64_t groups = batch_count(x, 2), m = size_of(x, 2), n = size_of(y ? *y : x, 2);
  return for_type_of(x, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const Buffer<T> left(x), right(y), out(batch_shape(x, 2, {m, n}));
    launch(MIGE_LAUNCHER(squared_distances),
           PairwiseArguments<T>{left.data(), right.data(), nullptr, groups, m, n, size_of(x, 1),
                                out.data()});
    return out.array();
  });
}

py::object distance_quantile(const py::array& x, double quantile) {
  return for_type_of(x, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const Buffer<T> points(x), out(batch_shape(x, 2));
    launch(MIGE_LAUNCHER(distance_quantile),
           DistanceQuantileArguments<T>{points.data(), batch_count(x, 2), size_of(x, 2),
                                        size_of(x, 1), quantile, out.data()});
    return out.array();
  });
}

py::object rbf_gram(const py::array& x, const std::optional<py::array>& y,
                    const py::array& bandwidth) {
  const int64_t groups = batch_count(x, 2), m = size_of(x, 2), n = size_of(y ? *y : x, 2);
  return for_type_of(x, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const Buffer<T> left(x), right(y), sigma(bandwidth), out(batch_shape(x, 2, {m, n}));
    launch(MIGE_LAUNCHER(rbf_gram), PairwiseArguments<T>{left.data(), right.data(), sigma.data(),
                                                         groups, m, n, size_of(x, 1), out.data()});
    return out.array();
  });
}

py::object rbf_gradient_sum(const py::array& x, const py::array& bandwidth) {
  const int64_t groups = batch_count(x, 2), m = size_of(x, 2), d = size_of(x, 1);
  return for_type_of(x, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const Buffer<T> points(x), sigma(bandwidth), out(batch_shape(x, 2, {m, d}));
    launch(MIGE_LAUNCHER(rbf_gradient_sum),
           RbfGradientSumArguments<T>{points.data(), sigma.data(), groups, m, d, out.data()});
    return out.array();
  });
}

py::object rbf_product(const py::array& q, const py::array& x, const py::array& w,
                       const py::array& bandwidth) {
  const int64_t groups = batch_count(q, 2), m = size_of(q, 2), p = size_of(w, 1);
  return for_type_of(q, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const Buffer<T> queries(q), points(x), weights(w), sigma(bandwidth);
    const Buffer<T> out(batch_shape(q, 2, {m, p}));
    launch(MIGE_LAUNCHER(rbf_product),
           RbfProductArguments<T>{queries.data(), points.data(), weights.data(), sigma.data(),
                                  groups, m, size_of(x, 2), size_of(q, 1), p, out.data()});
    return out.array();
  });
}

// Returns eigenvalues, eigenvectors in columns, and `info` of each matrix (EighArguments).
py::tuple eigh_with_info(const py::array& k) {
  const int64_t groups = batch_count(k, 2), n = size_of(k, 1);
  return for_type_of(k, [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const Buffer<T> matrices(k), values(batch_shape(k, 2, {n})), vectors(batch_shape(k, 2, {n, n}));
    const Buffer<int32_t> info(batch_shape(k, 2));
    launch(MIGE_LAUNCHER(eigh), EighArguments<T>{matrices.data(), groups, static_cast<int>(n),
                                                 values.data(), vectors.data(), info.data()});
    const auto columns = py::object(vectors.array()).attr("swapaxes")(-2, -1);
    return py::make_tuple(values.array(), columns, info.array());
  });
}

py::tuple eigh(const py::array& k) {
  const py::tuple results = eigh_with_info(k);
  return py::make_tuple(results[0], results[1]);
}

py::tuple ssge(const py::array& x, const std::optional<py::array>& bandwidth, double quantile,
               double multiplier, double threshold, std::optional<int64_t> rank, int64_t power) {
  const int64_t groups = batch_count(x, 2), m = size_of(x, 2), d = size_of(x, 1);
  const SsgeOptions options{quantile, multiplier, threshold, rank.value_or(0), power};
  return for_type_of(x, [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const Buffer<T> points(x), given(bandwidth), out(batch_shape(x, 2, {m, d}));
    const Buffer<T> values(batch_shape(x, 2, {m})), sigma(batch_shape(x, 2));
    const Buffer<int64_t> ranks(batch_shape(x, 2));
    launch(MIGE_LAUNCHER(ssge),
           SsgeArguments<T>{points.data(), given.data(), groups, m, d, options, out.data(),
                            values.data(), sigma.data(), ranks.data()});
    return py::make_tuple(out.array(), values.array(), sigma.array(), ranks.array());
  });
}

py::tuple ridge_whitening(const py::array& x, std::optional<double> factor) {
  const int64_t groups = batch_count(x, 2), m = size_of(x, 2), d = size_of(x, 1);
  return for_type_of(x, [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const Buffer<T> points(x), mean(batch_shape(x, 2, {d})), whitening(batch_shape(x, 2, {d, d}));
    const Buffer<T> ridge(batch_shape(x, 2));
    launch(MIGE_LAUNCHER(ridge_whitening),
           RidgeWhiteningArguments<T>{points.data(), groups, m, d, factor.value_or(kWeakRidge),
                                      mean.data(), whitening.data(), ridge.data()});
    return py::make_tuple(mean.array(), whitening.array(), ridge.array());
  });
}

py::tuple student_score(const py::array& x) {
  const int64_t groups = batch_count(x, 2), m = size_of(x, 2), d = size_of(x, 1);
  return for_type_of(x, [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const Buffer<T> points(x), departure(batch_shape(x, 2, {m, d}));
    const Buffer<T> divergence(batch_shape(x, 2, {m})), nu(batch_shape(x, 2));
    const Buffer<T> weights(batch_shape(x, 2, {m}));
    launch(MIGE_LAUNCHER(student_score),
           StudentScoreArguments<T>{points.data(), groups, m, d, departure.data(),
                                    divergence.data(), nu.data(), weights.data()});
    return py::make_tuple(departure.array(), divergence.array(), nu.array(), weights.array());
  });
}

py::tuple adaptive_score(const py::array& x, const std::optional<py::array>& start,
                         const std::optional<py::array>& start_divergence) {
  const int64_t groups = batch_count(x, 2), m = size_of(x, 2), d = size_of(x, 1);
  return for_type_of(x, [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const Buffer<T> points(x), scores(batch_shape(x, 2, {m, d})), lambda(batch_shape(x, 2));
    const Buffer<T> risk(batch_shape(x, 2)), error(batch_shape(x, 2)), sigma(batch_shape(x, 2));
    const Buffer<int64_t> base(batch_shape(x, 2));
    // Both are empty if no start is given.
    const Buffer<T> given(start), given_divergence(start_divergence);
    const Buffer<T> left_out(batch_shape(x, 2));
    const Buffer<T> departure(batch_shape(x, 2, {m, d})), divergence(batch_shape(x, 2, {m}));
    launch(MIGE_LAUNCHER(adaptive_score),
           AdaptiveScoreArguments<T>{points.data(), given.data(), given_divergence.data(), groups,
                                     m, d, scores.data(), lambda.data(), base.data(), risk.data(),
                                     error.data(), sigma.data(), left_out.data(), departure.data(),
                                     divergence.data()});
    return py::make_tuple(scores.array(), lambda.array(), base.array(), risk.array(), error.array(),
                          sigma.array(), left_out.array(), departure.array(), divergence.array());
  });
}

py::tuple adaptive_student_score(const py::array& x) {
  const int64_t groups = batch_count(x, 2), m = size_of(x, 2), d = size_of(x, 1);
  return for_type_of(x, [&](auto zero) -> py::tuple {
    using T = decltype(zero);
    const Buffer<T> points(x), scores(batch_shape(x, 2, {m, d})), lambda(batch_shape(x, 2));
    const Buffer<T> risk(batch_shape(x, 2)), error(batch_shape(x, 2)), sigma(batch_shape(x, 2));
    const Buffer<int64_t> base(batch_shape(x, 2));
    const Buffer<T> left_out(batch_shape(x, 2)), nu(batch_shape(x, 2));
    const Buffer<T> departure(batch_shape(x, 2, {m, d})), divergence(batch_shape(x, 2, {m}));
    const Buffer<T> weights(batch_shape(x, 2, {m}));
    launch(MIGE_LAUNCHER(adaptive_student_score),
           AdaptiveStudentScoreArguments<T>{points.data(), groups, m, d, scores.data(),
                                            lambda.data(), base.data(), risk.data(), error.data(),
                                            sigma.data(), left_out.data(), departure.data(),
                                            divergence.data(), nu.data(), weights.data()});
    return py::make_tuple(scores.array(), lambda.array(), base.array(), risk.array(), error.array(),
                          sigma.array(), left_out.array(), departure.array(), divergence.array(),
                          nu.array(), weights.array());
  });
}

// Runs the search over λ with given bounds. Returns the numbers of the evaluated λ in order, the
// number of the best λ or −1 if there is none, and the largest number of rounds.
py::tuple lambda_search(const py::array_t<double>& bounds, int start) {
  LambdaSearch search{};
  search.start();
  py::list tried;
  int best = -1;
  for (int i = start; i >= 0 && tried.size() < kLambdas; i = search.after(i)) {
    tried.append(i);
    if (search.record(i, bounds.at(i))) best = i;
  }
  return py::make_tuple(tried, best, LambdaSearch::most_rounds(start));
}

}  // namespace
}  // namespace mige::emulator

PYBIND11_MODULE(mige_emulator, m) {
  using namespace mige::emulator;
  bind_settings(m);
  m.def("squared_distances", &squared_distances);
  m.def("distance_quantile", &distance_quantile);
  m.def("rbf_gram", &rbf_gram);
  m.def("rbf_gradient_sum", &rbf_gradient_sum);
  m.def("rbf_product", &rbf_product);
  m.def("eigh", &eigh);
  m.def("eigh_with_info", &eigh_with_info);
  m.def("ssge", &ssge);
  m.def("ridge_whitening", &ridge_whitening);
  m.def("student_score", &student_score);
  m.def("adaptive_score", &adaptive_score);
  m.def("adaptive_student_score", &adaptive_student_score);
  m.def("lambda_search", &lambda_search);
}
