// The workspace of an operator: arrays cut from one allocation.
//
// A layout derives from Workspace and takes its arrays in its members' initializers, so that each
// array has one line. A layout that continues from another one begins with a copy of it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mige::cuda {

// Over nullptr it only counts, so the layout of a workspace also gives its size.
class Workspace {
 public:
  explicit Workspace(void* start) : start_(static_cast<char*>(start)) {}

  template <typename U>
  U* take(int64_t count) {
    constexpr size_t kAlignment = 256;
    char* const at = start_ ? start_ + size_ : nullptr;
    size_ += (static_cast<size_t>(count) * sizeof(U) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<U*>(at);
  }

  // Bytes taken so far.
  int64_t size() const { return static_cast<int64_t>(size_); }

 private:
  char* start_;
  size_t size_ = 0;
};

}  // namespace mige::cuda
