// Chooses the instruction set of the kernels.
#include <cstdlib>

#include "cpu/simd.h"

namespace mige::cpu {
namespace {

int detect() {
  int best = 1;
#ifdef MIGE_HAVE_X86_LEVELS
  __builtin_cpu_init();
  const auto has_v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const auto has_v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  best = has_v3 ? (has_v4 ? 4 : 3) : 1;
#endif
  const char* asked = std::getenv("MIGE_CPU_LEVEL");
  const int bound = asked ? std::atoi(asked) : best;
  if (bound <= 0 || bound >= best) return best;  // not a number, or not a lower level
  return bound >= 3 ? 3 : 1;
}

}  // namespace

int level() {
  static const int value = detect();
  return value;
}

}  // namespace mige::cpu
