// The CUDA side of libtorch, reached without linking to it.
//
// `_C` is built against any torch, the CPU wheel included, so the symbols of libtorch_cuda are
// declared weak: they are NULL under a CPU torch, and set once a CUDA torch has been imported.
#pragma once

#include "bind/checks.h"
#include "cuda/launchers.h"

extern "C" {
__attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                        void** ret_stream);
struct CUDAGuardOpaque;
__attribute__((weak)) AOTITorchError aoti_torch_create_cuda_guard(int32_t device_index,
                                                                  CUDAGuardOpaque** ret_guard);
__attribute__((weak)) AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardOpaque* guard);
}

namespace mige::bind {

inline bool cuda_torch_found() {
  return aoti_torch_get_current_cuda_stream && aoti_torch_create_cuda_guard &&
         aoti_torch_delete_cuda_guard;
}

// The device of a tensor made current for the life of this object, and its current stream.
class CudaContext {
 public:
  explicit CudaContext(const Tensor& t) {
    if (!cuda_torch_found()) fail("this torch has no CUDA support, got a CUDA tensor");
    // The guard last: a destructor does not run for what a constructor has left behind.
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream_));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_cuda_guard(t.get_device_index(), &guard_));
  }
  ~CudaContext() { aoti_torch_delete_cuda_guard(guard_); }
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  void* stream() const { return stream_; }

  void check(const char* operation, int status) const {
    if (status != 0) fail(operation, ": CUDA error ", status, ": ", cuda::error_text(status));
  }

 private:
  CUDAGuardOpaque* guard_ = nullptr;
  void* stream_ = nullptr;
};

// Scratch memory of a launcher on the device of t. It goes back to torch's allocator while kernels
// may still use it, which hands it out again in the order of the same stream.
inline Tensor work_space(const Tensor& t, int64_t bytes) {
  return empty(t, {bytes}, ScalarType::Byte);
}

}  // namespace mige::bind
