// The error message for the status that a launcher returns.
#include <cuda_runtime.h>

#include "cuda/launchers.h"

namespace mige::cuda {

const char* error_text(int status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

}  // namespace mige::cuda
