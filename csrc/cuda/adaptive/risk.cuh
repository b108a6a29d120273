// The risk of the candidates of one λ by Stein's identity, the next step of the search over λ,
// and the best candidate so far. adaptive.cuh explains the notation.
#pragma once

#include "cuda/adaptive/adaptive.cuh"

namespace mige::cuda {

// Computes z_i·W_i, z_i·Y_i and, with a start, z_i·X_i. A warp takes a row, and blockIdx.y selects
// the groups. Work for each of these: 2 m r flop in double; reads 2 m r values. Registers: at most
// 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) along_kernel(Adaptive<T> p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t i = blockIdx.x * int64_t(kRowWarps) + threadIdx.x / kWarp, r = p.r;
  if (i >= p.m) return;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    if (p.idle(g)) continue;
    const int64_t row = g * p.m + i;
    for (int64_t c = 0; c < p.bases; ++c) {
      double sum = 0;
      for (int64_t j = lane; j < r; j += kWarp)
        sum += static_cast<double>(p.z[row * r + j]) *
               static_cast<double>(p.wy[row * p.n + c * r + j]);
      sum = warp_sum(sum);
      if (lane == 0) p.along[row * p.bases + c] = static_cast<T>(sum);
    }
  }
}

// Computes the risk of sample i for every base, r_i = ½|R_i|² − z_i·R_i + div_i R with R = F + z.
// With b_i = B_ii the divergence is
//
//   Σ_l (b_i − B_il) q_il − 2b_i [z_i·(φ'F)_i − Σ_l φ'_il F_l·z_l]
//   − 2 [F_i·z_i Σ_l B_il φ'_il − F_i·((B∘φ')z)_i] + d (1 − μ b_i)^base,
//
// where d is the number of dimensions in which the risk is measured (Support). For base 2 the last
// term is d (1 − μ b_i) + μ b_i δ_i, with δ the divergence of the start. A warp takes a row, and
// blockIdx.y selects the groups. Work: about 12 m² + 20 m r flop in double; reads 2 m² + 6 m r
// values. Registers: at most 128.
template <typename T, int kBases>
__global__ void __launch_bounds__(kRowThreads, 2) risk_kernel(Adaptive<T> p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t i = blockIdx.x * int64_t(kRowWarps) + threadIdx.x / kWarp, m = p.m, r = p.r;
  if (i >= m) return;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    if (p.idle(g)) continue;
    const auto d = static_cast<double>(p.w.support[g].dimensions);
    const int64_t row = g * m + i;
    const auto b = static_cast<double>(p.inversion.out[row * m + i]);
    double spread = 0, b_cubes = 0, cubes_w = 0, cubes_y = 0, cubes_x = 0;
    for (int64_t l = lane; l < m; l += kWarp) {
      const auto k = static_cast<double>(p.k[row * m + l]);
      const auto b_l = static_cast<double>(p.inversion.out[row * m + l]);
      const double cube = k * k * k;
      spread += (b - b_l) * cube * (3 - d - 3 * k * k);
      b_cubes += b_l * cube;
      const T* const along = p.along + (g * m + l) * kBases;
      cubes_w += cube * static_cast<double>(along[0]);
      cubes_y += cube * static_cast<double>(along[1]);
      if constexpr (kBases == 3) cubes_x += cube * static_cast<double>(along[2]);
    }
    const double mu = p.search[g].mu;
    double zz = 0, z_residual[kBases] = {}, squared[kBases] = {};
    double z_kw = 0, z_ky = 0, w_bz = 0, y_bz = 0, z_kx = 0, x_bz = 0;
    for (int64_t j = lane; j < r; j += kWarp) {
      const int64_t first = row * kBases * r + j, second = first + r;
      const auto z = static_cast<double>(p.z[row * r + j]);
      const auto bz = static_cast<double>(p.bz[row * r + j]);
      const auto w = static_cast<double>(p.wy[first]), y = static_cast<double>(p.wy[second]);
      double residual[kBases] = {z - w, z - w - mu * y};
      if constexpr (kBases == 3) {
        const auto x = static_cast<double>(p.wy[second + r]);
        residual[2] = residual[1] + mu * x;
        z_kx += z * static_cast<double>(p.kwy[second + r]);
        x_bz += x * bz;
      }
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
    // The terms of W, Y and X in the divergence. Base 1 adds μ times the term of Y, and base 2 also
    // subtracts μ times the term of X. Only the sums over the lanes are needed.
    const double a = p.inverse_variance(g);
    spread = warp_sum(spread);
    b_cubes = warp_sum(b_cubes);
    zz = warp_sum(zz);
    const double of_w = warp_sum(w_bz - b * (z_kw - cubes_w));
    const double of_y = warp_sum(y_bz - b * (z_ky - cubes_y));
    const double of_x = kBases == 3 ? warp_sum(x_bz - b * (z_kx - cubes_x)) : 0;
#pragma unroll
    for (int c = 0; c < kBases; ++c) {
      const double along = warp_sum(z_residual[c]), square = warp_sum(squared[c]);
      double divergence = a * (spread + (along - zz) * b_cubes + of_w +
                               (c == 0 ? 0 : mu * (c == 1 ? of_y : of_y - of_x))) +
                          d * (c == 0 ? 1 : 1 - mu * b);
      if (c == 2) divergence += mu * b * static_cast<double>(p.to.start_divergence[row]);
      if (lane == 0) {
        p.risks[(g * kBases + c) * m + i] = square / 2 - along + divergence;
        p.divergences[(g * kBases + c) * m + i] = divergence;
      }
    }
  }
}

