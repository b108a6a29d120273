// All interfaces of torch and of its libraries that are not part of torch's public stable ABI. Each
// comment names the public alternative that may replace the interface later.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>

// Torch 2.11 and 2.12 have the macro under its older name, TORCH_ERROR_CODE_CHECK.
#ifndef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK(call) TORCH_ERROR_CODE_CHECK(call)
#endif

extern "C" {
// The current CUDA stream and the device guard. These symbols of libtorch_cuda are weak, so that
// they are NULL under a CPU torch. torch::stable::accelerator can replace them when it works in a
// library that is built without libtorch_cuda.
__attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                        void** ret_stream);
struct CUDAGuardOpaque;
__attribute__((weak)) AOTITorchError aoti_torch_create_cuda_guard(int32_t device_index,
                                                                  CUDAGuardOpaque** ret_guard);
__attribute__((weak)) AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardOpaque* guard);

// The LAPACK and MKL that libtorch_cpu contains or links. The symbols are NULL in a torch that
// hides them. A batched torch.linalg.eigh that runs matrices in parallel would replace them.
__attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);
__attribute__((weak)) void ssyevd_(const char* jobz, const char* uplo, const int* n, float* a,
                                   const int* lda, float* w, float* work, const int* lwork,
                                   int* iwork, const int* liwork, int* info);
__attribute__((weak)) void dsyevd_(const char* jobz, const char* uplo, const int* n, double* a,
                                   const int* lda, double* w, double* work, const int* lwork,
                                   int* iwork, const int* liwork, int* info);
}

namespace mige::bind {

inline bool cuda_torch_found() {
  return aoti_torch_get_current_cuda_stream && aoti_torch_create_cuda_guard &&
         aoti_torch_delete_cuda_guard;
}

// torch.linalg.eigh: ascending eigenvalues, and eigenvectors in the columns of a column-major
// matrix. A function torch::stable::linalg_eigh would replace it.
//
// Every call leaks 48 bytes, because torch's conversion of "U" does not free its copy. (The leak
// fragments the heap: the memory of a training loop grew by 1.6 MB per step.) This function is
// therefore used only if LAPACK is not found or the matrix is large.
inline std::pair<torch::stable::Tensor, torch::stable::Tensor> linalg_eigh(
    const torch::stable::Tensor& k) {
  namespace detail = torch::stable::detail;
  std::array<StableIValue, 2> stack{detail::from(k), detail::from(std::string("U"))};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::linalg_eigh", "", stack.data(), TORCH_ABI_VERSION));
  return {detail::to<torch::stable::Tensor>(stack[0]), detail::to<torch::stable::Tensor>(stack[1])};
}

}  // namespace mige::bind
