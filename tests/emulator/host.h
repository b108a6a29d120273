// Functions and limits that runtime.cpp, the scheduler and the bindings share.
#pragma once

#include <string>

#include "runtime.h"

namespace mige::emulator {

constexpr int kLargestBlock = 1024;  // threads

// Whether a GPU would accept this launch. If not, cudaGetLastError() returns the reason.
bool accept_launch(Kernel kernel, dim3 grid, dim3 block, size_t smem);

// Throws std::invalid_argument for an unknown name.
Schedule schedule_named(const std::string& name);

}  // namespace mige::emulator
