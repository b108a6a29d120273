// The kernels of ridge whitening: standardized samples, the choice of τ, and the eigenvectors
// scaled by functions of τ (whitening.cuh). The objective of τ is a difference of large terms, so
// it is computed in double precision.
#include "cuda/adaptive/whitening.cuh"

namespace mige::cuda {
namespace {

// λ_j of the dual form, or 0 if it is a rounding error. At least one eigenvalue is a rounding
// error, because the mean of the samples has been subtracted.
template <typename T>
__device__ __forceinline__ T dual_eigenvalue(const T* values,  // [m], ascending
                                             int64_t m, int64_t d, int64_t j) {
  const double floor = dual_floor<T>(static_cast<double>(values[m - 1]), d);
  return static_cast<double>(values[j]) <= floor ? T(0) : values[j];
}

// --- standardized samples ---

// Computes v = (x − mean) / deviation, the mean, and 1 / deviation. One of the values of a column,
// its center, is subtracted first. A column of equal values therefore gets exactly v = 0, and 0
// instead of 1 / deviation. A thread block takes 32 columns. A lane takes one column, a warp takes
// every eighth row, and blockIdx.z selects the groups. Work: reads m d values three times and
// writes m d values. Shared memory: 4 KiB. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads, 4)
    standardize_kernel(Whitening<T> p, T* __restrict__ means) {  // [groups, d] or nullptr
  __shared__ double sums[2][kColumnRows][kWarp];
  const int64_t m = p.m, d = p.d;
  const int64_t c = blockIdx.x * int64_t(kWarp) + threadIdx.x % kWarp;
  const int64_t first = threadIdx.x / kWarp;
  for (int64_t g = blockIdx.z; g < p.groups; g += gridDim.z) {
    const T magnitude = magnitude_of<T>(p.largest[g]);
    const T poison = magnitude - magnitude;  // 0, or NaN
    const T scale = normal_scale(magnitude);
    const T* const x = p.x + g * m * d + c;
    const T center = c < d ? column_center(p.x + g * m * d, m, d, c, scale) : T(0);
    double sum = 0;
    for (int64_t i = first; i < m && c < d; i += kColumnRows)
      sum += static_cast<double>(scale * x[i * d] - center);
    const double mean = lane_sum<kColumnRows>(sum, sums[0]) / static_cast<double>(m);
    sum = 0;
    for (int64_t i = first; i < m && c < d; i += kColumnRows) {
      const double offset = static_cast<double>(scale * x[i * d] - center) - mean;
      sum += offset * offset;
    }
    const double variance = lane_sum<kColumnRows>(sum, sums[1]) / static_cast<double>(m);
    const double inverse = variance > 0 ? 1 / sqrt(variance) : 0;
    for (int64_t i = first; i < m && c < d; i += kColumnRows) {
      const double offset = static_cast<double>(scale * x[i * d] - center) - mean;
      p.v[(g * m + i) * d + c] = static_cast<T>(offset * inverse) + poison;
    }
    if (first == 0 && c < d) {
      p.inverse[g * d + c] = saturate<T>(inverse * static_cast<double>(scale)) + poison;
      if (means)
        means[g * d + c] =
            saturate<T>((static_cast<double>(center) + mean) / static_cast<double>(scale)) + poison;
    }
    __syncthreads();  // before the sums of the next group overwrite these
  }
}

// --- products ---

// The finish of a product (contraction.cuh) that stores the sums divided by m. The sums are in
// double: for m near d the smallest eigenvalues are as small as the rounding errors of long sums in
// float, and whitening divides by the roots of the eigenvalues.
template <typename U>
struct Mean {
  using Sum = double;
  U* out;  // [groups, r, r]
  int64_t count;

