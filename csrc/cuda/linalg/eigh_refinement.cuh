// Refinement of the eigenpairs of symmetric matrices, with sums in double:
//
//   E = (I − U Uᵀ) / 2           U [n, n], one eigenvector per row
//   W = U + E U                  a Newton-Schulz step toward an orthogonal matrix
//   λ_i = w_iᵀ K w_i / ‖w_i‖²    Rayleigh quotients
//
// The errors in float, with ε for the distance of 1 to the next number:
//   - After the solvers, the elements of I − U Uᵀ are several ε. Before W is rounded, the elements
//     of I − W Wᵀ have the size of the squares of these elements.
//   - The rounding of W changes W Wᵀ by at most ε. The rounding errors δ_jk of w_jk are at most
//     |w_jk| ε/2, so Σ_k |w_ik δ_jk| <= ε/2 by Cauchy and Schwarz. An element has two such sums.
//   - A Rayleigh quotient has an error of about ‖r‖² / gap, for the residual r = K w − λ w and the
//     distance `gap` to the other eigenvalues. This error is far below ε/2, the rounding error of
//     λ, unless eigenvalues are closer to each other than ‖r‖. By Weyl's theorem the error is at
//     most the norm of the matrix of all residuals.
//
// Work in multiply-adds: E takes n³/2 and K W takes n³ in double, and E U takes n³ in T. For 500
// matrices with n = 100, with the unused parts of tiles, these are 1.6 G in double and 0.9 G in T.
// Times predicted from these counts: an H100 computes 64 multiply-adds in double per clock cycle
// and multiprocessor. The refinement takes at least 0.15 ms, and the Jacobi iteration at least
// 1.0 ms. A consumer card (170 multiprocessors, 2.4 GHz) computes only 2 multiply-adds in double
// per clock cycle and multiprocessor. The refinement takes 2 ms, which is longer than the
// iteration.
#pragma once

#include "cuda/linalg/eigh.cuh"

namespace mige::cuda {

// The operand (tile.cuh) whose value (i, k) is `scale` times the element (i, k) of a symmetric
// matrix p. Only the lower triangle of p is read.
template <typename Source>
struct SymmetricOperand : Operand<double, true, Source> {
  template <int kThreadTile>
  __device__ __forceinline__ void fetch(int64_t row0, int64_t k0,
                                        double (&values)[kThreadTile]) const {
#pragma unroll
    for (int e = 0; e < kThreadTile; ++e) {
      const auto place = this->template place<kThreadTile>(e);
      const int64_t i = row0 + place.row, k = k0 + place.k;
      const int64_t at = k <= i ? i * this->stride + k : k * this->stride + i;
      values[e] =
          i < this->count && k < this->depth ? this->scale * static_cast<double>(this->p[at]) : 0;
    }
  }
};

// The rows of `scale` · K of each group, an operand of contraction.cuh.
template <typename T>
struct ScaledSymmetric {
  Eigenproblem<T> e;

  __device__ auto at(int64_t g, int64_t) const {
    const int64_t n = e.n;
    const T scale = matrix_scale(MatrixKind::kSymmetric, magnitude_of<T>(e.largest[g]));
    return SymmetricOperand<T>{{e.k + g * n * n, n, n, n, static_cast<double>(scale)}};
  }
};

// Stores E from the sums U Uᵀ.
template <typename T>
struct StoreCorrection {
  using Sum = double;
  T* out;  // [groups, n, n]

  __device__ auto of(int64_t g, int64_t, int64_t n) const {
    T* const target = out + g * n * n;
    return [=](int64_t i, int64_t j, double sum) {
      if (j > i) return;
      const T half = static_cast<T>(((i == j ? 1 : 0) - sum) / 2);
      target[i * n + j] = half;
      target[j * n + i] = half;
    };
  }
};
template <typename T>
constexpr bool kLowerTriangle<StoreCorrection<T>> = true;

// Stores W = U + E U from the sums E U.
template <typename T>
struct AddTo {
  using Sum = T;
  const T* u;  // [groups, n, n]
  T* out;      // [groups, n, n]

