// Which samples take part in the choice of λ, base and bandwidth. common/thinning_rule.h has the
// rule and defines s_1 and s_6. The squared distances to the samples that are left out become
// infinite, so that these samples have K = 0 with all others and do not count.
#pragma once

#include "common/radix_select.h"
#include "common/thinning_rule.h"
#include "cuda/core/reduce.cuh"
#include "cuda/core/workspace.cuh"

namespace mige::cuda {

template <typename T>
struct Thinning : Workspace {
  T* s;  // [groups, m, m], squared distances
  int64_t groups, m, r;
  T* left_out;  // [groups]

  int32_t* distinct = take<int32_t>(groups * m);  // 1 or 0
  int32_t* kept = take<int32_t>(groups * m);      // 1 or 0
  int32_t* nearest = take<int32_t>(groups * m);   // the nearest kept sample
  T* first = take<T>(groups * m);                 // s_1
  T* scale = take<T>(groups * m);                 // s_6
  double* log_ratio = take<double>(groups * m);   // log(s_outer / s_inner)
  double* separation = take<double>(groups);      // the largest s / s_6 of close pairs, or 0
  int32_t* count = take<int32_t>(groups);         // number of samples that are kept

  __device__ __forceinline__ bool all_kept(int64_t g) const { return count[g] == m; }
};

// Whether (s, j) is before (other_s, other_j) in the order of s, then of j.
template <typename T>
__device__ __forceinline__ bool before(T s, int64_t j, T other_s, int64_t other_j) {
  return s < other_s || (s == other_s && j < other_j);
}

// The first of the pairs (s, j) that were added; (∞, m) without any.
template <typename T>
struct First {
  T s;
  int64_t j;

  __device__ __forceinline__ explicit First(int64_t m)
      : s(value_of<T>(KeyOf<T>::kInfinity)), j(m) {}

  __device__ __forceinline__ void add(T other_s, int64_t other_j) {
    if (!before(other_s, other_j, s, j)) return;
    s = other_s;
    j = other_j;
  }

  // Adds the pairs of all other lanes. All lanes of the warp call it.
  __device__ __forceinline__ void add_lanes() {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const T other_s = __shfl_xor_sync(kFullMask, s, offset);
      add(other_s, __shfl_xor_sync(kFullMask, j, offset));
    }
  }
};

// The sum of m flags, for all lanes of a warp.
__device__ __forceinline__ int warp_count(const int32_t* flags, int64_t m) {
  int count = 0;
  for (int64_t l = threadIdx.x % kWarp; l < m; l += kWarp) count += flags[l];
  return warp_sum(count);
}

// Calls f(g, flags of group g, their sum) for each group, groups along y.
template <typename T, typename F>
__device__ __forceinline__ void for_each_group(const Thinning<T>& p,
                                               const int32_t* flags,  // [groups, m]
                                               const F& f) {
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    const int32_t* const of_group = flags + g * p.m;
    f(g, of_group, warp_count(of_group, p.m));
  }
}

// Marks the samples that do not coincide with an earlier one. A warp takes a row, groups along y.
// Work: reads m² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) distinct_kernel(Thinning<T> p) {
  const int lane = threadIdx.x % kWarp;
  const T tolerance = coincidence<T>(p.r);
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y)
    for_each_row(p.m, [&](int64_t i) {
      const T* const row = p.s + (g * p.m + i) * p.m;
      int copies = 0;
      for (int64_t j = lane; j < i; j += kWarp) copies += row[j] <= tolerance;
      copies = warp_sum(copies);
      if (lane == 0) p.distinct[g * p.m + i] = copies == 0;
    });
}

// Finds the neighbors of each distinct sample, one rank after the other. A warp takes a row, groups
// along y. Work: reads 20 m² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) neighbors_kernel(Thinning<T> p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t m = p.m;
  for_each_group(p, p.distinct, [&](int64_t g, const int32_t* distinct, int n) {
    if (n < kFewestDistinct) return;
    const int inner = inner_neighbor(n), outer = outer_neighbor(n);
    for_each_row(m, [&](int64_t i) {
      if (distinct[i] == 0) return;
      const T* const row = p.s + (g * m + i) * m;
      T last = T(-1), at_inner = T(1);
      int64_t last_j = -1;
      for (int rank = 1; rank <= outer; ++rank) {
        First<T> next(m);
        for (int64_t j = lane; j < m; j += kWarp)
          if (distinct[j] != 0 && j != i && before(last, last_j, row[j], j)) next.add(row[j], j);
        next.add_lanes();
        last = next.s;
        last_j = next.j;
        if (rank == inner) at_inner = last;
        if (lane == 0 && rank == 1) p.first[g * m + i] = last;
        if (lane == 0 && rank == kScaleNeighbor) p.scale[g * m + i] = last;
      }
      if (lane == 0)
        p.log_ratio[g * m + i] = log(static_cast<double>(last) / static_cast<double>(at_inner));
    });
  });
}

