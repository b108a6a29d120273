// The quantile of the pairwise distances of one group by radix selection (common/radix_select.h).
// Work: two passes over the m² / 2 values in the first round. This round typically leaves at most a
// fifth of the values, so the later rounds cost little.
#pragma once

#include <cmath>
#include <vector>

#include "common/radix_select.h"
#include "cpu/simd.h"

namespace mige::cpu {

// The element of rank `rank` (from 0) above the diagonal of s.
template <typename T>
MIGE_INLINE T select(const T* s, int64_t m, int64_t rank) {  // s [m, m]
  std::vector<int64_t> counts;
  std::vector<Key<T>> candidates;
  size_t kept = 0;
  // Finds the digit of one round and keeps the candidates with this digit. for_each_key(use) calls
  // use(key) for every candidate.
  const auto keep_digit = [&](int round, const auto& for_each_key) {
    counts.assign(kDigits, 0);
    int64_t* const count = counts.data();
    for_each_key([=](Key<T> key) { ++count[digit_of<T>(key, round)]; });
    int digit = 0;
    while (rank >= count[digit]) rank -= count[digit++];
    if (round == 0) candidates.resize(static_cast<size_t>(count[digit]) + 1);
    Key<T>* const candidate = candidates.data();
    size_t next = 0;
    for_each_key([=, &next](Key<T> key) {
      candidate[next] =
          key;  // no branch: if `next` does not grow, the next key overwrites this one
      next += digit_of<T>(key, round) == digit;
    });
    kept = next;
  };
  keep_digit(0, [=](const auto& use) {
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = i + 1; j < m; ++j) use(key_of(s[i * m + j]));
  });
  for (int round = 1; round < kSelectRounds<T> && kept > 1; ++round)
    keep_digit(round, [count = kept, keys = candidates.data()](const auto& use) {
      for (size_t i = 0; i < count; ++i) use(keys[i]);
    });
  return value_of<T>(candidates[0]);
}

// The element of rank ceil(quantile · n), at least 1, among the n = m (m − 1) / 2 entries above the
// diagonal. If this element is 0, which is not a bandwidth, the quantile is taken among the
// positive entries. The result is 0 only if all points are equal.
template <int kBytes, typename T>
MIGE_INLINE T upper_quantile_impl(const T* s,  // [m, m], non-negative
                                  int64_t m, double quantile) {
  const int64_t pairs = m * (m - 1) / 2;
  if (pairs == 0) return T(0);
  const T value = select(s, m, quantile_rank(quantile, pairs));
  if (value > T(0)) return value;
  int64_t zeros = 0;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = i + 1; j < m; ++j) zeros += s[i * m + j] == T(0);
  if (zeros == pairs) return T(0);
  return select(s, m, zeros + quantile_rank(quantile, pairs - zeros));
}

MIGE_KERNEL(upper_quantile, upper_quantile_impl)

}  // namespace mige::cpu
