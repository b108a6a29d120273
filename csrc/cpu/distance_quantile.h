// The quantile of the pairwise distances of one group by radix selection (common/radix_select.h),
// which is exact and linear in the number of pairs. For distances the first round leaves a fifth of
// the candidates or less, so the selection costs about two passes over m² / 2 values.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/radix_select.h"
#include "cpu/simd.h"

namespace mige::cpu {

// The bucket that holds the element of the wanted rank, and the rank of this element in the bucket.
struct Bucket {
  size_t digit;
  int64_t rank;
  int64_t size;
};

inline Bucket find_bucket(const std::vector<int64_t>& count, int64_t rank) {
  size_t digit = 0;
  while (rank >= count[digit]) rank -= count[digit++];
  return {digit, rank, count[digit]};
}

// The element of rank `rank` (from 0) above the diagonal of s.
template <typename T>
MIGE_INLINE T select(const T* s, int64_t m, int64_t rank) {
  int shift = kKeyBits<T> - kDigitBits;
  std::vector<int64_t> count(kDigits, 0);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = i + 1; j < m; ++j) ++count[key_of(s[i * m + j]) >> shift];
  Bucket bucket = find_bucket(count, rank);

  std::vector<Key<T>> candidates(static_cast<size_t>(bucket.size) + 1);
  size_t kept = 0;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = i + 1; j < m; ++j) {
      const Key<T> key = key_of(s[i * m + j]);
      candidates[kept] = key;  // without a branch: the next line decides whether it is kept
      kept += (key >> shift) == bucket.digit;
    }

  while (kept > 1 && shift > 0) {
    shift = std::max(0, shift - kDigitBits);
    std::fill(count.begin(), count.end(), 0);
    for (size_t i = 0; i < kept; ++i) ++count[(candidates[i] >> shift) & (kDigits - 1)];
    bucket = find_bucket(count, bucket.rank);
    size_t next = 0;
    for (size_t i = 0; i < kept; ++i) {
      const Key<T> key = candidates[i];
      candidates[next] = key;
      next += ((key >> shift) & (kDigits - 1)) == bucket.digit;
    }
    kept = next;
  }
  return value_of<T>(candidates[0]);
}

// The element of rank ceil(quantile · n), at least 1, among the n = m (m − 1) / 2 entries above the
// diagonal. If this element is 0, because many pairs coincide, the quantile is taken among the
// positive entries, since 0 is not a bandwidth. The result is 0 only if all points are equal.
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