// Decides whether close pairs are separated. A thread block takes a group. Work: reads
// 10 m values. Registers: at most 128.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 2) separation_kernel(Thinning<T> p) {
  __shared__ double sums[kRowWarps];
  const int64_t m = p.m;
  const auto total = [&](double value) { return block_sum<kRowWarps>(value, sums); };
  for (int64_t g = blockIdx.x; g < p.groups; g += gridDim.x) {
    const int32_t* const distinct = p.distinct + g * m;
    double count = 0, log_ratio = 0;
    for (int64_t i = threadIdx.x; i < m; i += kRowThreads) count += distinct[i];
    const auto n = static_cast<int64_t>(total(count));
    if (n < kFewestDistinct) {
      if (threadIdx.x == 0) p.separation[g] = 0;
      continue;
    }
    for (int64_t i = threadIdx.x; i < m; i += kRowThreads)
      if (distinct[i] != 0) log_ratio += p.log_ratio[g * m + i];
    const double half = half_dimension(n, total(log_ratio) / static_cast<double>(n));
    bool separate = false;
    for (int level = 0; level < kThinningLevels; ++level) {
      const double ratio = thinning_ratio(thinning_level(level), half);
      double close = 0;
      for (int64_t i = threadIdx.x; i < m; i += kRowThreads)
        close += distinct[i] != 0 && static_cast<double>(p.first[g * m + i]) <
                                         ratio * static_cast<double>(p.scale[g * m + i]);
      separate |= too_many(static_cast<int64_t>(total(close)), n, thinning_level(level));
    }
    if (threadIdx.x == 0) p.separation[g] = separate ? thinning_ratio(thinning_level(0), half) : 0;
  }
}

// Marks the samples that are kept. A warp takes a row, groups along y. Work: reads m² values.
// Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) separate_kernel(Thinning<T> p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t m = p.m;
  for_each_group(p, p.distinct, [&](int64_t g, const int32_t* distinct, int n) {
    const bool all = n < 2;
    const double ratio = p.separation[g];
    for_each_row(m, [&](int64_t i) {
      bool keep = all || distinct[i] != 0;
      if (keep && ratio > 0) {
        const T* const row = p.s + (g * m + i) * m;
        const T scale = p.scale[g * m + i];
        int larger = 0;
        for (int64_t j = lane; j < m; j += kWarp) {
          if (distinct[j] == 0 || j == i) continue;
          const T other = p.scale[g * m + j];
          const T least = other < scale ? other : scale;
          larger += static_cast<double>(row[j]) < ratio * static_cast<double>(least) &&
                    (other > scale || (other == scale && j < i));
        }
        keep = warp_sum(larger) == 0;
      }
      if (lane == 0) p.kept[g * m + i] = keep;
    });
  });
}

// Counts the samples that are kept, finds the nearest of them to each sample, and makes the
// distances to all other samples infinite. A warp takes a row, groups along y. Work: reads and
// writes m² values in groups from which samples are left out. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) mask_kernel(Thinning<T> p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t m = p.m;
  for_each_group(p, p.kept, [&](int64_t g, const int32_t* kept, int count) {
    if (blockIdx.x == 0 && threadIdx.x == 0) {
      p.count[g] = count;
      p.left_out[g] = static_cast<T>(static_cast<double>(m - count) / static_cast<double>(m));
    }
    if (count == m) return;
    for_each_row(m, [&](int64_t i) {
      T* const row = p.s + (g * m + i) * m;
      First<T> nearest(m);
      for (int64_t j = lane; j < m; j += kWarp) {
        if (kept[j] != 0) nearest.add(row[j], j);
        if (j != i && (kept[i] == 0 || kept[j] == 0)) row[j] = value_of<T>(KeyOf<T>::kInfinity);
      }
      nearest.add_lanes();
      if (lane == 0)
        p.nearest[g * m + i] = static_cast<int32_t>(kept[i] != 0 || nearest.j == m ? i : nearest.j);
    });
  });
}

template <typename T>
void thin(const Thinning<T>& p, Stream& stream) {
  const LaunchShape rows = row_warps(p.m, p.groups);
  stream.launch(distinct_kernel<T>, rows, p);
  stream.launch(neighbors_kernel<T>, rows, p);
  stream.launch(separation_kernel<T>, {{group_blocks(p.groups)}, kRowThreads}, p);
  stream.launch(separate_kernel<T>, rows, p);
  stream.launch(mask_kernel<T>, rows, p);
}

}  // namespace mige::cuda
