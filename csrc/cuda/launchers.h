// The host launchers of the CUDA kernels, one per operator. A caller needs no CUDA headers.
//
// All pointers are on the device of `stream`. A launcher enqueues its kernels without waiting for
// the device, and returns a cudaError_t (0 for success). `work` is a workspace of at least
// <operator>_work bytes, aligned to 256 bytes. Its contents before the call do not matter. Results
// are bitwise the same from run to run and for any number of groups. A group with a NaN or an
// infinity in its input, or with a bandwidth that is not positive and finite, gives NaN in all
// results except J and the base of the adaptive scores, which are 0.
#pragma once

#include "common/operators.h"

namespace mige::cuda {

// The message of a cudaError_t.
const char* error_text(int status);

// Makes a device the current device of this library's copy of the CUDA runtime. Returns a
// cudaError_t.
int use_device(int index);

// Declares the launcher of an operator, and <operator>_work, which returns the bytes of its
// workspace.
#define MIGE_DECLARE(name, Arguments)                        \
  template <typename T>                                      \
  int name(const Arguments<T>& p, void* work, void* stream); \
  template <typename T>                                      \
  int64_t name##_work(const Arguments<T>& p)
MIGE_FOR_EACH_OPERATOR(MIGE_DECLARE);
#undef MIGE_DECLARE

}  // namespace mige::cuda
