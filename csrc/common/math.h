// Formulas for single elements, for the CPU and the CUDA kernels.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#ifdef __CUDACC__
#define MIGE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define MIGE_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace mige {

// Device code may not call std::numeric_limits<T>::max(), but may use constants.
template <typename T>
constexpr T kLargestFinite = std::numeric_limits<T>::max();
template <typename T>
constexpr T kSmallestNormal = std::numeric_limits<T>::min();
template <typename T>
constexpr T kEpsilon = std::numeric_limits<T>::epsilon();

MIGE_HOST_DEVICE constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <typename T>
MIGE_HOST_DEVICE T median_of_five(T a, T b, T c, T d, T e) {
  const auto low = [](T u, T v) { return u < v ? u : v; };
  const auto high = [](T u, T v) { return u < v ? v : u; };
  const T f = high(low(a, b), low(c, d));
  const T g = low(high(a, b), high(c, d));
  return high(low(e, f), low(high(e, f), g));
}

// The constants of exp_nonpositive for one floating-point type.
template <typename T>
struct ExpTraits;

template <>
struct ExpTraits<float> {
  using Bits = int32_t;
  static constexpr int kMantissa = 23;
  static constexpr float kMagic = 12582912.0f;       // 1.5 * 2^23; adding it rounds to an integer
  static constexpr float kLn2High = 0.693359375f;    // has 9 bits, so n * kLn2High is exact
  static constexpr float kLn2Low = -2.12194440e-4f;  // ln 2 − kLn2High
  static constexpr float kLowest = -87.33654f;       // ln of the smallest normal number
  static constexpr int kDegree = 7;                  // degree of the Taylor polynomial
};

template <>
struct ExpTraits<double> {
  using Bits = int64_t;
  static constexpr int kMantissa = 52;
  static constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 6.93145751953125e-1;
  static constexpr double kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kLowest = -708.3964185322641;
  static constexpr int kDegree = 13;
};

MIGE_HOST_DEVICE constexpr double factorial(int i) { return i < 2 ? 1.0 : i * factorial(i - 1); }

// Σ_{i=I}^{N} f^(i−I) / i! by Horner's rule; for I = 0 the Taylor polynomial of e^f. The recursion
// unrolls the sum, so that loops over elements vectorize.
template <int I, int N, typename T>
MIGE_HOST_DEVICE T taylor_exp(T f) {
  constexpr T kCoefficient = T(1.0 / factorial(I));
  if constexpr (I == N)
    return kCoefficient;
  else
    return kCoefficient + f * taylor_exp<I + 1, N>(f);
}

// e^x for x <= 0, with an error of at most 2 ulp. The result is 0 below the logarithm of the
// smallest normal number, and NaN for NaN.
//
// Let x = n ln 2 + f with |f| <= ln 2 / 2. The Taylor polynomial gives e^f with a remainder below a
// tenth of an ulp. An addition to the exponent bits then multiplies e^f by 2^n. The function has no
// branch, so loops over elements vectorize, unlike with std::exp.
template <typename T>
MIGE_HOST_DEVICE T exp_nonpositive(T x) {
  using Traits = ExpTraits<T>;
  const T clamped = x < Traits::kLowest ? Traits::kLowest : x;
  const T shifted = clamped * T(1.4426950408889634074) + Traits::kMagic;
  const T n = shifted - Traits::kMagic;
  const T f = (clamped - n * Traits::kLn2High) - n * Traits::kLn2Low;

  T p = taylor_exp<0, Traits::kDegree>(f);

  // The low bits of `shifted` hold n. Adding them to the exponent field multiplies by 2^n.
  typename Traits::Bits exponent, result;
  std::memcpy(&exponent, &shifted, sizeof(T));
  std::memcpy(&result, &p, sizeof(T));
  using Unsigned = unsigned long long;
  result = static_cast<typename Traits::Bits>(
      static_cast<Unsigned>(result) + (static_cast<Unsigned>(exponent) << Traits::kMantissa));
  std::memcpy(&p, &result, sizeof(T));
  // The addition to the bits of a NaN may give a number, so NaN is returned explicitly.
  return x < Traits::kLowest ? T(0) : (x == x ? p : x);
}

