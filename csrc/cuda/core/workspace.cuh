// The workspace of an operator: several arrays in one allocation.
//
// A struct of arrays derives from Workspace and takes each array in the initializer of its member.
// A struct that starts from a copy of another struct's Workspace puts its arrays after those of the
// other struct.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mige::cuda {

// With start = nullptr, take() only counts bytes. The same struct can therefore also compute the
// size of the workspace.
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

  // The number of bytes taken so far.
  int64_t size() const { return static_cast<int64_t>(size_); }

 private:
  char* start_;
  size_t size_ = 0;
};

}  // namespace mige::cuda
