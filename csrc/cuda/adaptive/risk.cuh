// The risk of the two candidates of one λ by Stein's identity, the next step of the search over λ,
// and the best candidate so far. adaptive.cuh explains the notation.
#pragma once

#include "cuda/adaptive/adaptive.cuh"

namespace mige::cuda {

// Computes z_i·W_i and z_i·Y_i. A warp takes a row, groups along y. Work: 4 m r flop in double;
// reads 3 m r values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) along_kernel(Adaptive<T> p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t i = blockIdx.x * int64_t(kRowWarps) + threadIdx.x / kWarp, r = p.r;
  if (i >= p.m) return;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    if (p.idle(g)) continue;
    const int64_t row = g * p.m + i;
    double w = 0, y = 0;
    for (int64_t j = lane; j < r; j += kWarp) {
      const auto z = static_cast<double>(p.z[row * r + j]);
      w += z * static_cast<double>(p.wy[row * 2 * r + j]);
      y += z * static_cast<double>(p.wy[row * 2 * r + r + j]);
    }
    w = warp_sum(w);
    y = warp_sum(y);
    if (lane == 0) {
      p.along[row * 2] = static_cast<T>(w);
      p.along[row * 2 + 1] = static_cast<T>(y);
    }
  }
}

// Computes the risk of sample i for both bases, r_i = ½|R_i|² − z_i·R_i + div_i R with R = F + z.
// With b_i = B_ii the divergence is
//
//   Σ_l (b_i − B_il) q_il − 2b_i [z_i·(φ'F)_i − Σ_l φ'_il F_l·z_l]
//   − 2 [F_i·z_i Σ_l B_il φ'_il − F_i·((B∘φ')z)_i] + d (1 − μ b_i)^base,
//
// where d is the number of dimensions in which the risk is measured (Support). A warp takes a row,
// groups along y. Work: about 12 m² + 20 m r flop in double; reads 2 m² + 6 m r values. Registers:
// at most 128.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 2) risk_kernel(Adaptive<T> p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t i = blockIdx.x * int64_t(kRowWarps) + threadIdx.x / kWarp, m = p.m, r = p.r;
  if (i >= m) return;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    if (p.idle(g)) continue;
    const auto d = static_cast<double>(p.w.support[g].dimensions);
    const int64_t row = g * m + i;
    const auto b = static_cast<double>(p.inversion.out[row * m + i]);
    double spread = 0, b_cubes = 0, cubes_w = 0, cubes_y = 0;
    for (int64_t l = lane; l < m; l += kWarp) {
      const auto k = static_cast<double>(p.k[row * m + l]);
      const auto b_l = static_cast<double>(p.inversion.out[row * m + l]);
      const double cube = k * k * k;
      spread += (b - b_l) * cube * (3 - d - 3 * k * k);
      b_cubes += b_l * cube;
      cubes_w += cube * static_cast<double>(p.along[(g * m + l) * 2]);
      cubes_y += cube * static_cast<double>(p.along[(g * m + l) * 2 + 1]);
    }
    const double mu = p.search[g].mu;
    double zz = 0, z_residual[kBases] = {}, squared[kBases] = {};
    double z_kw = 0, z_ky = 0, w_bz = 0, y_bz = 0;
    for (int64_t j = lane; j < r; j += kWarp) {
      const int64_t first = row * 2 * r + j, second = first + r;
      const auto z = static_cast<double>(p.z[row * r + j]);
      const auto bz = static_cast<double>(p.bz[row * r + j]);
      const auto w = static_cast<double>(p.wy[first]), y = static_cast<double>(p.wy[second]);
      const double residual[kBases] = {z - w, z - w - mu * y};
      zz += z * z;
#pragma unroll
      for (int c = 0; c < kBases; ++c) {
        z_residual[c] += z * residual[c];
        squared[c] += residual[c] * residual[c];
      }
      z_kw += z * static_cast<double>(p.kwy[first]);
      z_ky += z * static_cast<double>(p.kwy[second]);
      w_bz += w * bz;
      y_bz += y * bz;
    }
    // These are the terms of W and, for base 1, of μY. Only their sums over the lanes are needed.
    const double a = p.inverse_variance(g);
    spread = warp_sum(spread);
    b_cubes = warp_sum(b_cubes);
    zz = warp_sum(zz);
    const double of_w = warp_sum(w_bz - b * (z_kw - cubes_w));
    const double of_y = warp_sum(y_bz - b * (z_ky - cubes_y));
#pragma unroll
    for (int c = 0; c < kBases; ++c) {
      const double along = warp_sum(z_residual[c]), square = warp_sum(squared[c]);
      const double divergence =
          a * (spread + (along - zz) * b_cubes + of_w + (c == 1 ? mu * of_y : 0)) +
          d * (c == 1 ? 1 - mu * b : 1);
      if (lane == 0) p.risks[(g * kBases + c) * m + i] = square / 2 - along + divergence;
    }
  }
}

// Computes the mean and the standard error of the risks, chooses the better base, and takes the
// next step of the search. A thread block takes a group. Work: reads 4 m values. Registers: at most
// 128.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 2) search_kernel(Adaptive<T> p) {
  __shared__ double sums[kRowWarps];
  const int64_t m = p.m;
  for (int64_t g = blockIdx.x; g < p.groups; g += gridDim.x) {
    __syncthreads();  // the state of the previous group has been written
    const int i = p.next[g];
    __syncthreads();
    if (i < 0) {
      if (threadIdx.x == 0) p.search[g].kept = -1;
      continue;
    }
    double means[kBases], errors[kBases];
#pragma unroll
    for (int c = 0; c < kBases; ++c) {
      const double* const risks = p.risks + (g * kBases + c) * m;
      double sum = 0;
      for (int64_t e = threadIdx.x; e < m; e += kRowThreads) sum += risks[e];
      const double mean = block_sum<kRowWarps>(sum, sums) / static_cast<double>(m);
      sum = 0;
      for (int64_t e = threadIdx.x; e < m; e += kRowThreads)
        sum += (risks[e] - mean) * (risks[e] - mean);
      means[c] = mean;
      errors[c] = sqrt(block_sum<kRowWarps>(sum, sums) / static_cast<double>(m - 1) /
                       static_cast<double>(m));
    }
    if (threadIdx.x == 0) {
      GroupSearch& search = p.search[g];
      const int base = means[1] + errors[1] < means[0] + errors[0] ? 1 : 0;
      const double mean = base ? means[1] : means[0], error = base ? errors[1] : errors[0];
      search.kept = search.record(i, mean + error) ? base : -1;
      const int next = search.after(i);
      search.kept_mu = search.mu;
      if (search.kept >= 0) {
        p.to.lambda[g] = static_cast<T>(lambda_at(i));
        p.to.base[g] = base;
        p.to.risk[g] = static_cast<T>(mean);
        p.to.error[g] = static_cast<T>(error);
      }
      if (next >= 0) search.mu = lambda_at(next) * static_cast<double>(m);
      p.next[g] = next;
    }
  }
}

// Copies F of this round to `best` if it is the best so far, elementwise. Work: reads 2 m r values
// and writes m r. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4) keep_kernel(Adaptive<T> p) {
  const int64_t r = p.r, count = p.m * r;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    if (p.not_kept(g)) continue;
    const T shift = p.kept_shift(g);
    grid_stride<kElementThreads>(count, [&](int64_t e) {
      const int64_t at = (g * p.m + e / r) * 2 * r + e % r;
      p.best[g * count + e] = -p.wy[at] - shift * p.wy[at + r];
    });
  }
}

}  // namespace mige::cuda
