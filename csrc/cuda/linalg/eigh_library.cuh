// The symmetric eigendecomposition by a library (eigh_library.h). As with the Jacobi kernels, only
// the lower triangle is read, any magnitude is accepted, and a matrix that is not finite or does
// not converge gives NaN. Unlike the Jacobi kernels, the library loses the relative accuracy of
// small eigenvalues of a Gram matrix in float32 (docs/decisions.md).
#pragma once

#include "cuda/linalg/eigh_small.cuh"

namespace mige::cuda {

enum class Solver { kOwn, kLibrary };

// The solver of matrices of n rows. Without MIGE_CUSOLVER it is always kOwn.
Solver solver_of(int64_t n);

// The bytes of workspace of eigh_by_library().
template <typename T>
int64_t library_work(const Eigenproblem<T>& e);

// Writes the eigenvalues, the eigenvectors and info of every group.
template <typename T>
void eigh_by_library(const Eigenproblem<T>& e, MatrixKind kind, void* work, Stream& stream);

}  // namespace mige::cuda
