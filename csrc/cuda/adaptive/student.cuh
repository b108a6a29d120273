// The steps of the Student score in whitened coordinates z [m, r]. mige_ext.ops.student_score
// explains the method, and common/student_rule.h has the rules.
//
// Let ν be the degrees of freedom, e the mean of ‖z_i‖², and E the ridge in whitened coordinates, a
// diagonal matrix. An EM step computes
//
//   w_i = (ν + e) / (ν − 2 + u_iᵀ P u_i),   u_i = z_i − μ,
//   μ ← Σ w_i z_i / Σ w_i,   P ← A⁻¹ with A = Σ w_i u_i u_iᵀ / m + E and the new μ in u_i.
//
// Instead of u, √w u is stored, because Σ w_i u_i u_iᵀ is then a product of one array with itself.
// The host enqueues all steps. A group with an infinite ν skips them.
#pragma once

#include "common/student_rule.h"
#include "cuda/adaptive/whitening.cuh"
#include "cuda/linalg/inverse.cuh"

namespace mige::cuda {

template <typename T>
struct Student : Workspace {
  Whitening<T> w;
  StudentScoreArguments<T> to;
  int64_t groups = to.groups, m = to.m, d = to.d, r = w.r();
  T* ridge = take<T>(groups);
  T* z = w.y;                       // [groups, m, r]
  T* u = take<T>(groups * m * r);   // √w u
  T* pu = take<T>(groups * m * r);  // √w P u
  T* s = take<T>(groups * r * d);   // filtered eigenvectors
  StudentSample* samples = take<StudentSample>(groups * m);
  double* e = take<double>(groups);       // mean of ‖z_i‖²
  double* trace = take<double>(groups);   // Σ_k P_kk over the dimensions that count
  int32_t* next = take<int32_t>(groups);  // −1 if ν is infinite or the input is not finite
  PartialSums partial = take_partial_sums(
      *this, {partial_bytes<double>(groups, r, r, m), partial_bytes<T>(groups, m, r, r),
              partial_bytes<T>(groups, m, d, r)});
  InverseArguments<T> inversion{Workspace(*this), groups, r, next};  // of A

  __device__ __forceinline__ bool idle(int64_t g) const { return next[g] < 0; }
  __device__ __forceinline__ double dimensions(int64_t g) const {
    return static_cast<double>(w.support[g].dimensions);
  }
};

// Computes z = Y (Λ + τ)^{-1/2} in place, and ‖z_i‖². A warp takes a row, and blockIdx.y selects
// the groups. Work: reads and writes m r values. Registers: at most 128.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 2) student_begin_kernel(Student<T> p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t m = p.m, r = p.r;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    const T tau = p.ridge[g];
    const int excluded = p.w.support[g].excluded;
    for_each_row(m, [&](int64_t i) {
      T* const row = p.z + (g * m + i) * r;
      double sum = 0;
      for (int64_t k = lane; k < r; k += kWarp) {
        const T lambda = p.w.values[g * r + k];
        const T z = k < excluded
                        ? T(0)
                        : row[k] * filter_factor(RidgeFilter::kScore, lambda, tau, m, false);
        row[k] = z;
        sum += static_cast<double>(z) * static_cast<double>(z);
      }
      sum = warp_sum(sum);
      if (lane == 0) p.samples[g * m + i] = {sum, sum, sum};
    });
  }
}

// Chooses the ν with the lowest bound, which is the mean risk plus `errors` standard errors. ν
// becomes infinite if no bound is below 0, or with few samples. Before the EM steps (`first`) P is
// the identity. A thread block takes a group. Work: 12 passes over m samples, and one more with
// `first`, with about 20 flop in double per sample. Registers: at most 128.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 2)
    student_choice_kernel(Student<T> p, double errors, bool first) {
  __shared__ double sums[kRowWarps];
  const int64_t m = p.m, r = p.r;
  for (int64_t g = blockIdx.x; g < p.groups; g += gridDim.x) {
    if (!first && p.idle(g)) continue;
    const double d = p.dimensions(g);
    double trace = d;
    if (!first) {
      // Σ P_kk over the dimensions that count. These dimensions differ from the r dimensions of z
      // only by directions without variance, in which P_kk is 1.
      double diagonal = 0;
      for (int64_t k = threadIdx.x; k < r; k += kRowThreads)
        diagonal += static_cast<double>(p.inversion.out[(g * r + k) * r + k]);
      trace += block_sum<kRowWarps>(diagonal, sums) - static_cast<double>(r);
    }
    const StudentSample* const samples = p.samples + g * m;
    double e = 0;
    if (first) {
      for (int64_t i = threadIdx.x; i < m; i += kRowThreads) e += samples[i].z;
      e = block_sum<kRowWarps>(e, sums) / static_cast<double>(m);
    } else {
      e = p.e[g];
    }
    const int tried = few_samples(m, p.w.support[g].dimensions) ? 0 : kStudentNus;
    double lowest = 0;
    int best = -1;
    for (int n = 0; n < tried; ++n) {
      const double nu = student_nu(n);
      const MeanAndError risk = mean_and_error(
          m, m, sums, [&](int64_t i) { return StudentRisk::of(nu, d, e, trace, samples[i]).risk; },
          [](int64_t) { return true; });
      const double bound = risk.mean + errors * risk.error;
      if (!(bound < lowest)) continue;
      lowest = bound;
      best = n;
    }
    if (threadIdx.x == 0) {
      const T magnitude = magnitude_of<T>(p.w.largest[g]);
      const T infinity = value_of<T>(KeyOf<T>::kInfinity) + (magnitude - magnitude);
      p.to.nu[g] = best < 0 ? infinity : static_cast<T>(student_nu(best));
      p.next[g] = best < 0 ? -1 : 0;
      p.e[g] = e;
      p.trace[g] = trace;
    }
  }
}