  __device__ auto of(int64_t g, int64_t, int64_t r) const {
    U* const target = out + g * r * r;
    const auto divisor = static_cast<double>(count);
    return [=](int64_t i, int64_t j, double sum) {
      target[i * r + j] = static_cast<U>(sum / divisor);
    };
  }
};

// Rounds the eigenvalues and eigenvectors of G from double to T, elementwise. Work: reads and
// writes m² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4) narrow_kernel(Whitening<T> w) {
  const int64_t m = w.m;
  for (int64_t g = blockIdx.y; g < w.groups; g += gridDim.y)
    grid_stride<kElementThreads>(m * m, [&](int64_t e) {
      w.vectors[g * m * m + e] = static_cast<T>(w.wide_vectors[g * m * m + e]);
      if (e < m) w.values[g * m + e] = static_cast<T>(w.wide_values[g * m + e]);
    });
}

// Writes the eigenvalues and the eigenvectors of R or G.
template <typename T>
void decompose(const Whitening<T>& w, Stream& stream) {
  const int64_t groups = w.groups, m = w.m, d = w.d;
  const Rows<T> v{w.v, m, d};
  const Columns<T> v_transposed{w.v, m, d};
  if constexpr (sizeof(T) < sizeof(double)) {
    if (w.widens()) {
      contract<T>(v, v, Mean<double>{w.wide_gram, m}, {groups, m, m, nullptr, w.partial}, stream);
      stream.call(eigh<double>, w.wide_eigh, w.eigh_space);
      stream.launch(narrow_kernel<T>, elementwise(m * m, groups), w);
      return;
    }
  }
  const Mean<T> correlations{w.gram, m};
  if (w.dual())
    contract<T>(v, v, correlations, {groups, m, m, nullptr, w.partial}, stream);
  else
    contract<T>(v_transposed, v_transposed, correlations, {groups, d, d, nullptr, w.partial},
                stream);
  stream.call(eigh<T>, w.eigh, w.eigh_space);
}

// Computes Y = Q (mΛ)^{1/2}, elementwise. Work: reads and writes m² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4) dual_coordinates_kernel(Whitening<T> w) {
  const int64_t m = w.m;
  for (int64_t g = blockIdx.y; g < w.groups; g += gridDim.y)
    grid_stride<kElementThreads>(m * m, [&](int64_t e) {
      const int64_t i = e / m, j = e % m;
      const T lambda = dual_eigenvalue(w.values + g * m, m, w.d, j);
      w.y[g * m * m + e] = sqrt(static_cast<T>(m) * lambda) * w.vectors[(g * m + j) * m + i];
    });
}

constexpr int kRidgeThreads = 256;
constexpr int kRidgesPerThread = 4;  // values of τ that a thread takes, for one sample
static_assert(kRidgeThreads / kWarp * kRidgesPerThread >= kRidges && kRidges <= kWarp,
              "every τ needs a thread and a lane");

// --- the ridge ---

// Computes the support of every group (see Support). A warp takes a group. Work: reads d + r
// values. Registers: at most 128.
template <typename T>
__global__ void __launch_bounds__(kWarp, 16) support_kernel(Whitening<T> w) {
  const int lane = threadIdx.x % kWarp;
  const int64_t r = w.r();
  for (int64_t g = blockIdx.x; g < w.groups; g += gridDim.x) {
    const T* const values = w.values + g * r;
    const double floor = kRankFloor<T> * static_cast<double>(values[r - 1]);
    int rank = 0, varying = 0;
    for (int64_t k = lane; k < r; k += kWarp) rank += static_cast<double>(values[k]) > floor;
    for (int64_t c = lane; c < w.d; c += kWarp) varying += w.inverse[g * w.d + c] > T(0);
    rank = warp_sum(rank);
    varying = warp_sum(varying);
    if (lane == 0) w.support[g] = Support::of(rank, r, varying, w.m);
  }
}

// 10^exponent, as the product of a power of ten and a factor in (0.1, 1]. (The error of a single
// exponential would grow with the exponent.)
__device__ __forceinline__ double ridge_at(double exponent) {
  constexpr double kLn10 = 2.302585092994045684;
  const double whole = ceil(exponent);
  double power = 1;
  for (double k = whole < 0 ? -whole : whole; k > 0; --k) power *= 10;
  const double rest = exp_nonpositive((exponent - whole) * kLn10);
  return whole < 0 ? rest / power : rest * power;
}

// The value of τ with number t on the grid.
__device__ __forceinline__ double ridge_number(int t) {
  return ridge_at(kRidgeLowest + kRidgeStep * t);
}

