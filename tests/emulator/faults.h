// Launches the kernels of faults.cu; names as in its table.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace mige::cuda {

constexpr int kFaultThreads = 64;  // two warps, and as many numbers

std::vector<std::string> fault_names();

// Returns a cudaError_t; std::out_of_range for an unknown name.
int run_fault(const std::string& name, bool mended, const float* x,  // [kFaultThreads]
              float* out);                                           // [kFaultThreads]

// One launch of a kernel that does nothing, for what the launch itself refuses.
int launch_nothing(unsigned grid_x, unsigned grid_y, unsigned block, size_t smem);

// out[i]: a shuffle, a vote or an atomic by every thread; see faults.cu.
int run_primitives(const float* x,  // [kFaultThreads]
                   float* out);     // [kPrimitives, kFaultThreads]
constexpr int kPrimitives = 12;

}  // namespace mige::cuda
