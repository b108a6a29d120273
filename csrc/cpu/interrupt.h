// Ctrl-C during a long operator. Kernels call poll_interrupt between blocks of work, and
// bind/interrupt.cpp asks Python for signals.
#pragma once

#include <atomic>

namespace mige::cpu {

// Runs the signal handlers of Python, at most every 50 ms and only on the thread that imported the
// module, usually the main thread. Throws if a handler raised an exception, and on the other
// threads of the same operator after the first has thrown. Work: one look at the clock.
void poll_interrupt();

// What the threads of one operator share.
struct Interruption {
  std::atomic<bool> raised{false};
};

// That of the operator on which the calling thread works; nullptr outside an operator.
Interruption* current_interruption();

// Makes the calling thread work on an operator for the lifetime of this object.
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
