// Checks at the door of every operator. Messages name the argument, what was expected, what came.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "bind/torch.h"
#include "cpu/kernels.h"

namespace mige::bind {

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline std::string shape_text(const Tensor& t) {
  std::ostringstream text;
  text << '(';
  for (int64_t i = 0; i < t.dim(); ++i) text << (i ? ", " : "") << t.size(i);
  text << (t.dim() == 1 ? ",)" : ")");
  return text.str();
}

// (..., rows, columns), float32 or float64.
inline void check_matrix(const char* name, const Tensor& t, const char* expected, int64_t min_rows,
                         int64_t min_columns) {
  const ScalarType dtype = t.scalar_type();
  if (dtype != ScalarType::Float && dtype != ScalarType::Double)
    fail(name, " must be float32 or float64, got scalar type number ", static_cast<int>(dtype));
  if (t.dim() < 2 || t.size(t.dim() - 2) < min_rows || t.size(t.dim() - 1) < min_columns)
    fail(name, " must have shape ", expected, ", got ", shape_text(t));
}

inline void check_samples(const char* name, const Tensor& t, int64_t min_rows) {
  check_matrix(name, t,
               min_rows > 1 ? "(..., M, d) with M >= 2 and d >= 1" : "(..., M, d) with d >= 1",
               min_rows, 1);
}

// Same dtype, device and leading dimensions; `dropped` trailing dimensions of each are free.
inline void check_like(const char* name, const Tensor& t, int64_t dropped, const char* other_name,
                       const Tensor& other, int64_t other_dropped) {
  if (t.scalar_type() != other.scalar_type() || t.is_cuda() != other.is_cuda() ||
      t.get_device_index() != other.get_device_index())
    fail(name, " must have the dtype and the device of ", other_name);
  bool same = t.dim() - dropped == other.dim() - other_dropped;
  for (int64_t i = 0; same && i + dropped < t.dim(); ++i) same = t.size(i) == other.size(i);
  if (!same)
    fail(name, " must have the leading dimensions of ", other_name, ", got ", shape_text(t),
         " and ", shape_text(other));
}

inline void check_columns(const char* name, const Tensor& t, const char* other_name,
                          const Tensor& other) {
  if (t.size(t.dim() - 1) != other.size(other.dim() - 1))
    fail(name, " must have as many columns as ", other_name, ", got ", shape_text(t), " and ",
         shape_text(other));
}

// x against y (or against itself): the arguments of distances and Gram matrices.
inline void check_pair(const Tensor& x, const std::optional<Tensor>& y) {
  check_samples("x", x, 0);
  if (!y) return;
  check_samples("y", *y, 0);
  check_like("y", *y, 2, "x", x, 2);
  check_columns("y", *y, "x", x);
}

inline void check_quantile(double quantile) {
  if (!(quantile > 0 && quantile <= 1)) fail("quantile must lie in (0, 1], got ", quantile);
}

template <typename T>
void check_bandwidth(const Tensor& bandwidth) {
  const T* sigma = const_data<T>(bandwidth);
  for (int64_t g = 0; g < bandwidth.numel(); ++g)
    if (!(sigma[g] > T(0)) || sigma[g] - sigma[g] != T(0))
      fail("bandwidth must be positive and finite, got ", sigma[g]);
}

// The first NaN or infinity of x (..., M, d), contiguous on the CPU, as an error.
template <typename T>
void check_finite(const char* name, const Tensor& x) {
  const T* values = const_data<T>(x);
  const int64_t count = x.numel();
  const T largest = cpu::largest_magnitude(values, count);
  if (largest == largest) return;
  int64_t i = 0;
  while (i < count && values[i] - values[i] == T(0)) ++i;
  fail(name, " must be finite, got ", values[i], " in row ", i / columns(x) % rows(x), ", column ",
       i % columns(x), " of group ", i / columns(x) / rows(x));
}

}  // namespace mige::bind