// 1 / (c₁λ + τ) with c₁ = m / (m − 1). A negative λ, which is a rounding error, counts as 0.
__device__ __forceinline__ double shrunk(double lambda, double tau, int64_t m) {
  const double c1 = static_cast<double>(m) / static_cast<double>(m - 1);
  return 1 / (c1 * (lambda > 0 ? lambda : (lambda == lambda ? 0 : lambda)) + tau);
}

// Sums ½ c₁² q2_i / (1 − c₂ q_i)² − c₂ q2_i / (1 − c₂ q_i) over 32 samples i for every τ, with
//
//   q_i = Σ_j y_ij² a_j,   q2_i = Σ_j y_ij² a_j²,   a_j = 1 / (c₁ λ_j + τ),
//   c₁ = m / (m − 1),   c₂ = m / (m − 1)².
//
// A thread block takes 32 samples. A thread takes one sample and four values of τ, and blockIdx.z
// selects the groups. Work: 4 × 32 m r flop in double; reads m r values. Shared memory: 12.2 KiB in
// float, 16.3 KiB in double. Registers: at most 128.
template <typename T>
__global__ void __launch_bounds__(kRidgeThreads, 2) ridge_objective_kernel(Whitening<T> w) {
  __shared__ T squares[kRidgeRows][kWarp + 1];
  __shared__ double weights[kWarp][kWarp];  // a_j, for every τ
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t m = w.m, r = w.r(), row0 = blockIdx.x * int64_t(kRidgeRows);
  const double tau = ridge_number(lane < kRidges ? lane : 0);
  for (int64_t g = blockIdx.z; g < w.groups; g += gridDim.z) {
    double q[kRidgesPerThread] = {}, q2[kRidgesPerThread] = {};
    for (int64_t j0 = 0; j0 < r; j0 += kWarp) {
      __syncthreads();  // the previous columns have been used
      for (int e = warp; e < kWarp; e += kRidgeThreads / kWarp) {
        const int64_t i = row0 + e;
        const T y = i < m && j0 + lane < r ? w.y[(g * m + i) * r + j0 + lane] : T(0);
        squares[e][lane] = y * y;
        weights[e][lane] = w.support[g].first(r) <= j0 + e && j0 + e < r
                               ? shrunk(static_cast<double>(w.values[g * r + j0 + e]), tau, m)
                               : 0;
      }
      __syncthreads();
      for (int j = 0; j < kWarp; ++j) {
        const auto square = static_cast<double>(squares[lane][j]);
#pragma unroll
        for (int e = 0; e < kRidgesPerThread; ++e) {
          const double weight = weights[j][warp * kRidgesPerThread + e];
          q[e] += square * weight;
          q2[e] += square * weight * weight;
        }
      }
    }
    const double left_out = static_cast<double>(m - 1);
    const double c1 = static_cast<double>(m) / left_out, c2 = c1 / left_out;
#pragma unroll
    for (int e = 0; e < kRidgesPerThread; ++e) {
      // In exact arithmetic this value is at least τ / (τ + c₂‖v_i‖²), which is positive.
      const double exact = 1 - c2 * q[e];
      const double rest = exact < kEpsilon<T> ? static_cast<double>(kEpsilon<T>) : exact;
      const double value = (c1 * c1 * q2[e] / (2 * rest) - c2 * q2[e]) / rest;
      const double sum = warp_sum(row0 + lane < m ? value : 0.0);
      if (lane == 0)
        w.objective[(g * w.blocks() + blockIdx.x) * kWarp + warp * kRidgesPerThread + e] = sum;
    }
  }
}

