// Selects the samples of one group from which λ is chosen. common/thinning_rule.h has the rule.
// Work: about three passes over m² squared distances.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/thinning_rule.h"
#include "cpu/simd.h"

namespace mige::cpu {

// The squared distances from one sample to its nearest neighbors, in ascending order.
template <typename T>
struct Neighbors {
  T nearest[kMostNeighbors];
};

// The number of values below `limit`. Comparing vectors gives −1 in each lane where the comparison
// is true.
template <int kBytes, typename T>
MIGE_INLINE int64_t count_below(const T* row, int64_t m, T limit) {  // row [m]
  constexpr int64_t kWidth = kBytes / static_cast<int64_t>(sizeof(T));
  Piece<T, kBytes> values{};
  decltype(values < values) sums{};
  int64_t j = 0;
  for (; j + kWidth <= m; j += kWidth) {
    std::memcpy(&values, row + j, kBytes);
    sums -= values < limit;
  }
  int64_t count = 0;
  for (int64_t l = 0; l < kWidth; ++l) count += sums[l];
  for (; j < m; ++j) count += row[j] < limit;
  return count;
}

// Copies the values below `limit` of the kept samples other than i, and returns their number.
template <int kBytes, typename T>
MIGE_INLINE int64_t values_below(const T* row,      // [m]
                                 const char* kept,  // [m]
                                 int64_t m, int64_t i, T limit,
                                 T* out) {  // [m + 1]
  int64_t count = 0;
  const auto copy = [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      out[count] = row[j];  // no branch: if `count` does not grow, this value is overwritten
      count += kept[j] & (row[j] < limit);
    }
  };
  copy(0, i);
  copy(i + 1, m);
  return count;
}

// Writes the smallest values in ascending order, then infinities. For up to 64 values, the position
// of a value is the number of smaller values. Counting with vectors is faster than an insertion
// sort.
template <int kBytes, typename T>
MIGE_INLINE void sort_least(const T* values, int64_t count, T* least) {  // least [kMostNeighbors]
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  constexpr int64_t kFew = 64;
  std::fill_n(least, kMostNeighbors, kInfinity);
  if (count <= kFew) {
    constexpr int64_t kWidth = kBytes / static_cast<int64_t>(sizeof(T));
    Piece<T, kBytes> some{};
    for (int64_t begin = 0; begin < count; begin += kWidth) {
      for (int64_t k = 0; k < kWidth; ++k)
        some[k] = begin + k < count ? values[begin + k] : kInfinity;
      decltype(some < some) places{};
      for (int64_t l = 0; l < count; ++l) places -= values[l] < some;
      for (int64_t k = 0; k < kWidth && begin + k < count; ++k) {
        auto at = places[k];
        while (at < kMostNeighbors && least[at] == some[k]) ++at;  // equal values
        if (at < kMostNeighbors) least[at] = some[k];
      }
    }
    return;
  }
  for (int64_t k = 0; k < count; ++k) {
    const T value = values[k];
    if (!(value < least[kMostNeighbors - 1])) continue;
    int at = kMostNeighbors - 1;
    for (; at > 0 && value < least[at - 1]; --at) least[at] = least[at - 1];
    least[at] = value;
  }
}

// Writes the nearest neighbors of the kept samples, and returns the sum of log(s_outer / s_inner).
template <int kBytes, typename T>
MIGE_INLINE double find_neighbors_impl(const T* s,        // [m, m]
                                       const char* kept,  // [m]
                                       int64_t m, int inner, int outer,
                                       T* near,             // [m + 1], scratch
                                       Neighbors<T>* of) {  // [m]
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  double sum = 0;
  T limit = kInfinity;
  for (int64_t i = 0; i < m; ++i) {
    if (!kept[i]) continue;
    // `limit` is adjusted until the outer neighbor and few farther samples are below it. (The count
    // includes the sample itself and samples that are not kept.)
    const T* const row = s + i * m;
    int64_t count = 0;
    for (int round = 0; round < 8 && limit < kInfinity; ++round) {
      const int64_t below = count_below<kBytes>(row, m, limit);
      if (below > outer + 1 && below <= 2 * outer + 2) {
        count = values_below<kBytes>(row, kept, m, i, limit, near);
        break;
      }
      limit *= below > outer + 1 ? T(0.85) : T(1.3);
    }
    if (count <= outer) count = values_below<kBytes>(row, kept, m, i, kInfinity, near);
    sort_least<kBytes>(near, count, of[i].nearest);
    const auto of_outer = static_cast<double>(of[i].nearest[outer]);
    sum += std::log(of_outer / static_cast<double>(of[i].nearest[inner]));
    limit = static_cast<T>(1.2 * of_outer);
  }
  return sum;
}

