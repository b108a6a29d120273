// The magnitudes of samples, and samples that are scaled and centered.
#include "cuda/core/scale.cuh"

namespace mige::cuda {
namespace {

// Raises largest[g] to the largest key of |x_i| over the `count` values of group g. (A key is the
// bits of a magnitude, read as an unsigned integer. Keys have the order of the magnitudes, see
// radix_select.h.) If `columns` is not 0, the values of a group are a square matrix, and only its
// lower triangle counts. A thread takes every (256 gridDim.x)-th value of a group, and blockIdx.y
// selects the groups. Work: reads `count` values once. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads, 4)
    largest_magnitude_kernel(const T* __restrict__ x,  // [groups, count]
                             int64_t groups, int64_t count, int64_t columns,
                             Key<T>* __restrict__ largest) {  // [groups]
  for (int64_t g = blockIdx.y; g < groups; g += gridDim.y) {
    Key<T> key = 0;
    grid_stride<kScaleThreads, 4>(count, [&](int64_t i) {
      if (columns != 0 && i % columns > i / columns) return;
      const Key<T> magnitude = magnitude_key(x[g * count + i]);
      key = magnitude > key ? magnitude : key;
    });
    take_largest_key(key, &largest[g]);
  }
}

// Computes `centered` (scale.cuh). A thread takes every (256 gridDim.x)-th column of every
// gridDim.y-th row, and blockIdx.z selects the groups. Work: reads and writes m d values.
// Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads, 4)
    center_kernel(const T* __restrict__ x,  // [groups, m, d]
                  int64_t groups, int64_t m, int64_t d,
                  const Key<T>* __restrict__ largest,  // [groups]
                  const T* __restrict__ bandwidth,     // [groups] or nullptr
                  T* __restrict__ centered) {          // [groups, m, d]
  for (int64_t g = blockIdx.z; g < groups; g += gridDim.z) {
    const T magnitude = magnitude_of<T>(largest[g]);
    const T scale =
        bandwidth ? ScaledBandwidth<T>::of(bandwidth[g], magnitude).scale : normal_scale(magnitude);
    const T* const points = x + g * m * d;
    grid_stride<kScaleThreads>(d, [&](int64_t c) {
      const T center = column_center(points, m, d, c, scale);
      for (int64_t i = blockIdx.y; i < m; i += gridDim.y)
        centered[(g * m + i) * d + c] = scale * points[i * d + c] - center;
    });
  }
}

}  // namespace

template <typename T>
void add_magnitudes(const T* x, int64_t groups, int64_t count, int64_t columns, Key<T>* largest,
                    Stream& stream) {
  if (x == nullptr || count == 0) return;
  const int64_t blocks = at_most(divide_up(count, 16 * kScaleThreads), 256);
  stream.launch(largest_magnitude_kernel<T>, {{blocks, group_blocks(groups)}, kScaleThreads}, x,
                groups, count, columns, largest);
}

template <typename T>
void largest_magnitudes(const T* x, int64_t x_count, const T* y, int64_t y_count, int64_t groups,
                        Key<T>* largest, Stream& stream) {
  stream.zero(largest, groups);
  add_magnitudes(x, groups, x_count, 0, largest, stream);
  add_magnitudes(y, groups, y_count, 0, largest, stream);
}

template <typename T>
void center(const T* x, int64_t groups, int64_t m, int64_t d, const Key<T>* largest,
            const T* bandwidth,  // [groups] or nullptr
            T* centered,         // [groups, m, d]
            Stream& stream) {
  const int64_t columns = at_most(divide_up(d, kScaleThreads), 1024);
  const int64_t rows = at_most(divide_up(m, 8), 256);
  stream.launch(center_kernel<T>, {{columns, rows, group_blocks(groups)}, kScaleThreads}, x, groups,
                m, d, largest, bandwidth, centered);
}

#define MIGE_INSTANTIATE_SCALE(T)                                                          \
  template void add_magnitudes(const T*, int64_t, int64_t, int64_t, Key<T>*, Stream&);     \
  template void largest_magnitudes(const T*, int64_t, const T*, int64_t, int64_t, Key<T>*, \
                                   Stream&);                                               \
  template void center(const T*, int64_t, int64_t, int64_t, const Key<T>*, const T*, T*, Stream&)
MIGE_INSTANTIATE_SCALE(float);
MIGE_INSTANTIATE_SCALE(double);

}  // namespace mige::cuda