// Chooses τ of every group. A thread block takes a group, and a lane takes one τ of the grid. A
// warp takes every eighth partial sum over samples and every eighth eigenvalue. Work: reads m + r
// values. Shared memory: 4 KiB. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRidgeThreads, 4)
    ridge_choice_kernel(Whitening<T> w, T* __restrict__ ridge) {  // [groups]
  __shared__ double parts[kColumnRows][kWarp], traces[kColumnRows][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t m = w.m, r = w.r();
  const double tau = ridge_number(lane < kRidges ? lane : 0);
  for (int64_t g = blockIdx.x; g < w.groups; g += gridDim.x) {
    double part = 0, trace = 0;
    for (int64_t b = warp; b < w.blocks(); b += kColumnRows)
      part += w.objective[(g * w.blocks() + b) * kWarp + lane];
    for (int64_t j = w.support[g].first(r) + warp; j < r; j += kColumnRows)
      trace += shrunk(static_cast<double>(w.values[g * r + j]), tau, m);
    const double total = lane_sum<kColumnRows>(part, parts) / static_cast<double>(m);
    const double all =
        lane_sum<kColumnRows>(trace, traces) + static_cast<double>(w.support[g].beyond(r)) / tau;
    __syncthreads();  // all threads have read the parts
    if (warp == 0) parts[0][lane] = total - all;
    __syncthreads();
    if (threadIdx.x == 0) {
      const T magnitude = magnitude_of<T>(w.largest[g]);
      const double fraction = ridge_fraction(w.factor, w.support[g].dimensions, m);
      ridge[g] = saturate<T>(fraction * ridge_at(lowest_ridge(parts[0]))) + (magnitude - magnitude);
    }
    __syncthreads();  // before the sums of the next group overwrite these
  }
}

// Computes out_jc = filter(λ_j) vectors_jc, elementwise. Work: reads and writes r² values.
// Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4)
    filter_vectors_kernel(Whitening<T> w, RidgeFilter filter,
                          const T* __restrict__ ridge,  // [groups]
                          T* __restrict__ out) {        // [groups, r, r]
  const int64_t r = w.r();
  for (int64_t g = blockIdx.y; g < w.groups; g += gridDim.y)
    grid_stride<kElementThreads>(r * r, [&](int64_t e) {
      const T* const values = w.values + g * r;
      const T lambda = w.dual() ? dual_eigenvalue(values, r, w.d, e / r) : values[e / r];
      const int excluded = w.support[g].excluded;
      const T factor =
          e / r < excluded ? T(0) : filter_factor(filter, lambda, ridge[g], w.m, excluded);
      out[g * r * r + e] = factor * w.vectors[g * r * r + e];
    });
}

}  // namespace

template <typename T>
void whiten(const Whitening<T>& w,
            T* means,  // [groups, d] or nullptr
            T* ridge,  // [groups]
            Stream& stream) {
  const int64_t groups = w.groups, m = w.m, d = w.d, z = group_blocks(groups);
  largest_magnitudes<T>(w.x, m * d, nullptr, 0, groups, w.largest, stream);
  stream.launch(standardize_kernel<T>, {{divide_up(d, kWarp), 1, z}, kScaleThreads}, w, means);
  decompose(w, stream);
  stream.launch(support_kernel<T>, {{at_most(groups, kLargestGridX)}, kWarp}, w);
  if (w.dual())
    stream.launch(dual_coordinates_kernel<T>, elementwise(m * m, groups), w);
  else
    contract<T>(Rows<T>{w.v, m, d}, Rows<T>{w.vectors, d, d}, Store<T>{w.y},
                {groups, m, d, nullptr, w.partial}, stream);
  stream.launch(ridge_objective_kernel<T>, {{w.blocks(), 1, z}, kRidgeThreads}, w);
  stream.launch(ridge_choice_kernel<T>, {{z}, kRidgeThreads}, w, ridge);
}

template <typename T>
void filter_vectors(const Whitening<T>& w, RidgeFilter filter,
                    const T* ridge,  // [groups]
                    T* out,          // [groups, r, d]
                    Stream& stream) {
  const int64_t groups = w.groups, m = w.m, d = w.d, r = w.r();
  T* const filtered = w.dual() ? w.gram : out;
  stream.launch(filter_vectors_kernel<T>, elementwise(r * r, groups), w, filter, ridge, filtered);
  if (w.dual())
    contract<T>(Rows<T>{filtered, m, m}, Columns<T>{w.v, m, d}, Store<T>{out},
                {groups, m, d, nullptr, w.partial}, stream);
}

#define MIGE_INSTANTIATE_WHITENING(T)                         \
  template void whiten(const Whitening<T>&, T*, T*, Stream&); \
  template void filter_vectors(const Whitening<T>&, RidgeFilter, const T*, T*, Stream&)
MIGE_INSTANTIATE_WHITENING(float);
MIGE_INSTANTIATE_WHITENING(double);

}  // namespace mige::cuda
