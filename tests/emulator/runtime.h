// Launches, barriers and warp primitives, on which the emulator's cuda_runtime.h is built. Each
// thread of a block is a fiber, and fibers wait for each other at barriers and warp primitives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda_types.h"

namespace mige::emulator {

// The file and line at which a kernel calls a primitive. here() as a default argument gives the
// line of the caller.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// --- launching ---

using Body = void (*)(void* context);

// A kernel, and text that contains the types of its parameters.
struct Kernel {
  const void* address;
  const char* types;
};

// Runs the body once for every thread of the grid, one block after another. A launch that a GPU
// would refuse sets cudaGetLastError(). A fault of a kernel throws std::runtime_error.
void run(Kernel kernel, dim3 grid, dim3 block, size_t smem, Body body, void* context);

template <typename F>
void launch(const void* kernel, dim3 grid, dim3 block, size_t smem, F body) {
  run(
      {kernel, __PRETTY_FUNCTION__}, grid, block, smem,
      [](void* context) { (*static_cast<F*>(context))(); }, &body);
}

// A launch that was accepted.
struct Launch {
  const char* types;
  uint64_t blocks;
};

// The launches since the last call of this function.
std::vector<Launch> take_launches();

// --- functions that a running thread calls ---

// The dynamic shared memory of the current block.
void* dynamic_smem();

enum class Vote { kCount, kAnd, kOr };

// Waits for all threads of the block. Returns the result of their vote.
int meet_block(const char* primitive, Site site, Vote vote = Vote::kCount, int predicate = 0);

// Waits for the lanes of the mask.
void meet_warp(const char* primitive, Site site, unsigned mask);

// Waits for the lanes of the mask. Returns the mask of the lanes whose predicate is true.
unsigned ballot(const char* primitive, Site site, unsigned mask, bool predicate);

// How a shuffle selects the lane that it reads.
enum class Shuffle { kIndex, kUp, kDown, kXor };

// Waits for the lanes of the mask. Returns the value of the lane that `how` and `operand` select.
uint64_t shuffle(const char* primitive, Site site, unsigned mask, uint64_t value, Shuffle how,
                 int operand, int width);

// --- approximate instructions ---

// 1 / √v and 1 / v, with denormal numbers as zero. The error depends only on the exact result and
// the noise, so threads with equal arguments get equal results, as on a GPU.
float approximate_rsqrt(float v);
float approximate_reciprocal(float v);

// --- settings ---

// The order in which the threads of a block run within a round. In a round every ready thread runs
// up to its next barrier or warp primitive (scheduler.h). kShuffled draws a new order for every
// round from a fixed seed.
enum class Schedule { kAscending, kDescending, kShuffled };
void set_schedule(Schedule schedule);

// The error of approximate instructions. With noise 0 their results are exact. Any other noise is
// the seed of errors of up to 2 units in the last place.
void set_noise(unsigned noise);

// The emulated device. The default values are those of the H100.
struct Device {
  // Bytes that a kernel may request by cudaFuncSetAttribute.
  int shared_memory_per_block = 227 * 1024;
  int multiprocessors = 132;
  int index = 0;
};
Device& device();
// Makes another device with a new index the current device.
void set_device(int shared_memory_per_block, int multiprocessors);

}  // namespace mige::emulator
