// What the CPU kernels share: vectors, a version of each kernel per instruction set, scratch
// memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "common/math.h"

#define MIGE_INLINE inline __attribute__((always_inline))

namespace mige::cpu {

// Tiles are 64 bytes wide: one AVX-512 register, two AVX2, four SSE2 or NEON ones. Kernels are
// written for pieces of kBytes = 64, 32 or 16 and compiled for each; handing the compiler 64-byte
// vectors where registers have 32 made the AVX2 version five times slower than need be.
constexpr int64_t kVectorBytes = 64;

template <typename T>
constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));

template <typename T, int kBytes>
struct PieceOf {
  typedef T type __attribute__((vector_size(kBytes)));
};
template <typename T, int kBytes>
using Piece = typename PieceOf<T, kBytes>::type;

// kLanes<T> numbers side by side.
template <typename T, int kBytes>
struct Vector {
  static constexpr int kPieces = kVectorBytes / kBytes;
  Piece<T, kBytes> piece[kPieces];
};

// The x86-64 level whose instructions are used: 4 (AVX-512), 3 (AVX2 and FMA) or 1 (SSE2; also any
// other processor). The environment variable MIGE_CPU_LEVEL lowers it, so that tests reach all.
int level();

// Defines the kernel `name` of kernels.h for one T, from name_impl<kBytes>. `parameters` and
// `arguments` are in parentheses.
#ifdef MIGE_HAVE_X86_LEVELS
#define MIGE_KERNEL(result, name, parameters, arguments)                         \
  __attribute__((target("arch=x86-64-v4"))) static result name##_v4 parameters { \
    return name##_impl<64> arguments;                                            \
  }                                                                              \
  __attribute__((target("arch=x86-64-v3"))) static result name##_v3 parameters { \
    return name##_impl<32> arguments;                                            \
  }                                                                              \
  template <>                                                                    \
  result name parameters {                                                       \
    return level() >= 4   ? name##_v4 arguments                                  \
           : level() >= 3 ? name##_v3 arguments                                  \
                          : name##_impl<16>                                      \
                                arguments;                                       \
  }
#else
#define MIGE_KERNEL(result, name, parameters, arguments) \
  template <>                                            \
  result name parameters {                               \
    return name##_impl<16> arguments;                    \
  }
#endif

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