// The RBF kernel φ(s) = exp(-γ s), with s = ‖x − y‖² and γ = 1 / 2σ².
template <typename T>
MIGE_HOST_DEVICE T rbf(T squared_distance, T gamma) {
  return exp_nonpositive(-gamma * squared_distance);
}

// The exponent e with 2^e <= |v| < 2^(e+1); −1023 for 0. Kernels multiply their data by 2^−e, which
// is exact, so that squares of data of size 1e30 or 1e-30 stay in the range of float.
MIGE_HOST_DEVICE int exponent_of(double v) {
  int64_t bits;
  std::memcpy(&bits, &v, sizeof(v));
  return static_cast<int>((bits >> 52) & 0x7ff) - 1023;
}

// 2^e, with e limited to the exponents for which 2^e and 2^-e are both normal numbers of T.
template <typename T>
MIGE_HOST_DEVICE T power_of_two(int e) {
  constexpr int kBound = sizeof(T) == 4 ? 126 : 1022;
  e = e > kBound ? kBound : (e < -kBound ? -kBound : e);
  const int64_t bits = static_cast<int64_t>(e + 1023) << 52;
  double v;
  std::memcpy(&v, &bits, sizeof(v));
  return static_cast<T>(v);
}

// `value`, limited to ±bound.
template <typename T>
MIGE_HOST_DEVICE T clamped(T value, T bound = kLargestFinite<T>) {
  return value > bound ? bound : (value < -bound ? -bound : value);
}

// v as a T, or ± the largest finite number if v is beyond the range of T.
template <typename T>
MIGE_HOST_DEVICE T saturate(double v) {
  return static_cast<T>(clamped<double>(v, kLargestFinite<T>));
}

// Whether v is positive and finite, as a bandwidth must be.
template <typename T>
MIGE_HOST_DEVICE bool is_positive_and_finite(T v) {
  return v > T(0) && v - v == T(0);
}

// The power of two that brings the largest coordinate near 2^50 in float and near 2^450 in double.
// In float, squared differences are then at most 2^104, and their sums do not overflow. The square
// of a coordinate that is 2^110 times smaller is 2^-120, which does not underflow, so one far
// outlier does not affect the accuracy of the other samples.
template <typename T>
MIGE_HOST_DEVICE T normal_scale(T largest) {
  constexpr int kTop = sizeof(T) == 4 ? 50 : 450;
  return power_of_two<T>(kTop - exponent_of(static_cast<double>(largest)));
}

// The constants for an RBF kernel of bandwidth σ. The caller multiplies coordinates by `scale`, a
// power of two, so that their squares stay in the range of T, and σ² in the range of double. (A σ
// of more than 2^62 times the largest coordinate makes all kernel values equal anyway.)
template <typename T>
struct ScaledBandwidth {
  T scale;
  T gamma;             // 1 / 2(scale σ)²
  T inverse_variance;  // 1 / (scale σ)²

  // Chooses a scale near 1 / σ, or a smaller scale if coordinates of size `largest` would overflow.
  static MIGE_HOST_DEVICE ScaledBandwidth of(T sigma, T largest) {
    const T near_one = power_of_two<T>(-exponent_of(static_cast<double>(sigma)));
    const T allowed = normal_scale(largest);
    return ScaledBandwidth(sigma, near_one < allowed ? near_one : allowed);
  }

  MIGE_HOST_DEVICE ScaledBandwidth(T sigma, T scale_) : scale(scale_) {
    const double scaled = static_cast<double>(sigma) * static_cast<double>(scale);
    gamma = saturate<T>(0.5 / (scaled * scaled));
    inverse_variance = saturate<T>(1 / (scaled * scaled));
  }
};

}  // namespace mige
