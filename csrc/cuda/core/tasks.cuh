// Tasks that the thread blocks of one launch take in a fixed order, and that may wait for each
// other.
//
// Running thread blocks take the tasks in ascending order. A task waits only for tasks with lower
// numbers. The lowest unfinished task therefore never waits, and a running thread block works on
// it. A launch thus ends even if not all its thread blocks run at the same time.
//
// A task may read the results of earlier tasks of the same launch, but not as read-only data
// (`__ldg`).
#pragma once

#include "cuda/core/device.cuh"

namespace mige::cuda {

using TaskCount = unsigned long long;

// The number of the next task. All threads of a thread block must call take_task together.
__device__ __forceinline__ TaskCount take_task(TaskCount* next,  // in global memory, starts at 0
                                               TaskCount* broadcast)  // in shared memory
{
  __syncthreads();  // the number of the previous task has been read
  if (threadIdx.x == 0) *broadcast = atomicAdd(next, TaskCount(1));
  __syncthreads();
  return *broadcast;
}

// Waits until `finished` is at least `count`. After the call all threads see the results of the
// finished tasks.
__device__ __forceinline__ void wait_for_tasks(const TaskCount* finished,  // in global memory
                                               TaskCount count) {
  if (threadIdx.x == 0) {
    while (*static_cast<const volatile TaskCount*>(finished) < count) {
    }
    __threadfence();
  }
  __syncthreads();
}

// Adds one to `finished`, after all threads have written their results.
__device__ __forceinline__ void finish_task(TaskCount* finished) {  // in global memory
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(finished, TaskCount(1));
  }
}

}  // namespace mige::cuda
