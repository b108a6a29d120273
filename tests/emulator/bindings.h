// Helpers to bind a launcher. They copy arrays to memory that is aligned as on a GPU, and copy
// results back to arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "host.h"

namespace mige::emulator {

namespace py = pybind11;
using Shape = std::vector<py::ssize_t>;

// Memory with exactly the size of an array, so that AddressSanitizer detects an access to the first
// byte beyond it. The alignment is that of cudaMalloc.
template <typename T>
class Buffer {
 public:
  // A copy of the array. Without an array, data() is nullptr.
  explicit Buffer(const std::optional<py::array>& array) {
    if (!array) return;
    const auto dense = py::array_t<T, py::array::c_style | py::array::forcecast>::ensure(*array);
    if (!dense) throw py::error_already_set();
    allocate(Shape(dense.shape(), dense.shape() + dense.ndim()));
    std::memcpy(memory_.get(), dense.data(), bytes());
  }
  explicit Buffer(const py::array& array) : Buffer(std::optional<py::array>(array)) {}
  // Memory for results. It is filled with NaN or −1, so that a test detects an element that is not
  // written.
  explicit Buffer(Shape shape) {
    allocate(std::move(shape));
    std::memset(memory_.get(), 0xff, bytes());
  }

  T* data() const { return memory_.get(); }

  py::array_t<T> array() const {
    py::array_t<T> result(shape_);
    std::memcpy(result.mutable_data(), memory_.get(), bytes());
    return result;
  }

 private:
  static constexpr size_t kAlignment = 256;
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };

  size_t bytes() const {
    size_t count = sizeof(T);
    for (const py::ssize_t n : shape_) count *= static_cast<size_t>(n);
    return count;
  }
  void allocate(Shape shape) {
    shape_ = std::move(shape);
    void* memory = nullptr;
    if (posix_memalign(&memory, kAlignment, bytes()) != 0) throw std::bad_alloc();
    memory_.reset(static_cast<T*>(memory));
  }

  Shape shape_;
  std::unique_ptr<T, Free> memory_;
};

// The shape of the array without its last `inner` sizes, followed by `rest`.
inline Shape batch_shape(const py::array& array, int inner, Shape rest = {}) {
  Shape shape(array.shape(), array.shape() + array.ndim() - inner);
  shape.insert(shape.end(), rest.begin(), rest.end());
  return shape;
}

// The number of groups: the product of all sizes but the last `inner`.
inline int64_t batch_count(const py::array& array, int inner) {
  int64_t count = 1;
  for (const py::ssize_t n : batch_shape(array, inner)) count *= n;
  return count;
}

// The size along an axis, which is counted from the end: 1 is the last axis.
inline int64_t size_of(const py::array& array, int axis) {
  return array.shape(array.ndim() - axis);
}

// Calls f(T()) with the type T of the array's elements.
template <typename F>
auto for_type_of(const py::array& array, F f) {
  if (py::isinstance<py::array_t<float>>(array)) return f(float());
  if (py::isinstance<py::array_t<double>>(array)) return f(double());
  throw py::type_error("arrays must be float32 or float64");
}

// Throws if a launcher returned an error.
inline void check(const char* name, int status) {
  if (status != 0)
    throw std::runtime_error(std::string(name) + ": " +
                             cudaGetErrorString(static_cast<cudaError_t>(status)));
}

// The settings that every module of the emulator has.
inline void bind_settings(py::module_& m) {
  m.def(
      "set_schedule", [](const std::string& name) { set_schedule(schedule_named(name)); },
      py::arg("name"));
  m.def("set_noise", &set_noise, py::arg("noise"));
  m.def("set_device", &set_device,
        py::arg("shared_memory_per_block") = Device().shared_memory_per_block,
        py::arg("multiprocessors") = Device().multiprocessors);
  // For every launch since the last call: text with the types of the kernel's parameters, and the
  // number of blocks.
  m.def("take_launches", [] {
    py::list launches;
    for (const Launch& launch : take_launches())
      launches.append(py::make_tuple(launch.types, launch.blocks));
    return launches;
  });
}

}  // namespace mige::emulator
