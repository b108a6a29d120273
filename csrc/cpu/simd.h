// What the CPU kernels share: one vector type, function clones per instruction set, scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#define MIGE_INLINE inline __attribute__((always_inline))

// A function marked so is compiled once for every listed level; the loader picks the best one that
// the processor has, so that one binary serves every x86-64. CMake checks whether the compiler can.
#ifdef MIGE_HAVE_TARGET_CLONES
#define MIGE_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define MIGE_CLONES
#endif

namespace mige::cpu {

constexpr int64_t kVectorBytes = 64;

// One AVX-512 register, two AVX2 or four SSE2 ones: the compiler splits it as the clone needs.
template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  typedef T unaligned __attribute__((vector_size(kVectorBytes), aligned(alignof(T)), may_alias));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Uninitialised scratch memory on a vector boundary.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(static_cast<size_t>(count) * sizeof(T),
                                             std::align_val_t(kVectorBytes)))) {}
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(kVectorBytes)); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace mige::cpu
