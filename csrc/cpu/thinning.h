// The samples of one group that take part in the choice of λ. common/thinning_rule.h has the rule.
// Work: two passes over m² / 2 values, and a third if near-coincident pairs are left out.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/thinning_rule.h"
#include "cpu/simd.h"

namespace mige::cpu {

// The squared distances from one sample to its nearest neighbors, ascending.
template <typename T>
struct Neighbors {
  T nearest[kMostNeighbors];

  void insert(T s) {
    if (!(s < nearest[kMostNeighbors - 1])) return;
    int at = kMostNeighbors - 1;
    for (; at > 0 && s < nearest[at - 1]; --at) nearest[at] = nearest[at - 1];
    nearest[at] = s;
  }
};

// Steps 2 and 3 of the rule. Clears `kept` of the samples that are left out.
template <typename T>
void leave_out_near(const T* s,  // [m, m], of which entries above the diagonal are read
                    int64_t m, int64_t n,
                    char* kept) {  // [m], n of them set
  std::vector<Neighbors<T>> of(static_cast<size_t>(m));
  for (auto& neighbors : of)
    std::fill_n(neighbors.nearest, kMostNeighbors, std::numeric_limits<T>::infinity());
  for (int64_t i = 0; i < m; ++i) {
    if (!kept[i]) continue;
    for (int64_t j = i + 1; j < m; ++j) {
      if (!kept[j]) continue;
      of[i].insert(s[i * m + j]);
      of[j].insert(s[i * m + j]);
    }
  }
  const int inner = inner_neighbor(n) - 1, outer = outer_neighbor(n) - 1;
  double sum = 0;
  for (int64_t i = 0; i < m; ++i)
    if (kept[i])
      sum += std::log(static_cast<double>(of[i].nearest[outer]) /
                      static_cast<double>(of[i].nearest[inner]));
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
  const double ratio = thinning_ratio(thinning_level(0), half);
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

// Sets `kept` of the samples that take part in the choice, and returns their number. All samples
// are kept if fewer than two are distinct.
template <typename T>
int64_t thin(const T* s,  // [m, m], of which entries above the diagonal are read
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

// The nearest kept sample of sample i.
template <typename T>
int64_t nearest_kept(const T* s,  // [m, m], of which entries above the diagonal are read
                     int64_t m, const char* kept, int64_t i) {
  int64_t nearest = -1;
  T least = 0;
  for (int64_t j = 0; j < m; ++j) {
    if (!kept[j]) continue;
    const T distance = i < j ? s[i * m + j] : s[j * m + i];
    if (nearest >= 0 && !(distance < least)) continue;
    nearest = j;
    least = distance;
  }
  return nearest;
}

}  // namespace mige::cpu