MIGE_KERNEL(find_neighbors, find_neighbors_impl)

// Steps 2 and 3 of the rule. Sets `kept` to 0 for the samples that are left out.
template <typename T>
void leave_out_near(const T* s,  // [m, m]
                    int64_t m, int64_t n,
                    char* kept) {  // [m]; 1 for the n distinct samples
  std::vector<Neighbors<T>> of(static_cast<size_t>(m));
  const int inner = inner_neighbor(n) - 1, outer = outer_neighbor(n) - 1;
  const Buffer<T> near(m + 1);
  const double sum =
      find_neighbors(s, static_cast<const char*>(kept), m, inner, outer, near.get(), of.data());
  const double half = half_dimension(n, sum / static_cast<double>(n));
  bool leave_out = false;
  for (int level = 0; level < kThinningLevels; ++level) {
    const double ratio = thinning_ratio(thinning_level(level), half);
    int64_t count = 0;
    for (int64_t i = 0; i < m; ++i)
      count += kept[i] && static_cast<double>(of[i].nearest[0]) <
                              ratio * static_cast<double>(of[i].nearest[kScaleNeighbor - 1]);
    leave_out |= too_many(count, n, thinning_level(level));
  }
  if (!leave_out) return;
  const double ratio = thinning_ratio(kSeparationLevel, half);
  std::vector<char> distinct(kept, kept + m);
  for (int64_t i = 0; i < m; ++i) {
    if (!distinct[i]) continue;
    const T scale = of[i].nearest[kScaleNeighbor - 1];
    for (int64_t j = i + 1; j < m; ++j) {
      if (!distinct[j]) continue;
      const T other = of[j].nearest[kScaleNeighbor - 1];
      if (static_cast<double>(s[i * m + j]) < ratio * static_cast<double>(std::min(scale, other)))
        kept[other > scale ? i : j] = 0;
    }
  }
}

// Sets `kept` to 1 for the samples from which λ is chosen and to 0 for all others, and returns the
// number of kept samples. If fewer than two samples are distinct, all samples are kept.
template <typename T>
int64_t thin(const T* s,  // [m, m]
             int64_t m, int64_t r,
             char* kept) {  // [m]
  std::fill_n(kept, m, char(1));
  const T tolerance = coincidence<T>(r);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = i + 1; j < m; ++j) kept[j] &= !(s[i * m + j] <= tolerance);
  const int64_t n = std::count(kept, kept + m, char(1));
  if (n < 2) {
    std::fill_n(kept, m, char(1));
    return m;
  }
  if (n < kFewestDistinct) return n;
  leave_out_near(s, m, n, kept);
  return std::count(kept, kept + m, char(1));
}

// The index of the kept sample that is nearest to sample i.
template <typename T>
int64_t nearest_kept(const T* s,  // [m, m]
                     int64_t m,
                     const char* kept,  // [m]
                     int64_t i) {
  int64_t nearest = -1;
  T least = 0;
  for (int64_t j = 0; j < m; ++j) {
    if (!kept[j]) continue;
    const T distance = s[i * m + j];
    if (nearest >= 0 && !(distance < least)) continue;
    nearest = j;
    least = distance;
  }
  return nearest;
}

}  // namespace mige::cpu
