// Vectors, one version of a kernel for each instruction set, and scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

#include "common/math.h"

#define MIGE_INLINE inline __attribute__((always_inline))

namespace mige::cpu {

// Tiles are 64 bytes wide: one register of AVX-512, two of AVX2, or four of SSE2 or NEON. A kernel
// is compiled for each size of a register, the template parameter kBytes = 64, 32 or 16. (64-byte
// vectors made the AVX2 version five times slower.)
constexpr int64_t kVectorBytes = 64;

template <typename T>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));

template <typename T, int kBytes>
struct PieceOf {
  typedef T type __attribute__((vector_size(kBytes)));
};
template <typename T, int kBytes>
using Piece = typename PieceOf<T, kBytes>::type;

// kLanes<T> numbers, in kPieces registers of kBytes each.
template <typename T, int kBytes>
struct Vector {
  static constexpr int kPieces = kVectorBytes / kBytes;
  Piece<T, kBytes> piece[kPieces];
};

// The x86-64 level whose instructions are used: 4 (AVX-512), 3 (AVX2 and FMA) or 1 (SSE2, or a
// processor that is not x86-64). The environment variable MIGE_CPU_LEVEL can lower the level.
int level();

// Defines `name`, which calls the version of impl<kBytes> that was compiled for the processor's
// level.
#ifdef MIGE_HAVE_X86_LEVELS
#define MIGE_KERNEL(name, impl)                                                              \
  template <typename... A>                                                                   \
  __attribute__((target("arch=x86-64-v4"))) auto name##_v4(A... a) {                         \
    return impl<64>(a...);                                                                   \
  }                                                                                          \
  template <typename... A>                                                                   \
  __attribute__((target("arch=x86-64-v3"))) auto name##_v3(A... a) {                         \
    return impl<32>(a...);                                                                   \
  }                                                                                          \
  template <typename... A>                                                                   \
  auto name(A... a) {                                                                        \
    return level() >= 4 ? name##_v4(a...) : level() >= 3 ? name##_v3(a...) : impl<16>(a...); \
  }
#else
#define MIGE_KERNEL(name, impl) \
  template <typename... A>      \
  auto name(A... a) {           \
    return impl<16>(a...);      \
  }
#endif

// Uninitialized scratch memory, aligned to a vector.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(bytes(count), std::align_val_t(kVectorBytes)))) {}
  T* get() const { return data_.get(); }
  T& operator[](int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(kVectorBytes)); }
  };
  static size_t bytes(int64_t count) {
    constexpr auto kMost = std::numeric_limits<int64_t>::max() / static_cast<int64_t>(sizeof(T));
    if (count < 0 || count > kMost) throw std::bad_alloc();
    return static_cast<size_t>(count) * sizeof(T);
  }

  std::unique_ptr<T, Free> data_;
};

}  // namespace mige::cpu
