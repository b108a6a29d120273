// The kernels of faults.cu as functions of NumPy arrays.
#include "faults.h"

#include "bindings.h"

namespace mige::emulator {
namespace {

py::array_t<float> run_fault(const std::string& name, bool mended, const py::array& x) {
  const Buffer<float> in(x), out(Shape{cuda::kFaultThreads});
  check(name.c_str(), cuda::run_fault(name, mended, in.data(), out.data()));
  return out.array();
}

py::array_t<float> primitives(const py::array& x) {
  const Buffer<float> in(x), out(Shape{cuda::kPrimitives, cuda::kFaultThreads});
  check("primitives", cuda::run_primitives(in.data(), out.data()));
  return out.array();
}

void launch_nothing(unsigned grid_x, unsigned grid_y, unsigned block, size_t smem) {
  check("launch", cuda::launch_nothing(grid_x, grid_y, block, smem));
}

}  // namespace
}  // namespace mige::emulator

PYBIND11_MODULE(mige_emulator_faults, m) {
  using namespace mige::emulator;
  bind_settings(m);
  m.def("names", &mige::cuda::fault_names);
  m.def("run", &run_fault);
  m.def("primitives", &primitives);
  m.def("launch", &launch_nothing);
  m.def("approximate_rsqrt", &approximate_rsqrt);
  m.def("approximate_reciprocal", &approximate_reciprocal);
}
