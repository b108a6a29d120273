#include "scheduler.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>

#include "cuda_runtime.h"
#include "host.h"
#include "messages.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// The __shared__ arrays of all kernels (shared.ld).
extern "C" __attribute__((visibility("hidden"))) unsigned char mige_shared_begin[],
    mige_shared_end[];

namespace mige::emulator {
namespace {

constexpr uint64_t kSeed = 20;

// Fills memory with a pattern that is NaN as a float and as a double, and -1 as an integer. The
// arrays of a section have redzones between them, where AddressSanitizer would report memset as an
// error. The instruction in assembly is not checked.
void poison(void* begin, size_t bytes) {
  asm volatile("rep stosb" : "+D"(begin), "+c"(bytes) : "a"(0xff) : "memory");
}

}  // namespace

// The entry of a fiber. The fiber runs the thread with one index in every block, one block after
// another.
void Scheduler::run_thread(void* self) {
  Scheduler& scheduler = *static_cast<Scheduler*>(self);
  for (;;) {
    scheduler.body_(scheduler.context_);
    scheduler.wait(State::kReturned, "return", {});
  }
}

std::string Scheduler::where(const Thread& thread) const {
  return "block " + text(blockIdx) + ", thread " + text(thread.index);
}

void Scheduler::stop(const std::string& what, const Thread& thread) const {
  throw std::runtime_error(what + "; " + where(thread));
}

void Scheduler::fail(const std::string& what) {
  error_ = what + "; " + where(*current_);
  for (;;) current_->fiber.suspend();
}

void Scheduler::run(dim3 grid, dim3 block, size_t smem, Body body, void* context) {
  if (busy_) throw std::logic_error("the emulator runs one kernel at a time");
  count_ = static_cast<int>(block.x * block.y * block.z);
  body_ = body;
  context_ = context;
  random_ = kSeed;
  error_.clear();
  // The allocation has exactly this size, so that AddressSanitizer reports accesses beyond its end.
  smem_.reset(std::malloc(smem));
  if (!smem_) throw std::bad_alloc();
  gridDim = grid;
  blockDim = block;
  order_of_threads_.resize(count_);
  std::iota(order_of_threads_.begin(), order_of_threads_.end(), 0);
  if (schedule == Schedule::kDescending)
    std::reverse(order_of_threads_.begin(), order_of_threads_.end());
  identities_.clear();
  for (int i = 0; i < count_; ++i) {
    Thread& thread = threads_[i];
    const unsigned u = static_cast<unsigned>(i);
    thread.index = {u % block.x, u / block.x % block.y, u / (block.x * block.y)};
    if (!thread.prepared) thread.fiber.prepare(run_thread, this, i);
    thread.prepared = true;
    identities_.push_back(thread.fiber.identity());
  }
  identities_.push_back(Fiber::main_identity());

  busy_ = true;
  try {
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
      for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
          poison(mige_shared_begin, static_cast<size_t>(mige_shared_end - mige_shared_begin));
          poison(smem_.get(), smem);
          run_block();
        }
  } catch (...) {
    // The other fibers stay suspended and never continue. Kernels own no resources that must be
    // released.
    order_all();
    for (int i = 0; i < count_; ++i) threads_[i].prepared = false;
    busy_ = false;
    throw;
  }
  busy_ = false;
  smem_.reset();
}

void Scheduler::run_block() {
  for (int i = 0; i < count_; ++i) threads_[i].state = State::kReady;
  order_all();
  for (;;) {
    arrange();
    for (const int i : order_of_threads_) {
      Thread& thread = threads_[i];
      if (thread.state != State::kReady) continue;
      current_ = &thread;
      threadIdx = thread.index;
      thread.fiber.resume();
      if (!error_.empty()) throw std::runtime_error(error_);
    }
    if (std::all_of(threads_.get(), threads_.get() + count_,
                    [](const Thread& t) { return t.state == State::kReturned; }))
      break;
    meet();
  }
  order_all();
}

// A Fisher-Yates shuffle with xorshift numbers, which are the same on every machine.
void Scheduler::arrange() {
  if (schedule != Schedule::kShuffled) return;
  for (int i = count_ - 1; i > 0; --i) {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    std::swap(order_of_threads_[i], order_of_threads_[random_ % static_cast<uint64_t>(i + 1)]);
  }
}

void Scheduler::order_all() {
  order(identities_.data(), static_cast<int>(identities_.size()), &edge_);
}

