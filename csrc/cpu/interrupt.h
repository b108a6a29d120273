// Ctrl-C during a long operator. Kernels call poll_interrupt between blocks of work, and
// bind/interrupt.cpp asks Python for signals.
#pragma once

#include <atomic>
#include <chrono>

namespace mige::cpu {

constexpr std::chrono::milliseconds kPollInterval{50};

// Runs the signal handlers of Python, at most once per kPollInterval and only on the thread that
// imported the module, usually the main thread. Throws if a handler raised an exception, on every
// thread of the operator.
void poll_interrupt();

// Whether poll_interrupt runs signal handlers on the calling thread.
bool handles_signals();

// What the threads of one operator share.
struct Interruption {
  Interruption();

  const bool possible;  // whether the thread that called the operator runs signal handlers
  std::atomic<bool> raised{false};
};

// The Interruption of the operator on which the calling thread works; nullptr outside an operator.
Interruption* current_interruption();

// Sets current_interruption() of the calling thread until destruction.
class Interruptible {
 public:
  explicit Interruptible(Interruption* shared);
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

 private:
  Interruption* const before_;
};

}  // namespace mige::cpu