// The first kernel of an EM step: computes the weights w_i, μ and √w u. A thread block takes 32
// columns. A lane takes one column, a warp takes every eighth row, and blockIdx.z selects the
// groups. Work: reads m r values twice and writes them once. Shared memory: 4 KiB. Registers: at
// most 64.
template <typename T>
__global__ void __launch_bounds__(kScaleThreads, 4) student_center_kernel(Student<T> p) {
  __shared__ double sums[2][kColumnRows][kWarp];
  const int64_t m = p.m, r = p.r, first = threadIdx.x / kWarp;
  const int64_t c = blockIdx.x * int64_t(kWarp) + threadIdx.x % kWarp;
  for (int64_t g = blockIdx.z; g < p.groups; g += gridDim.z) {
    if (p.idle(g)) continue;
    const auto nu = static_cast<double>(p.to.nu[g]);
    const double e = p.e[g];
    const auto weight = [&](int64_t i) {
      return static_cast<T>(student_weight(nu, e, p.samples[g * m + i].inner));
    };
    double sum = 0, total = 0;
    for (int64_t i = first; i < m; i += kColumnRows) {
      const auto w = static_cast<double>(weight(i));
      total += w;
      if (c < r) sum += w * static_cast<double>(p.z[(g * m + i) * r + c]);
    }
    const double all = lane_sum<kColumnRows>(total, sums[0]);
    const double mean = lane_sum<kColumnRows>(sum, sums[1]) / all;
    for (int64_t i = first; i < m; i += kColumnRows) {
      const T w = weight(i);
      if (c == 0) p.to.weights[g * m + i] = w;
      if (c >= r) continue;
      const int64_t at = (g * m + i) * r + c;
      p.u[at] = sqrt(w) * static_cast<T>(static_cast<double>(p.z[at]) - mean);
    }
    __syncthreads();  // before the sums of the next group overwrite these
  }
}

// The finish of a product (contraction.cuh) that stores A = sums / m + E. Only the tiles on and
// below the diagonal are stored, because invert() reads no others. E is τ / (Λ + τ), and 1 for
// excluded directions.
template <typename T>
struct StoreScatter {
  using Sum = double;
  Student<T> p;

  __device__ auto of(int64_t g, int64_t, int64_t r) const {
    T* const target = p.inversion.a + g * r * r;
    const T* const values = p.w.values + g * r;
    const auto tau = static_cast<double>(p.ridge[g]), count = static_cast<double>(p.m);
    const int excluded = p.w.support[g].excluded;
    return [=](int64_t i, int64_t j, double sum) {
      double value = sum / count;
      if (j == i) {
        const auto lambda = static_cast<double>(values[i] > T(0) ? values[i] : T(0));
        value += i < excluded ? 1 : tau / (lambda + tau);
      }
      target[i * r + j] = static_cast<T>(value);
    };
  }
};
template <typename T>
constexpr bool kLowerTriangle<StoreScatter<T>> = true;

// The last kernel of an EM step: computes uᵀPu and ‖Pu‖². A warp takes a row, and blockIdx.y
// selects the groups. Work: reads 2 m r values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) student_squares_kernel(Student<T> p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t m = p.m, r = p.r;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    if (p.idle(g)) continue;
    for_each_row(m, [&](int64_t i) {
      const int64_t row = g * m + i;
      double inner = 0, squared = 0;
      for (int64_t k = lane; k < r; k += kWarp) {
        const auto pu = static_cast<double>(p.pu[row * r + k]);
        inner += static_cast<double>(p.u[row * r + k]) * pu;
        squared += pu * pu;
      }
      inner = warp_sum(inner);
      squared = warp_sum(squared);
      const auto weight = static_cast<double>(p.to.weights[row]);
      if (lane == 0) {
        p.samples[row].inner = inner / weight;
        p.samples[row].squared = squared / weight;
      }
    });
  }
}

// Computes the departure z − w P u in place of z, and its divergence. A group with an infinite ν
// gets the departure 0 and the weights 1. A group with a NaN or an infinity gets NaN. A warp takes
// a row, and blockIdx.y selects the groups. Work: reads and writes m (r + d) values. Registers: at
// most 128.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 2) student_departure_kernel(Student<T> p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t m = p.m, d = p.d, r = p.r;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    const T magnitude = magnitude_of<T>(p.w.largest[g]), poison = magnitude - magnitude;
    const auto nu = static_cast<double>(p.to.nu[g]);
    for_each_row(m, [&](int64_t i) {
      const int64_t row = g * m + i;
      if (p.idle(g)) {
        for (int64_t k = lane; k < d; k += kWarp) p.to.departure[row * d + k] = poison;
        if (lane == 0) {
          p.to.divergence[row] = poison;
          p.to.weights[row] = 1 + poison;
        }
        return;
      }
      const StudentSample sample = p.samples[row];
      const double e = p.e[g];
      // pu contains the root of the weights of the last step.
      const double factor =
          student_weight(nu, e, sample.inner) / sqrt(static_cast<double>(p.to.weights[row]));
      for (int64_t k = lane; k < r; k += kWarp) {
        const double score = factor * static_cast<double>(p.pu[row * r + k]);
        p.z[row * r + k] = static_cast<T>(static_cast<double>(p.z[row * r + k]) - score);
      }
      if (lane == 0)
        p.to.divergence[row] =
            static_cast<T>(StudentRisk::of(nu, p.dimensions(g), e, p.trace[g], sample).divergence);
    });
  }
}

}  // namespace mige::cuda