// Computes the mean and the standard error of the risks, chooses the best base, and takes the next
// step of the search. A thread block takes a group. Work: reads 2 m values for each base.
// Registers: at most 128.
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
    const int64_t bases = p.bases, count = p.thinning.count[g];
    const int32_t* const kept = p.thinning.kept + g * m;
    // A start of zeros is the Gaussian score, which is base 1.
    const bool without_start = bases == 3 && p.start_largest[g] == 0;
    int base = 0;
    MeanAndError best = mean_risk(p.risks + g * bases * m, kept, m, count, sums);
    for (int c = 1; c < (without_start ? 2 : bases); ++c) {
      const MeanAndError risk = mean_risk(p.risks + (g * bases + c) * m, kept, m, count, sums);
      if (!(risk.mean + risk.error < best.mean + best.error)) continue;
      best = risk;
      base = c;
    }
    if (threadIdx.x == 0) {
      GroupSearch& search = p.search[g];
      search.kept = search.record(i, best.mean + best.error) ? base : -1;
      const int next = search.after(i);
      search.kept_mu = search.mu;
      if (search.kept >= 0) {
        p.to.lambda[g] = static_cast<T>(lambda_at(i));
        p.to.base[g] = search.result = base;
        search.result_at = i;
        p.to.risk[g] = static_cast<T>(best.mean);
        p.to.error[g] = static_cast<T>(best.error);
      }
      if (next >= 0) search.mu = lambda_at(next) * static_cast<double>(count);
      p.next[g] = next;
    }
  }
}

// Copies F and div_i of this round if they are the best so far, elementwise. With `again`, div_i is
// not copied, because the divergences of the choice remain. Work: reads 2 m r or 3 m r values and
// writes m r. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4) keep_kernel(Adaptive<T> p, bool again) {
  const int64_t r = p.r, count = p.m * r;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    if (p.not_kept(g)) continue;
    const T shift = p.kept_shift(g);
    const int32_t base = p.search[g].kept;
    const double* const divergences = p.divergences + (g * p.bases + base) * p.m;
    grid_stride<kElementThreads>(count, [&](int64_t e) {
      const int64_t i = g * p.m + e / r, at = i * p.n + e % r;
      const T f = -p.wy[at] - shift * p.wy[at + r];
      p.best[g * count + e] = base == 2 ? f + shift * p.wy[at + 2 * r] : f;
      if (e % r == 0 && !again) p.to.divergence[i] = static_cast<T>(divergences[e / r]);
    });
  }
}

// Selects the groups whose score is computed again, at all samples. In these groups samples were
// left out of the choice, and the result has a correction. A thread takes a group. Registers: at
// most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4) all_samples_kernel(Adaptive<T> p) {
  grid_stride<kElementThreads>(p.groups, [&](int64_t g) {
    GroupSearch& search = p.search[g];
    const bool again = search.result_at >= 0 && !p.thinning.all_kept(g);
    p.next[g] = again ? search.result_at : -1;
    search.kept = again ? search.result : -1;
    if (again) search.mu = search.kept_mu = lambda_at(search.result_at) * static_cast<double>(p.m);
  });
}

// Copies div_i of the nearest kept sample to each sample that was left out, elementwise. Work:
// reads and writes m values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4) nearest_divergence_kernel(Adaptive<T> p) {
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    if (p.idle(g)) continue;
    T* const divergence = p.to.divergence + g * p.m;
    grid_stride<kElementThreads>(p.m, [&](int64_t i) {
      const int32_t nearest = p.thinning.nearest[g * p.m + i];
      if (nearest != i) divergence[i] = divergence[nearest];
    });
  }
}

// Replaces z by the departure F + z of the result, elementwise. If the result is the Gaussian
// score, the departure is 0, z is not replaced, and next[g] becomes −1. Work: reads 2 m r values
// and writes m r. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kElementThreads, 4) departure_kernel(Adaptive<T> p) {
  const int64_t count = p.m * p.r;
  for (int64_t g = blockIdx.y; g < p.groups; g += gridDim.y) {
    const T sigma = p.to.bandwidth[g];
    const bool gaussian = sigma - sigma == T(0) && p.search[g].result < 0;
    if (blockIdx.x == 0 && threadIdx.x == 0) p.next[g] = gaussian ? -1 : 0;
    if (gaussian) continue;
    grid_stride<kElementThreads>(count,
                                 [&](int64_t e) { p.z[g * count + e] += p.best[g * count + e]; });
  }
}

}  // namespace mige::cuda
