// The functions of the CUDA runtime that the bindings use.
#include <cuda_runtime.h>

#include "cuda/launchers.h"

namespace mige::cuda {

const char* error_text(int status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

int use_device(int index) { return static_cast<int>(cudaSetDevice(index)); }

}  // namespace mige::cuda
