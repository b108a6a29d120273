// The launchers of csrc/cuda as functions of NumPy arrays. The arguments are those of the function
// of the same name in mige_ext/ops.py, in its order.
#include "bindings.h"

#include "../../csrc/cuda/rbf_gram.h"

namespace mige::emulator {
namespace {

py::object rbf_gram(const py::array& x, const std::optional<py::array>& y,
                    const py::array& bandwidth) {
  const int64_t m = size_of(x, 2), n = size_of(y ? *y : x, 2), d = size_of(x, 1);
  return for_type_of(x, [&](auto zero) -> py::object {
    using T = decltype(zero);
    const Buffer<T> left(x), right(y), sigma(bandwidth);
    const Buffer<T> out(batch_shape(x, 2, {m, n}));
    check("rbf_gram", cuda::rbf_gram(left.data(), right.data(), sigma.data(), batch_count(x, 2), m,
                                     n, d, out.data(), nullptr));
    return out.array();
  });
}

}  // namespace
}  // namespace mige::emulator

PYBIND11_MODULE(mige_emulator, m) {
  using namespace mige::emulator;
  bind_settings(m);
  m.def("rbf_gram", &rbf_gram);
}
