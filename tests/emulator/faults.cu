// Kernels with one fault each, and the same kernels without the fault (kMended). The emulator must
// report the faults, and must accept the kernels without them.
//
// A comment `here: NAME` marks the line that the report must name. test_emulator.py searches for
// this comment. All kernels read x [kN] and write out [kN], where kN is the number of threads.
#include "faults.h"

#include <map>

#include "cuda/core/device.cuh"

namespace mige::cuda {
namespace {

constexpr int kN = kFaultThreads;
constexpr unsigned kHalfWarp = 0x0000ffffu;

template <bool kMended>
__global__ void write_then_read(const float* x, float* out) {
  __shared__ float s[kN];
  const int t = threadIdx.x;
  s[t] = x[t];
  if (kMended) __syncthreads();
  out[t] = s[kN - 1 - t];  // here: write_then_read
}

// The fault has no effect in ascending order, because the neighbor has not written yet.
template <bool kMended>
__global__ void read_then_write(const float* x, float* out) {
  __shared__ float s[kN];
  const int t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  const float neighbor = s[t + 1 < kN ? t + 1 : t];
  if (kMended) __syncthreads();
  s[t] = 2 * neighbor;  // here: read_then_write
  __syncthreads();
  out[t] = s[t];
}

// The fault is a missing barrier at the end of a loop body. Without it the next round overwrites
// values of this one.
template <bool kMended>
__global__ void between_rounds(const float* x, float* out) {
  __shared__ float s[kN];
  const int t = threadIdx.x;
  float sum = 0;
  for (int round = 1; round <= 3; ++round) {
    s[t] = static_cast<float>(round) * x[t];  // here: between_rounds
    __syncthreads();
    sum += s[t + 1 < kN ? t + 1 : t];
    if (kMended) __syncthreads();
  }
  out[t] = sum;
}

// No schedule reveals this fault, because threads are not interrupted within an addition.
template <bool kMended>
__global__ void plain_addition(const float* x, float* out) {
  __shared__ float sum;
  const int t = threadIdx.x;
  if (t == 0) sum = 0;
  __syncthreads();
  if (kMended)
    atomicAdd(&sum, x[t]);
  else
    sum += x[t];  // here: plain_addition
  __syncthreads();
  out[t] = sum;
}

template <bool kMended>
__global__ void within_a_warp(const float* x, float* out) {
  __shared__ float s[kN];
  const int t = threadIdx.x;
  s[t] = x[t];
  if (kMended) __syncwarp();
  out[t] = s[t ^ 1];  // here: within_a_warp
}

template <bool kMended>
__global__ void two_barriers(const float* x, float* out) {
  const int t = threadIdx.x;
  if (kMended || t < kWarp)
    __syncthreads();
  else
    __syncthreads();  // here: two_barriers
  out[t] = x[t];
}

template <bool kMended>
__global__ void barrier_and_syncwarp(const float* x, float* out) {
  const int t = threadIdx.x;
  if (kMended || t % kWarp < 7)
    __syncthreads();
  else
    __syncwarp();  // here: barrier_and_syncwarp
  out[t] = x[t];
}

template <bool kMended>
__global__ void early_return(const float* x, float* out) {
  const int t = threadIdx.x;
  out[t] = x[t];
  if (!kMended && t == 5) return;
  __syncthreads();  // here: early_return
}

template <bool kMended>
__global__ void mask_names_a_lane_that_returned(const float* x, float* out) {
  const int t = threadIdx.x;
  out[t] = x[t];
  if (t % kWarp >= 16) return;
  const unsigned mask = kMended ? kHalfWarp : kFullMask;
  out[t] = __shfl_xor_sync(mask, x[t], 1);  // here: mask_names_a_lane_that_returned
}

template <bool kMended>
__global__ void mask_without_the_caller(const float* x, float* out) {
  const int t = threadIdx.x;
  const unsigned mask = kMended ? kFullMask : kHalfWarp;
  out[t] = __shfl_xor_sync(mask, x[t], 1);  // here: mask_without_the_caller
}

template <bool kMended>
__global__ void reads_a_lane_outside_the_mask(const float* x, float* out) {
  const int t = threadIdx.x;
  const int source = kMended ? 3 : 20;
  out[t] = x[t];
  if (t % kWarp < 16)
    out[t] = __shfl_sync(kHalfWarp, x[t], source);  // here: reads_a_lane_outside_the_mask
}

// One half of the warp waits for all lanes. The other half waits for its own lanes and one lane of
// the first half.
template <bool kMended>
__global__ void masks_that_differ(const float* x, float* out) {
  const int t = threadIdx.x;
  const unsigned upper = kMended ? kFullMask : 0xffff8000u;
  __syncwarp(t % kWarp < 16 ? kFullMask : upper);  // here: masks_that_differ
  out[t] = x[t];
}

template <bool kMended>
__global__ void global_overrun(const float* x, float* out) {
  const int t = threadIdx.x;
  const int next = kMended ? (t + 1) % kN : t + 1;
  out[t] = x[next];  // here: global_overrun
}

template <bool kMended>
__global__ void dynamic_overrun(const float* x, float* out) {
  float* const s = dynamic_smem<float>();  // [kN]
  const int t = threadIdx.x;
  s[kMended ? t : t + 1] = x[t];  // here: dynamic_overrun
  __syncthreads();
  out[t] = s[t];
}

template <bool kMended>
__global__ void static_overrun(const float* x, float* out) {
  __shared__ float s[kN];
  __shared__ float neighbor[kN];
  const int t = threadIdx.x;
  neighbor[t] = 0;
  float* volatile p = s;          // so that only AddressSanitizer knows where s ends
  p[kMended ? t : t + 1] = x[t];  // here: static_overrun
  __syncthreads();
  out[t] = s[t] + neighbor[t];
}

// On a GPU the second block may find the values of the first block in memory. The emulator
// overwrites these values.
template <bool kMended>
__global__ void uninitialized_static(const float* x, float* out) {
  __shared__ float s[kN];
  const int t = threadIdx.x;
  if (kMended || blockIdx.x == 0) s[t] = x[t];
  __syncthreads();
  out[t] = s[t];
}

template <bool kMended>
__global__ void uninitialized_dynamic(const float* x, float* out) {
  float* const s = dynamic_smem<float>();  // [kN]
  const int t = threadIdx.x;
  if (kMended || blockIdx.x == 0) s[t] = x[t];
  __syncthreads();
  out[t] = s[t];
}

template <bool kMended>
__global__ void unwritten_output(const float* x, float* out) {
  const int t = threadIdx.x;
  if (kMended || t != 3) out[t] = x[t];
}

__global__ void nothing() {}

// Calls every shuffle, vote and atomic function.
__global__ void primitives(const float* x,  // [kN]
                           float* out) {    // [kPrimitives, kN]
  __shared__ int counter;
  __shared__ int largest;
  __shared__ float sum;
  __shared__ unsigned long long exchanged;
  const int t = threadIdx.x;
  float* next = out + t;
  const auto put = [&](float value) {
    *next = value;
    next += kN;
  };
  put(__shfl_sync(kFullMask, x[t], 5));
  put(__shfl_sync(kFullMask, x[t], 11, 8));
  put(__shfl_up_sync(kFullMask, x[t], 3, 16));
  put(__shfl_down_sync(kFullMask, x[t], 3));
  put(static_cast<float>(__shfl_xor_sync(kFullMask, static_cast<double>(x[t]), 9)));
  put(static_cast<float>(__popc(__ballot_sync(kFullMask, t % 3 == 0))));
  put(static_cast<float>(10 * __any_sync(kFullMask, t == 40) + __all_sync(kFullMask, t < 32)));
  put(static_cast<float>(100 * __syncthreads_count(t < 9) + 10 * __syncthreads_or(t == 9) +
                         __syncthreads_and(t < 63)));
  if (t == 0) {
    counter = 0;
    largest = -1;
    sum = 0;
    exchanged = 7;
  }
  __syncthreads();
  atomicAdd(&counter, 2);
  atomicMax(&largest, t);
  atomicAdd(&sum, x[t]);
  if (t == 1) atomicCAS(&exchanged, 7ull, 8ull);
  __syncthreads();
  put(static_cast<float>(counter));
  put(static_cast<float>(largest));
  put(sum);
  put(static_cast<float>(exchanged));
}

struct Fault {
  void (*faulty)(const float*, float*);
  void (*mended)(const float*, float*);
  unsigned blocks = 1;
  size_t smem = 0;
};

const std::map<std::string, Fault>& faults() {
  constexpr size_t kBytes = kN * sizeof(float);
  static const std::map<std::string, Fault> table = {
      {"write_then_read", {write_then_read<false>, write_then_read<true>}},
      {"read_then_write", {read_then_write<false>, read_then_write<true>}},
      {"between_rounds", {between_rounds<false>, between_rounds<true>}},
      {"plain_addition", {plain_addition<false>, plain_addition<true>}},
      {"within_a_warp", {within_a_warp<false>, within_a_warp<true>}},
      {"two_barriers", {two_barriers<false>, two_barriers<true>}},
      {"barrier_and_syncwarp", {barrier_and_syncwarp<false>, barrier_and_syncwarp<true>}},
      {"early_return", {early_return<false>, early_return<true>}},
      {"mask_names_a_lane_that_returned",
       {mask_names_a_lane_that_returned<false>, mask_names_a_lane_that_returned<true>}},
      {"mask_without_the_caller", {mask_without_the_caller<false>, mask_without_the_caller<true>}},
      {"reads_a_lane_outside_the_mask",
       {reads_a_lane_outside_the_mask<false>, reads_a_lane_outside_the_mask<true>}},
      {"masks_that_differ", {masks_that_differ<false>, masks_that_differ<true>}},
      {"global_overrun", {global_overrun<false>, global_overrun<true>}},
      {"dynamic_overrun", {dynamic_overrun<false>, dynamic_overrun<true>, 1, kBytes}},
      {"static_overrun", {static_overrun<false>, static_overrun<true>}},
      {"uninitialized_static", {uninitialized_static<false>, uninitialized_static<true>, 2}},
      {"uninitialized_dynamic",
       {uninitialized_dynamic<false>, uninitialized_dynamic<true>, 2, kBytes}},
      {"unwritten_output", {unwritten_output<false>, unwritten_output<true>}},
  };
  return table;
}

}  // namespace

std::vector<std::string> fault_names() {
  std::vector<std::string> names;
  for (const auto& [name, fault] : faults()) names.push_back(name);
  return names;
}

int run_fault(const std::string& name, bool mended, const float* x, float* out) {
  const Fault& fault = faults().at(name);
  Stream stream(nullptr);
  stream.launch(mended ? fault.mended : fault.faulty, {{fault.blocks}, kN, fault.smem}, x, out);
  return stream.status();
}

int launch_nothing(unsigned grid_x, unsigned grid_y, unsigned block, size_t smem) {
  Stream stream(nullptr);
  stream.launch(nothing, {{grid_x, grid_y}, static_cast<int>(block), smem});
  return stream.status();
}

int run_primitives(const float* x, float* out) {
  Stream stream(nullptr);
  stream.launch(primitives, {{}, kN}, x, out);
  return stream.status();
}

}  // namespace mige::cuda