// Runs when no thread is ready. Makes the threads ready whose barrier or primitive is complete.
void Scheduler::meet() {
  bool any = meet_all();
  if (!any)
    for (int warp = 0; warp * kWarp < count_; ++warp) any |= meet_lanes(warp);
  if (any) return;
  const auto waiting = std::find_if(threads_.get(), threads_.get() + count_,
                                    [](const Thread& t) { return t.state == State::kAtWarp; });
  const auto other = std::find_if(threads_.get(), threads_.get() + count_, [&](const Thread& t) {
    return &t != waiting && t.state != State::kReturned &&
           (t.primitive != waiting->primitive || t.site.line != waiting->site.line ||
            t.mask != waiting->mask);
  });
  std::string what = text(waiting->primitive, waiting->site) + " with mask " +
                     hexadecimal(waiting->mask) + " waits forever";
  if (other != threads_.get() + count_)
    what += ": thread " + text(other->index) + " waits at " + text(other->primitive, other->site);
  stop(what, *waiting);
}

bool Scheduler::meet_all() {
  const Thread* first = nullptr;
  const Thread* gone = nullptr;
  int arrived = 0, votes = 0;
  for (int i = 0; i < count_; ++i) {
    const Thread& thread = threads_[i];
    if (thread.state == State::kReturned) gone = &thread;
    if (thread.state != State::kAtBlock) continue;
    if (!first) first = &thread;
    if (thread.site.line != first->site.line || thread.primitive != first->primitive)
      stop(text(thread.primitive, thread.site) + " is reached while thread " + text(first->index) +
               " waits at " + text(first->primitive, first->site),
           thread);
    ++arrived;
    votes += thread.value != 0;
  }
  if (first && gone)
    stop(text(first->primitive, first->site) + " waits forever: thread " + text(gone->index) +
             " has returned",
         *first);
  if (arrived < count_) return false;
  int outcome = votes;
  if (first->vote == Vote::kAnd) outcome = votes == count_;
  if (first->vote == Vote::kOr) outcome = votes > 0;
  for (int i = 0; i < count_; ++i) {
    threads_[i].value = static_cast<uint64_t>(outcome);
    threads_[i].state = State::kReady;
  }
  order_all();
  return true;
}

bool Scheduler::meet_lanes(int warp) {
  Thread* const lanes = &threads_[warp * kWarp];
  const int width = std::min(kWarp, count_ - warp * kWarp);
  bool any = false;
  for (int lane = 0; lane < width; ++lane) {
    const unsigned mask = lanes[lane].mask;
    if (lanes[lane].state != State::kAtWarp || !has_met(warp, lanes[lane])) continue;
    exchange(warp, mask);
    void* identities[kWarp];
    int count = 0;
    for (int i = 0; i < width; ++i)
      if (mask >> i & 1) {
        lanes[i].state = State::kReady;
        identities[count++] = lanes[i].fiber.identity();
      }
    order(identities, count, &lanes[lane].edge);
    any = true;
  }
  return any;
}

bool Scheduler::has_met(int warp, const Thread& thread) const {
  bool all = true;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!(thread.mask >> lane & 1)) continue;
    const int i = warp * kWarp + lane;
    const Thread* const other = i < count_ ? &threads_[i] : nullptr;
    // The text is made only here, because this function runs at every warp primitive of every lane.
    if (!other || other->state == State::kReturned || other->state == State::kAtBlock) {
      std::string what = text(thread.primitive, thread.site) + ": its mask " +
                         hexadecimal(thread.mask) + " names lane " + std::to_string(lane);
      if (!other)
        what += ", which the block does not have";
      else if (other->state == State::kReturned)
        what += ", which has returned";
      else
        what += ", which waits at " + text(other->primitive, other->site);
      stop(what, thread);
    }
    // Lanes may reach a __syncwarp at different lines of the kernel, but a shuffle at one line
    // only.
    all &= other->mask == thread.mask && other->primitive == thread.primitive &&
           (thread.source < 0 || other->site.line == thread.site.line);
  }
  return all;
}

// Gives every lane of the mask the value that it reads by a shuffle, or the votes of all lanes.
void Scheduler::exchange(int warp, unsigned mask) {
  Thread* const lanes = &threads_[warp * kWarp];
  uint64_t values[kWarp] = {};
  uint64_t votes = 0;
  for (int i = 0; i < kWarp; ++i)
    if (mask >> i & 1) {
      values[i] = lanes[i].value;
      votes |= static_cast<uint64_t>(values[i] != 0) << i;
    }
  for (int i = 0; i < kWarp; ++i) {
    if (!(mask >> i & 1)) continue;
    Thread& thread = lanes[i];
    if (thread.source < 0) {
      thread.value = votes;
      continue;
    }
    if (!(mask >> thread.source & 1))
      stop(text(thread.primitive, thread.site) + ": reads lane " + std::to_string(thread.source) +
               ", which its mask " + hexadecimal(mask) + " does not name",
           thread);
    thread.value = values[thread.source];
  }
}

}  // namespace mige::emulator
