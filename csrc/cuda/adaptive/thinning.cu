// The kernels that leave near-coincident samples out of the choice of λ (thinning.cuh).
#include "common/radix_select.h"
#include "cuda/adaptive/thinning.cuh"
#include "cuda/core/scale.cuh"

namespace mige::cuda {
namespace {

// The smallest squared distance s_ij of a row and its index j are found as the largest −s_ij. At
// first the distance is infinite and the index is m.
template <typename T>
__device__ __forceinline__ Largest<T> no_neighbor(int64_t m) {
  return {-value_of<T>(KeyOf<T>::kInfinity), static_cast<int>(m)};
}

// The sum of the flags, which all lanes of a warp get.
__device__ __forceinline__ int warp_count(const int32_t* flags, int64_t m) {  // flags [m]
  int count = 0;
  for (int64_t l = threadIdx.x % kWarp; l < m; l += kWarp) count += flags[l];
  return warp_sum(count);
}

// Calls f(g, flags of group g, sum of these flags) for the groups that blockIdx.y selects.
template <typename T, typename F>
__device__ __forceinline__ void for_each_group(const Thinning<T>& p,
                                               const int32_t* flags,  // [groups, m]
                                               const F& f) {
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    const int32_t* const of_group = flags + g * p.m;
    f(g, of_group, warp_count(of_group, p.m));
  }
}

// Marks the samples that do not coincide with an earlier sample. A warp takes a row, and blockIdx.y
// selects the groups. Work: reads m² values. Registers: at most 64.
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

// Finds the neighbors of each distinct sample, one rank after the other. A warp takes a row, and
// blockIdx.y selects the groups. Work: reads 20 m² values. Registers: at most 64.
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
      Largest<T> last{T(1), -1};  // above every −s, so the search begins at the nearest sample
      T s = 0, at_inner = T(1);
      for (int rank = 1; rank <= outer; ++rank) {
        Largest<T> next = no_neighbor<T>(m);
        for (int j = lane; j < m; j += kWarp)
          if (distinct[j] != 0 && j != i && Largest<T>{-row[j], j}.is_after(last.value, last.index))
            next.take(-row[j], j);
        next.take_warp();
        last = next;
        s = -last.value;
        if (rank == inner) at_inner = s;
        if (lane == 0 && rank == 1) p.first[g * m + i] = s;
        if (lane == 0 && rank == kScaleNeighbor) p.scale[g * m + i] = s;
      }
      if (lane == 0)
        p.log_ratio[g * m + i] = log(static_cast<double>(s) / static_cast<double>(at_inner));
    });
  });
}

// Decides whether one sample of each near-coincident pair is left out. Then `separation` is the
// largest s / s_6 of near-coincident pairs, otherwise 0. A thread block takes a group. Work: reads
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
    if (threadIdx.x == 0) p.separation[g] = separate ? thinning_ratio(kSeparationLevel, half) : 0;
  }
}

// Marks the samples that are kept. A warp takes a row, and blockIdx.y selects the groups. Work:
// reads m² values. Registers: at most 64.
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

// Counts the kept samples, finds the kept sample that is nearest to each sample, and makes all
// distances from and to samples that are left out infinite. A warp takes a row, and blockIdx.y
// selects the groups. Work: reads and writes m² values in groups from which samples are left out.
// Registers: at most 64.
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
      Largest<T> nearest = no_neighbor<T>(m);
      for (int j = lane; j < m; j += kWarp) {
        if (kept[j] != 0) nearest.take(-row[j], j);
        if (j != i && (kept[i] == 0 || kept[j] == 0)) row[j] = value_of<T>(KeyOf<T>::kInfinity);
      }
      nearest.take_warp();
      const bool itself = kept[i] != 0 || nearest.index == m;
      if (lane == 0) p.nearest[g * m + i] = itself ? static_cast<int>(i) : nearest.index;
    });
  });
}

}  // namespace

template <typename T>
void thin(const Thinning<T>& p, Stream& stream) {
  const LaunchShape rows = row_warps(p.m, p.groups);
  stream.launch(distinct_kernel<T>, rows, p);
  stream.launch(neighbors_kernel<T>, rows, p);
  stream.launch(separation_kernel<T>, {{group_blocks(p.groups)}, kRowThreads}, p);
  stream.launch(separate_kernel<T>, rows, p);
  stream.launch(mask_kernel<T>, rows, p);
}

template void thin(const Thinning<float>&, Stream&);
template void thin(const Thinning<double>&, Stream&);

}  // namespace mige::cuda
