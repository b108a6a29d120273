// rbf_product: k(q, X) W without k in memory, the Nyström extension.
#include "bind/checks.h"
#include "cpu/group.h"
#ifdef MIGE_WITH_CUDA
#include "bind/cuda.h"
#endif

namespace mige::bind {
namespace {

void check_product(const Tensor& q, const Tensor& x, const Tensor& w, const Tensor& bandwidth) {
  check_samples("q", q, 0);
  check_samples("x", x, 0);
  check_matrix("w", w, "(..., M, p)", 0, 0);
  check_like("x", x, 2, "q", q, 2);
  check_like("w", w, 2, "q", q, 2);
  check_like("bandwidth", bandwidth, 0, "q", q, 2);
  check_columns("x", x, "q", q);
  if (rows(w) != rows(x))
    fail("w must have as many rows as x, got ", shape_text(w), " and ", shape_text(x));
}

Tensor rbf_product_cpu(const Tensor& q, const Tensor& x, const Tensor& w, const Tensor& bandwidth) {
  check_product(q, x, w, bandwidth);
  const int64_t m = rows(q), n = rows(x), d = columns(q), p = columns(w);
  const Tensor queries = torch::stable::contiguous(q), points = torch::stable::contiguous(x),
               weights = torch::stable::contiguous(w), sigma = torch::stable::contiguous(bandwidth);
  const Tensor out = empty(q, batch_shape(q, 2, {m, p}));
  dispatch(q, [&](auto zero) {
    using T = decltype(zero);
    check_finite<T>("q", queries);
    check_finite<T>("x", points);
    check_finite<T>("w", weights);
    check_bandwidth<T>(sigma);
    torch::stable::parallel_for(0, batch_count(q, 2), 1, [&](int64_t begin, int64_t end) {
      Runtime<T> runtime(queries);
      const cpu::Buffer<T> x_panels(cpu::panels_size<T>(d, n)), w_panels(cpu::panels_size<T>(n, p));
      for (int64_t g = begin; g < end; ++g) {
        const T* query_group = const_data<T>(queries) + g * m * d;
        const T* point_group = const_data<T>(points) + g * n * d;
        const T largest = std::max(cpu::largest_magnitude(query_group, m * d),
                                   cpu::largest_magnitude(point_group, n * d));
        const auto width = ScaledBandwidth<T>::of(const_data<T>(sigma)[g], largest);
        cpu::pack_rows(point_group, n, d, width.scale, x_panels.get());
        cpu::pack_columns(const_data<T>(weights) + g * n * p, n, p, T(1), w_panels.get());
        runtime.parallel(m, cpu::kRowGrain, [&](int64_t b, int64_t e) {
          cpu::kernel_product_rows(query_group, x_panels.get(), w_panels.get(), m, n, d, p,
                                   width.scale, width.gamma, data<T>(out) + g * m * p, b, e);
        });
      }
    });
  });
  return out;
}

#ifdef MIGE_WITH_CUDA
Tensor rbf_product_cuda(const Tensor& q, const Tensor& x, const Tensor& w,
                        const Tensor& bandwidth) {
  check_product(q, x, w, bandwidth);
  const CudaContext context(q);
  const Tensor queries = torch::stable::contiguous(q), points = torch::stable::contiguous(x),
               weights = torch::stable::contiguous(w), sigma = torch::stable::contiguous(bandwidth);
  const int64_t groups = batch_count(q, 2), m = rows(q), p = columns(w);
  const Tensor out = empty(q, batch_shape(q, 2, {m, p}));
  const Tensor work = work_space(q, cuda::rbf_product_work(groups));
  dispatch(q, [&](auto zero) {
    using T = decltype(zero);
    context.check("rbf_product", cuda::rbf_product(const_data<T>(queries), const_data<T>(points),
                                                   const_data<T>(weights), const_data<T>(sigma),
                                                   groups, m, rows(x), columns(q), p, data<T>(out),
                                                   data<char>(work), context.stream()));
  });
  return out;
}
#endif

}  // namespace
}  // namespace mige::bind

STABLE_TORCH_LIBRARY_IMPL(mige_ext, CPU, m) {
  m.impl("rbf_product", TORCH_BOX(&mige::bind::rbf_product_cpu));
}

#ifdef MIGE_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(mige_ext, CUDA, m) {
  m.impl("rbf_product", TORCH_BOX(&mige::bind::rbf_product_cuda));
}
#endif
