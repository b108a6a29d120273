// Inverses of symmetric positive definite matrices: A = L Lᵀ, X = L⁻¹, A⁻¹ = XᵀX. inverse.cu has
// the algorithm. Work: n³ flop, a third of it in the final product; reads and writes about n³ / 96
// values.
#pragma once

#include "cuda/core/workspace.cuh"
#include "cuda/linalg/contraction.cuh"

namespace mige::cuda {

constexpr int kPivots = kProductTile;  // number of pivots in a step

template <typename T>
struct InverseArguments : Workspace {
  int64_t groups, n;
  const int32_t* next;             // [groups] or nullptr: a group with a negative value is skipped
  T* a = take<T>(groups * n * n);  // A; then X in the lower triangle
  T* out = take<T>(groups * n * n);                // A⁻¹
  T* pivot = take<T>(groups * kPivots * kPivots);  // X_KK
  T* column = take<T>(groups * n * kPivots);       // L_IK

  __device__ __forceinline__ bool idle(int64_t g) const { return next != nullptr && next[g] < 0; }
  __device__ __forceinline__ int pivots(int64_t k0) const {
    return static_cast<int>(at_most(n - k0, kPivots));
  }
};

// Computes out = A⁻¹, and X in the lower triangle of `a`. If a pivot is not positive, all later
// results of the matrix are NaN.
template <typename T>
void invert(const InverseArguments<T>& p, Stream& stream);

}  // namespace mige::cuda
