// What the scheduler asks of the host's side of the emulated CUDA runtime.
#pragma once

#include <string>

#include "runtime.h"

namespace mige::emulator {

constexpr int kLargestBlock = 1024;  // threads

// Whether a GPU would start this; if not, cudaGetLastError() says why.
bool accept_launch(dim3 grid, dim3 block, size_t smem);

Schedule schedule_named(const std::string& name);

}  // namespace mige::emulator
