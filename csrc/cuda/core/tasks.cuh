// Tasks that the thread blocks of one launch take in a fixed order, and that may wait for each
// other.
//
// Running thread blocks take the tasks in ascending order. A task waits only for tasks with lower
// numbers. The lowest unfinished task therefore never waits, and a running thread block has it. So
// a launch ends with any number of thread blocks, whether or not all of them are resident at once.
//
// What a task reads from memory that an earlier task of the same launch wrote must not be read as
// read-only data (`__ldg`).
#pragma once

#include "cuda/core/device.cuh"

namespace mige::cuda {

using TaskCount = unsigned long long;

// The number of the next task. All threads of a thread block must call this together.
__device__ __forceinline__ TaskCount take_task(TaskCount* next,  // in global memory, starts at 0
                                               TaskCount* broadcast)  // in shared memory
{
  __syncthreads();  // the number of the previous task has been read
  if (threadIdx.x == 0) *broadcast = atomicAdd(next, TaskCount(1));
  __syncthreads();
  return *broadcast;
}

// Waits until `finished` is at least `count`. Then all threads see what those tasks wrote.
__device__ __forceinline__ void wait_for_tasks(const int* finished, int count) {
  if (threadIdx.x == 0) {
    while (*static_cast<const volatile int*>(finished) < count) {
    }
    __threadfence();
  }
  __syncthreads();
}

// Adds one to `finished`, after all threads have written their results.
__device__ __forceinline__ void finish_task(int* finished) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(finished, 1);
  }
}

}  // namespace mige::cuda
