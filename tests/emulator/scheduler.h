// The scheduler of the emulator. A thread is ready, waits at a barrier or at a warp primitive, or
// has returned. In each round every ready thread of the block runs, without interruption, up to its
// next barrier, its next warp primitive or its end. Then the threads whose barrier or primitive is
// complete become ready. A barrier or primitive that can never complete is an error.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "host.h"
#include "runtime.h"

namespace mige::emulator {

constexpr int kWarp = 32;

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

// Runs the blocks of one kernel at a time.
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
  // Ends the launch with an error about the running thread.
  [[noreturn]] void fail(const std::string& what);
  void* smem() { return smem_.get(); }

  Schedule schedule = Schedule::kAscending;

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };

  static void run_thread(void* self);
  void run_block();
  // Chooses the order of the threads in the next round.
  void arrange();
  void meet();
  // Completes the barrier of the block. Returns whether all threads have reached it.
  bool meet_all();
  // Completes primitives of a warp. Returns whether any primitive was complete.
  bool meet_lanes(int warp);
  // Whether all lanes of the thread's mask have reached its primitive.
  bool has_met(int warp, const Thread& thread) const;
  void exchange(int warp, unsigned mask);
  // Tells ThreadSanitizer that all threads of the block and the main stack have synchronized.
  void order_all();
  std::string where(const Thread& thread) const;
  // Throws an error about a thread. Must be called on the main stack.
  [[noreturn]] void stop(const std::string& what, const Thread& thread) const;

  std::unique_ptr<Thread[]> threads_{new Thread[kLargestBlock]};
  std::vector<int> order_of_threads_;
  std::vector<void*> identities_;
  std::unique_ptr<void, Free> smem_;
  int count_ = 0;  // threads of the block
  Thread* current_ = nullptr;
  Body body_ = nullptr;
  void* context_ = nullptr;
  std::string error_;
  uint64_t random_ = 0;  // the state of the random numbers
  // ThreadSanitizer identifies a synchronization of all threads of the block by this address.
  char edge_ = 0;
  bool busy_ = false;
};

}  // namespace mige::emulator