  __device__ auto of(int64_t g, int64_t, int64_t n) const {
    const T* const from = u + g * n * n;
    T* const target = out + g * n * n;
    return [=](int64_t i, int64_t j, T sum) { target[i * n + j] = from[i * n + j] + sum; };
  }
};

// The eigenproblem, whose `values` and `vectors` hold the results of a solver, and the arrays of
// the workspace.
template <typename T>
struct RefinementArguments : Workspace {
  Eigenproblem<T> e;
  int64_t values = e.groups * e.n * e.n;
  T* w = take<T>(values);                  // [groups, n, n], one vector per row
  double* product = take<double>(values);  // [groups, n, n]: first E, then scale W K
  T* quotient = take<T>(e.groups * e.n);   // scale λ
  T* correction() const { return reinterpret_cast<T*>(product); }
};

// Computes the Rayleigh quotients. A warp takes a vector, and blockIdx.y the group. Work: 4 n²
// flop in double; reads 2 n² values. Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) rayleigh_kernel(RefinementArguments<T> p) {
  const int64_t n = p.e.n;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y)
    for_each_row(n, [&](int64_t j) {
      const T* const w = p.w + (g * n + j) * n;
      const double* const product = p.product + (g * n + j) * n;
      double sum = 0, square = 0;
      for (int64_t i = threadIdx.x % kWarp; i < n; i += kWarp) {
        const double value = w[i];
        sum += value * product[i];
        square += value * value;
      }
      sum = warp_sum(sum);
      square = warp_sum(square);
      if (threadIdx.x % kWarp == 0) p.quotient[g * n + j] = static_cast<T>(sum / square);
    });
}

// Writes the eigenpairs in ascending order of the Rayleigh quotients, which may differ from the
// order of the solver's eigenvalues. If a solver could not decompose a matrix, its vectors and
// quotients are NaN. A warp takes a vector, and blockIdx.y the group. Work: reads 2 n² values,
// writes n². Registers: at most 64.
template <typename T>
__global__ void __launch_bounds__(kRowThreads, 4) write_refined_kernel(RefinementArguments<T> p) {
  const int64_t n = p.e.n;
  for (int64_t g = blockIdx.y; g < p.e.groups; g += gridDim.y) {
    const T scale = matrix_scale(MatrixKind::kSymmetric, magnitude_of<T>(p.e.largest[g]));
    for_each_row(n, [&](int64_t j) {
      const T* const quotient = p.quotient + g * n;
      const Eigenpairs<T> out{T(0),
                              scale,
                              true,
                              !(quotient[j] == quotient[j]),
                              p.e.values + g * n,
                              p.e.vectors + g * n * n};
      write_eigenpair(p.w + (g * n + j) * n, quotient, n, j, out, [](int64_t i) { return i; });
    });
  }
}

template <typename T>
int64_t refine_eigenpairs_work(const Eigenproblem<T>& e) {
  return RefinementArguments<T>{Workspace(nullptr), e}.size();
}

template <typename T>
void refine_eigenpairs(const Eigenproblem<T>& e, void* work, Stream& stream) {
  using Widened = Rows<double, false, T>;
  const RefinementArguments<T> p{Workspace(work), e};
  const int64_t n = e.n;
  const ContractionShape shape{e.groups, n, n};
  const Widened u{e.vectors, n, n}, w{p.w, n, n};
  contract<double>(u, u, StoreCorrection<T>{p.correction()}, shape, stream);
  contract<T>(Rows<T>{p.correction(), n, n}, Columns<T>{e.vectors, n, n}, AddTo<T>{e.vectors, p.w},
              shape, stream);
  contract<double>(w, ScaledSymmetric<T>{e}, Store<double>{p.product}, shape, stream);
  stream.launch(rayleigh_kernel<T>, row_warps(n, e.groups), p);
  stream.launch(write_refined_kernel<T>, row_warps(n, e.groups), p);
}

}  // namespace mige::cuda
