// The kernels of the selection among the pairs of large groups.
#include "cuda/core/radix_selection.cuh"

namespace mige::cuda {
namespace {

// Counts the digits of one round: counts[digit] over the pairs i < j that match the prefix. A
// thread block takes every gridDim.x-th row of a group, a thread takes every 256th column, and
// blockIdx.y selects the groups. A thread block first counts in shared memory. Work: reads
// m²/2 values. Shared memory: 8 KiB. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kSelectThreads, 4)
    count_digits_kernel(const T* __restrict__ s,  // [groups, m, m]
                        int64_t groups, int64_t m, int round,
                        Selection<T>* __restrict__ selections,  // [groups]
                        Count* __restrict__ counts) {           // [groups, kDigits], zeroed
  __shared__ unsigned mine[kDigits];
  for (int64_t g = blockIdx.y; g < groups; g += gridDim.y) {
    for (int i = threadIdx.x; i < kDigits; i += kSelectThreads) mine[i] = 0;
    __syncthreads();
    const Key<T> prefix = round == 0 ? 0 : selections[g].prefix;
    unsigned zeros = 0;
    for (int64_t i = blockIdx.x; i < m; i += gridDim.x)
      for (int64_t j = i + 1 + threadIdx.x; j < m; j += kSelectThreads) {
        const Key<T> key = magnitude_key(s[(g * m + i) * m + j]);  // NaN may have a sign
        zeros += key == 0;
        if (matches<T>(key, prefix, round)) atomicAdd(&mine[digit_of<T>(key, round)], 1u);
      }
    zeros = warp_sum(zeros);
    if (round == 0 && threadIdx.x % kWarp == 0 && zeros > 0)
      atomicAdd(&selections[g].zeros, static_cast<Count>(zeros));
    __syncthreads();
    for (int i = threadIdx.x; i < kDigits; i += kSelectThreads)
      if (mine[i] > 0) atomicAdd(&counts[g * kDigits + i], static_cast<Count>(mine[i]));
    __syncthreads();  // before the next group overwrites `mine`
  }
}

// Picks the digit of a round, zeroes the counts for the next round, and writes the bandwidth after
// the last round. A thread block takes a group. Work: reads and writes 2048 counts per group.
// Shared memory: 2 KiB. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kSelectThreads, 4)
    pick_digit_kernel(int64_t groups, int64_t m, double quantile, double multiplier, T smallest,
                      int round, const Key<T>* __restrict__ largest,  // [groups]
                      const int32_t* __restrict__ counted,            // [groups] or nullptr
                      Selection<T>* __restrict__ selections,          // [groups]
                      Count* __restrict__ counts,                     // [groups, kDigits]
                      T* __restrict__ bandwidth) {                    // [groups]
  __shared__ Count sums[kSelectThreads];
  for (int64_t g = blockIdx.x; g < groups; g += gridDim.x) {
    pick_digit<T>(counts + g * kDigits, selections + g, sums, round, counted ? counted[g] : m,
                  quantile);
    __syncthreads();
    for (int i = threadIdx.x; i < kDigits; i += kSelectThreads) counts[g * kDigits + i] = 0;
    if (round == kSelectRounds<T> - 1 && threadIdx.x == 0) {
      const T magnitude = magnitude_of<T>(largest[g]);
      const T square = value_of<T>(selections[g].prefix), poison = magnitude - magnitude;
      bandwidth[g] = bandwidth_of(square, normal_scale(magnitude), multiplier, smallest) + poison;
    }
    __syncthreads();
  }
}

}  // namespace

template <typename T>
void select_bandwidth(const T* s, int64_t groups, int64_t m, double quantile, double multiplier,
                      T smallest, const Key<T>* largest, Selection<T>* selections, Count* counts,
                      T* bandwidth, Stream& stream, const int32_t* counted) {
  stream.zero(selections, groups);
  stream.zero(counts, groups * kDigits);
  const int64_t rows = at_most(divide_up(m, 16), 256), blocks = group_blocks(groups);
  for (int round = 0; round < kSelectRounds<T>; ++round) {
    stream.launch(count_digits_kernel<T>, {{rows, blocks}, kSelectThreads}, s, groups, m, round,
                  selections, counts);
    stream.launch(pick_digit_kernel<T>, {{blocks}, kSelectThreads}, groups, m, quantile, multiplier,
                  smallest, round, largest, counted, selections, counts, bandwidth);
  }
}

#define MIGE_INSTANTIATE_SELECTION(T)                                                          \
  template void select_bandwidth(const T*, int64_t, int64_t, double, double, T, const Key<T>*, \
                                 Selection<T>*, Count*, T*, Stream&, const int32_t*)
MIGE_INSTANTIATE_SELECTION(float);
MIGE_INSTANTIATE_SELECTION(double);

}  // namespace mige::cuda
