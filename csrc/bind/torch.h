// Stable-ABI helpers of the bindings: checked tensors in, raw pointers and a runtime out.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#ifndef STABLE_TORCH_ERROR_CODE_CHECK  // torch 2.11 and 2.12
#define STABLE_TORCH_ERROR_CODE_CHECK(call) TORCH_ERROR_CODE_CHECK(call)
#endif

namespace mige::bind {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

template <typename T>
const T* const_data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

// f(float()) or f(double()) as the tensor's dtype says; checks.h has made sure it is one of them.
template <typename F>
void dispatch(const Tensor& t, const F& f) {
  if (t.scalar_type() == ScalarType::Float)
    f(float());
  else
    f(double());
}

inline int64_t rows(const Tensor& t) { return t.size(t.dim() - 2); }
inline int64_t columns(const Tensor& t) { return t.size(t.dim() - 1); }

// (leading dimensions of t without its last `dropped`) + tail
inline std::vector<int64_t> batch_shape(const Tensor& t, int64_t dropped,
                                        std::initializer_list<int64_t> tail) {
  std::vector<int64_t> shape;
  for (int64_t i = 0; i + dropped < t.dim(); ++i) shape.push_back(t.size(i));
  shape.insert(shape.end(), tail);
  return shape;
}

inline int64_t batch_count(const Tensor& t, int64_t dropped) {
  int64_t count = 1;
  for (int64_t i = 0; i + dropped < t.dim(); ++i) count *= t.size(i);
  return count;
}

inline Tensor empty(const Tensor& like, const std::vector<int64_t>& shape,
                    std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_empty(like, shape, dtype);
}

// Threads and LAPACK for the torch-free algorithms of cpu/.
template <typename T>
class Runtime {
 public:
  // `like` lends dtype and device to the work space.
  explicit Runtime(const Tensor& like) : like_(like) {}

  template <typename F>
  void parallel(int64_t n, int64_t grain, const F& f) {
    torch::stable::parallel_for(0, n, grain, f);
  }

  void eigh(T* k, int64_t m, T* values, const T*& vectors);

 private:
  Tensor like_;
  // What the last eigh returned lies in one of them.
  std::vector<T> vectors_;
  Tensor kept_;
  std::vector<T> work_;
  std::vector<int> iwork_;
};

}  // namespace mige::bind
