// The checks of every operator. A message names the argument, the expected value and the actual
// value.
//
// All errors are std::runtime_error, which torch turns into a RuntimeError of Python. If the
// message has the prefix "ValueError: " or "TypeError: ", mige_ext.ops raises an error of this type
// instead.
#pragma once

#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "bind/torch_compat.h"
#include "cpu/operators.h"

namespace mige::bind {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline int64_t rows(const Tensor& t) { return t.size(t.dim() - 2); }
inline int64_t columns(const Tensor& t) { return t.size(t.dim() - 1); }

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// The sizes of t without the last `dropped` ones, written like a tuple of Python.
inline std::string shape_text(const Tensor& t, int64_t dropped = 0) {
  std::ostringstream text;
  const int64_t count = t.dim() - dropped;
  text << '(';
  for (int64_t i = 0; i < count; ++i) text << (i ? ", " : "") << t.size(i);
  text << (count == 1 ? ",)" : ")");
  return text.str();
}

inline std::string dtype_text(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return "torch.float32";
    case ScalarType::Double:
      return "torch.float64";
    case ScalarType::Half:
      return "torch.float16";
    case ScalarType::BFloat16:
      return "torch.bfloat16";
    default:
      return toString(t.scalar_type());
  }
}

inline std::string device_text(const Tensor& t) {
  return t.is_cuda() ? "cuda:" + std::to_string(t.get_device_index()) : "cpu";
}

// Checks that t is float32 or float64 with at least the given numbers of rows and columns.
// `expected` describes the shape for the message.
inline void check_matrix(const char* name, const Tensor& t, const char* expected, int64_t min_rows,
                         int64_t min_columns) {
  if (t.scalar_type() != ScalarType::Float && t.scalar_type() != ScalarType::Double)
    fail("TypeError: ", name, " must be float32 or float64, got ", dtype_text(t));
  if (t.dim() < 2 || rows(t) < min_rows || columns(t) < min_columns)
    fail("ValueError: ", name, " must have shape ", expected, ", got ", shape_text(t));
}

// Checks that t has shape (..., M, d) with M >= min_rows, which is 0, 1 or 2, and d >= 1.
inline void check_samples(const char* name, const Tensor& t, int64_t min_rows) {
  constexpr const char* kExpected[] = {"(..., M, d) with d >= 1",
                                       "(..., M, d) with M >= 1 and d >= 1",
                                       "(..., M, d) with M >= 2 and d >= 1"};
  check_matrix(name, t, kExpected[min_rows], min_rows, 1);
}

// Checks that t has the dtype, the device and the leading dimensions of x (..., M, d). The last
// `dropped` dimensions of t are not compared.
inline void check_like(const char* name, const Tensor& t, int64_t dropped, const char* x_name,
                       const Tensor& x) {
  if (t.scalar_type() != x.scalar_type())
    fail("TypeError: ", name, " must have the dtype of ", x_name, ", ", dtype_text(x), ", got ",
         dtype_text(t));
  if (t.is_cuda() != x.is_cuda() || t.get_device_index() != x.get_device_index())
    fail("ValueError: ", name, " must be on the device of ", x_name, ", ", device_text(x), ", got ",
         device_text(t));
  if (t.dim() < dropped)
    fail("ValueError: ", name, " must have at least ", dropped, " dimensions, got shape ",
         shape_text(t));
  bool same = t.dim() - dropped == x.dim() - 2;
  for (int64_t i = 0; same && i + dropped < t.dim(); ++i) same = t.size(i) == x.size(i);
  if (!same)
    fail("ValueError: ", name, " must have the leading dimensions of ", x_name, ", ",
         shape_text(x, 2), ", got ", shape_text(t, dropped));
}

// Checks the number of rows or columns; `what` is "rows" or "columns".
inline void check_count(const char* name, int64_t got, const char* what, const char* other_name,
                        int64_t expected) {
  if (got != expected)
    fail("ValueError: ", name, " must have as many ", what, " as ", other_name, ", ", expected,
         ", got ", got);
}

inline void check_fraction(const char* name, double value) {
  if (!(value > 0 && value <= 1)) fail("ValueError: ", name, " must lie in (0, 1], got ", value);
}

inline void check_positive(const char* name, double value) {
  if (!(value > 0 && value <= std::numeric_limits<double>::max()))
    fail("ValueError: ", name, " must be positive and finite, got ", value);
}

template <typename T>
void check_bandwidth(const T* sigma, int64_t groups) {  // sigma [groups]
  for (int64_t g = 0; g < groups; ++g)
    if (!is_positive_and_finite(sigma[g]))
      fail("bandwidth must be positive and finite, got ", sigma[g]);
}

template <typename T>
void check_finite(const char* name,
                  const T* values,  // [groups, m, d]
                  int64_t groups, int64_t m, int64_t d) {
  const int64_t count = groups * m * d;
  const int64_t i = cpu::first_not_finite(values, count);
  if (i == count) return;
  fail(name, " must be finite, got ", values[i], " in row ", i / d % m, ", column ", i % d,
       " of group ", i / d / m);
}

}  // namespace mige::bind
