// The magnitude of the samples of each group, max |x_i|, and the power of two that scales the
// samples. Both stay on the device, so that the host does not wait for the device.
//
// A group with a NaN or an infinity has the magnitude NaN, and every kernel writes NaN to all
// results of this group. (On the CPU such input raises an error. CUDA kernels run asynchronously
// and cannot raise one.)
#pragma once

#include "common/radix_select.h"
#include "cuda/core/reduce.cuh"
#include "cuda/core/workspace.cuh"

namespace mige::cuda {

template <typename T>
__device__ __forceinline__ T not_a_number() {
  return value_of<T>(KeyOf<T>::kInfinity | 1);
}

// The magnitude with this key, or NaN if the magnitude is not finite.
template <typename T>
__device__ __forceinline__ T magnitude_of(Key<T> key) {
  return key < KeyOf<T>::kInfinity ? value_of<T>(key) : not_a_number<T>();
}

// The key of |v|.
template <typename T>
__device__ __forceinline__ Key<T> magnitude_key(T v) {
  return key_of(v) << 1 >> 1;
}

constexpr int kScaleThreads = 256;

// Sets *largest to the maximum of *largest and the keys of all lanes of a warp.
template <typename K>
__device__ __forceinline__ void take_largest_key(K key, K* largest) {
  key = warp_max(key);
  if (threadIdx.x % kWarp == 0 && key > 0) atomicMax(largest, key);
}

// The offset that `center` subtracts from the scaled column c: scale times the median of five rows.
template <typename T>
__device__ __forceinline__ T column_center(const T* x,  // [m, d]
                                           int64_t m, int64_t d, int64_t c, T scale) {
  const auto row = [&](int64_t r) { return x[r * (m - 1) / 4 * d + c]; };
  return scale * median_of_five(row(0), row(1), row(2), row(3), row(4));
}

// Whether σ is positive and finite and the group is finite.
template <typename T>
__device__ __forceinline__ bool is_bandwidth(T sigma, T magnitude) {
  return is_positive_and_finite(sigma) && magnitude == magnitude;
}

// --- launchers (scale.cu) ---

// Raises largest[g] to the largest key of a magnitude in group g of x. With columns > 0 the values
// of a group are a columns × columns matrix, and only its lower triangle counts.
template <typename T>
void add_magnitudes(const T* x,  // [groups, count] or nullptr
                    int64_t groups, int64_t count, int64_t columns,
                    Key<T>* largest,  // [groups]
                    Stream& stream);

// Writes the key of the largest magnitude in x and y, for every group.
template <typename T>
void largest_magnitudes(const T* x,  // [groups, x_count] or nullptr
                        int64_t x_count,
                        const T* y,  // [groups, y_count] or nullptr
                        int64_t y_count, int64_t groups,
                        Key<T>* largest,  // [groups]
                        Stream& stream);

// Computes centered_ic = scale x_ic − scale o_c, with o_c the median of five values of column c.
// The subtraction removes an offset common to all samples. A far outlier moves a mean, but not a
// median. The scale is ScaledBandwidth::scale with a bandwidth, and normal_scale without a
// bandwidth.
template <typename T>
void center(const T* x,  // [groups, m, d]
            int64_t groups, int64_t m, int64_t d,
            const Key<T>* largest,  // [groups]
            const T* bandwidth,     // [groups] or nullptr
            T* centered,            // [groups, m, d]
            Stream& stream);

// The bytes of workspace of an operator that needs only the magnitudes.
inline int64_t magnitudes_work(int64_t groups) {
  Workspace space(nullptr);
  space.take<Key<double>>(groups);
  return space.size();
}

}  // namespace mige::cuda
