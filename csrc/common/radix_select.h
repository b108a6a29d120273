// Radix selection of an order statistic, for CPU and CUDA: the keys, their digits, and the rank.
//
// The key of a non-negative floating-point number is its bits, read as an unsigned integer. Keys
// have the order of their numbers, and NaN comes after infinity. Each round finds one digit of the
// wanted key, from the highest to the lowest: it counts how often every value of this digit occurs,
// the wanted rank determines the value, and only keys with this value remain.
#pragma once

#include <cmath>

#include "common/math.h"

namespace mige {

constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;

// CUDA's atomic functions take these integer types.
template <typename T>
struct KeyOf;
template <>
struct KeyOf<float> {
  using type = unsigned;
  static constexpr type kInfinity = 0x7f800000u;
};
template <>
struct KeyOf<double> {
  using type = unsigned long long;
  static constexpr type kInfinity = 0x7ff0000000000000ull;
};
template <typename T>
using Key = typename KeyOf<T>::type;

template <typename T>
constexpr int kKeyBits = 8 * sizeof(T) - 1;  // without the sign

// The number of rounds of the selection.
template <typename T>
constexpr int kSelectRounds = divide_up(kKeyBits<T>, kDigitBits);

// The position of the lowest bit of the digit that a round finds.
template <typename T>
MIGE_HOST_DEVICE constexpr int digit_shift(int round) {
  const int shift = kKeyBits<T> - kDigitBits * (round + 1);
  return shift > 0 ? shift : 0;
}

template <typename T>
MIGE_HOST_DEVICE int digit_of(Key<T> key, int round) {
  // The last digit has fewer bits if kDigitBits does not divide the bits of the key.
  const int above = round == 0 ? kKeyBits<T> : digit_shift<T>(round - 1);
  const int shift = digit_shift<T>(round);
  return static_cast<int>(key >> shift) & ((1 << (above - shift)) - 1);
}

template <typename T>
MIGE_HOST_DEVICE Key<T> key_of(T v) {
  Key<T> key;
  memcpy(&key, &v, sizeof(T));
  return key;
}

template <typename T>
MIGE_HOST_DEVICE T value_of(Key<T> key) {
  T v;
  memcpy(&v, &key, sizeof(T));
  return v;
}

// The index max(ceil(quantile n), 1) − 1 of the quantile among n > 0 sorted numbers.
template <typename Count>
MIGE_HOST_DEVICE Count quantile_rank(double quantile, Count n) {
  const double position = ceil(quantile * static_cast<double>(n)) - 1;
  const Count rank = position > 0 ? static_cast<Count>(position) : 0;
  return rank < n ? rank : n - 1;
}

// The bandwidth from `square`, the selected squared distance of coordinates that were multiplied by
// `scale`. It is 0 if all samples are equal, and otherwise at least `smallest`.
template <typename T>
MIGE_HOST_DEVICE T bandwidth_of(T square, T scale, double multiplier, T smallest) {
  if (square == T(0)) return T(0);
  const T sigma =
      saturate<T>(multiplier * sqrt(static_cast<double>(square)) / static_cast<double>(scale));
  return sigma > smallest ? sigma : smallest;
}

}  // namespace mige
