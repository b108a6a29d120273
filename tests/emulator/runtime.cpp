// The scheduler of the emulator. A thread is ready, waits at a barrier or at a warp primitive, or
// has returned. In each round every ready thread of the block runs, without interruption, up to its
// next barrier, its next warp primitive or its end. Then the threads whose barrier or primitive is
// complete become ready. A barrier or primitive that can never complete is an error.
#include "runtime.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "fiber.h"
#include "host.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// The __shared__ arrays of all kernels (shared.ld).
extern "C" __attribute__((visibility("hidden"))) unsigned char mige_shared_begin[],
    mige_shared_end[];

namespace mige::emulator {
namespace {

constexpr int kWarp = 32;
constexpr uint64_t kSeed = 20;

// Fills memory with a pattern that is NaN as a float and as a double, and -1 as an integer. The
// arrays of a section have redzones between them, where AddressSanitizer would report memset as an
// error. The instruction in assembly is not checked.
void poison(void* begin, size_t bytes) {
  asm volatile("rep stosb" : "+D"(begin), "+c"(bytes) : "a"(0xff) : "memory");
}

std::string text(const char* primitive, Site site) {
  const std::string path = site.file;
  return std::string(primitive) + " (" + path.substr(path.rfind('/') + 1) + ":" +
         std::to_string(site.line) + ")";
}

template <typename Index>
std::string text(const Index& i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string hexadecimal(unsigned mask) {
  char buffer[16];
  std::snprintf(buffer, sizeof(buffer), "0x%08x", mask);
  return buffer;
}

enum class State { kReady, kAtBlock, kAtWarp, kReturned };

struct Thread {
  Fiber fiber;
  uint3 index;
  State state = State::kReturned;
  // The barrier or primitive at which the thread waits.
  const char* primitive = nullptr;
  Site site = {};
  unsigned mask = 0;
  Vote vote = Vote::kCount;
  uint64_t value = 0;  // the value that the thread passes, later the result
  int source = 0;      // the lane that a shuffle reads; -1 for other primitives
  bool prepared = false;
  // ThreadSanitizer identifies a synchronization of lanes by this address in its lowest lane.
  char edge = 0;
};

class Scheduler {
 public:
  void run(dim3 grid, dim3 block, size_t smem, Body body, void* context);

  // The following functions are called on fibers.
  Thread& current() { return *current_; }
  int lane() const { return static_cast<int>(current_ - threads_.get()) % kWarp; }
  void wait(State state, const char* primitive, Site site) {
    current_->state = state;
    current_->primitive = primitive;
    current_->site = site;
    current_->fiber.suspend();
  }
  [[noreturn]] void fail(const std::string& what) {
    error_ = what + "; " + where(*current_);
    for (;;) current_->fiber.suspend();
  }
  void* smem() { return smem_.get(); }

  Schedule schedule = Schedule::kAscending;

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };

  static void live(void* self);
  void run_block();
  void arrange();
  void meet();
  bool meet_all();
  bool meet_lanes(int warp);
  bool has_met(int warp, const Thread& thread) const;
  void exchange(int warp, unsigned mask);
  void order_all();
  std::string where(const Thread& thread) const {
    return "block " + text(blockIdx) + ", thread " + text(thread.index);
  }
  // Called on the main stack.
  [[noreturn]] void stop(const std::string& what, const Thread& thread) const {
    throw std::runtime_error(what + "; " + where(thread));
  }

  std::unique_ptr<Thread[]> threads_{new Thread[kLargestBlock]};
  std::vector<int> order_of_threads_;
  std::vector<void*> identities_;
  std::unique_ptr<void, Free> smem_;
  int count_ = 0;  // threads of the block
  Thread* current_ = nullptr;
  Body body_ = nullptr;
  void* context_ = nullptr;
  std::string error_;
  uint64_t random_ = kSeed;
  // ThreadSanitizer identifies a synchronization of all threads of the block by this address.
  char edge_ = 0;
  bool busy_ = false;
};

// The entry of a fiber. It runs the thread with the same index in each block, one block after
// another.
void Scheduler::live(void* self) {
  Scheduler& scheduler = *static_cast<Scheduler*>(self);
  for (;;) {
    scheduler.body_(scheduler.context_);
    scheduler.wait(State::kReturned, "return", {});
  }
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
    if (!thread.prepared) thread.fiber.prepare(live, this, i);
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
    const std::string what = text(thread.primitive, thread.site) + ": its mask " +
                             hexadecimal(thread.mask) + " names lane " + std::to_string(lane);
    if (i >= count_) stop(what + ", which the block does not have", thread);
    const Thread& other = threads_[i];
    if (other.state == State::kReturned) stop(what + ", which has returned", thread);
    if (other.state == State::kAtBlock)
      stop(what + ", which waits at " + text(other.primitive, other.site), thread);
    // Lanes may reach a __syncwarp at different lines of the kernel, but a shuffle at one line
    // only.
    all &= other.mask == thread.mask && other.primitive == thread.primitive &&
           (thread.source < 0 || other.site.line == thread.site.line);
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

Schedule schedule_of_environment() {
  const char* const name = std::getenv("MIGE_EMULATOR_SCHEDULE");
  return name ? schedule_named(name) : Schedule::kAscending;
}

Scheduler& scheduler() {
  static Scheduler* const instance = [] {
    auto* const s = new Scheduler;  // never destroyed, because it holds only memory
    s->schedule = schedule_of_environment();
    return s;
  }();
  return *instance;
}

void check_mask(const char* primitive, Site site, unsigned mask) {
  Scheduler& s = scheduler();
  if (!(mask >> s.lane() & 1))
    s.fail(text(primitive, site) + ": its mask " + hexadecimal(mask) +
           " does not name the calling lane " + std::to_string(s.lane()));
}

uint64_t meet_lanes(const char* primitive, Site site, unsigned mask, uint64_t value, int source) {
  check_mask(primitive, site, mask);
  Scheduler& s = scheduler();
  Thread& thread = s.current();
  thread.mask = mask;
  thread.value = value;
  thread.source = source;
  s.wait(State::kAtWarp, primitive, site);
  return thread.value;
}

}  // namespace

Schedule schedule_named(const std::string& name) {
  if (name == "ascending") return Schedule::kAscending;
  if (name == "descending") return Schedule::kDescending;
  if (name == "shuffled") return Schedule::kShuffled;
  throw std::invalid_argument("schedule must be ascending, descending or shuffled, got " + name);
}

void set_schedule(Schedule schedule) { scheduler().schedule = schedule; }

void run(dim3 grid, dim3 block, size_t smem, Body body, void* context) {
  if (accept_launch(grid, block, smem)) scheduler().run(grid, block, smem, body, context);
}

void* dynamic_smem() { return scheduler().smem(); }

int meet_block(const char* primitive, Site site, Vote vote, int predicate) {
  Scheduler& s = scheduler();
  Thread& thread = s.current();
  thread.vote = vote;
  thread.value = predicate != 0;
  thread.mask = 0;
  s.wait(State::kAtBlock, primitive, site);
  return static_cast<int>(thread.value);
}

void meet_warp(const char* primitive, Site site, unsigned mask) {
  meet_lanes(primitive, site, mask, 0, -1);
}

unsigned ballot(const char* primitive, Site site, unsigned mask, bool predicate) {
  return static_cast<unsigned>(meet_lanes(primitive, site, mask, predicate, -1));
}

uint64_t shuffle(const char* primitive, Site site, unsigned mask, uint64_t value, Shuffle how,
                 int operand, int width) {
  Scheduler& s = scheduler();
  if (width < 1 || width > kWarp || (width & (width - 1)) != 0)
    s.fail(text(primitive, site) + ": width must be a power of two up to 32, got " +
           std::to_string(width));
  const int lane = s.lane();
  const int first = lane & ~(width - 1);  // the first lane of the section that contains this lane
  int source = lane;
  if (how == Shuffle::kIndex) source = first + (operand & (width - 1));
  if (how == Shuffle::kUp) source = lane - operand;
  if (how == Shuffle::kDown) source = lane + operand;
  if (how == Shuffle::kXor) source = lane ^ operand;
  // A lane that would read beyond its section gets its own value. Only xor may read an earlier
  // section.
  const bool inside = source < first + width && (source >= first || how == Shuffle::kXor);
  return meet_lanes(primitive, site, mask, value, inside && source >= 0 ? source : lane);
}

}  // namespace mige::emulator
