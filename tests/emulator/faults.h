// Launches the kernels of faults.cu by their names.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace mige::cuda {

constexpr int kFaultThreads = 64;  // two warps; arrays have kFaultThreads elements

std::vector<std::string> fault_names();

// Runs the kernel `name`, with its fault or `mended`. Returns a cudaError_t, and throws
// std::out_of_range for an unknown name.
int run_fault(const std::string& name, bool mended, const float* x,  // [kFaultThreads]
              float* out);                                           // [kFaultThreads]

// Launches an empty kernel, to test which launch shapes are refused.
int launch_nothing(unsigned grid_x, unsigned grid_y, unsigned block, size_t smem);

// Writes the results of shuffles, votes and atomics to `out`, one primitive per row.
int run_primitives(const float* x,  // [kFaultThreads]
                   float* out);     // [kPrimitives, kFaultThreads]
constexpr int kPrimitives = 12;

}  // namespace mige::cuda
