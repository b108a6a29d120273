// The vector types of CUDA with the alignments of CUDA, and the bit casts between numbers.
#pragma once

#include <cstring>

#define MIGE_EMULATOR_VECTORS(T, name, align2, align4)               \
  struct name##1 { T x; };                                           \
  struct alignas(align2) name##2 { T x, y; };                        \
  struct name##3 { T x, y, z; };                                     \
  struct alignas(align4) name##4 { T x, y, z, w; };                  \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

MIGE_EMULATOR_VECTORS(int, int, 8, 16)
MIGE_EMULATOR_VECTORS(unsigned, uint, 8, 16)
MIGE_EMULATOR_VECTORS(long long, longlong, 16, 16)
MIGE_EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
MIGE_EMULATOR_VECTORS(float, float, 8, 16)
MIGE_EMULATOR_VECTORS(double, double, 16, 16)
#undef MIGE_EMULATOR_VECTORS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace mige::emulator {

template <typename To, typename From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

}  // namespace mige::emulator

inline int __float_as_int(float v) { return mige::emulator::bits_as<int>(v); }
inline unsigned __float_as_uint(float v) { return mige::emulator::bits_as<unsigned>(v); }
inline float __int_as_float(int v) { return mige::emulator::bits_as<float>(v); }
inline float __uint_as_float(unsigned v) { return mige::emulator::bits_as<float>(v); }
inline long long __double_as_longlong(double v) { return mige::emulator::bits_as<long long>(v); }
inline double __longlong_as_double(long long v) { return mige::emulator::bits_as<double>(v); }
