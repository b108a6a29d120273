// A stack of its own that the thread of the process can run on, and go back from.
#pragma once

#include <cstddef>

namespace mige::emulator {

class Fiber {
 public:
  using Entry = void (*)(void* argument);

  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the next resume() begin with entry(argument), which must not return. `color` shifts the
  // frames, so that those of many fibers do not fall into the same lines of the cache.
  void prepare(Entry entry, void* argument, int color);

  // From the main stack: runs the fiber until it suspends.
  void resume();

  // From the fiber: back to resume().
  void suspend();

  // What ThreadSanitizer knows this fiber by.
  void* identity() const { return identity_; }

  // The same of the main stack.
  static void* main_identity();

 private:
  static void begin();

  Entry entry_ = nullptr;
  void* argument_ = nullptr;
  void* stack_ = nullptr;          // lowest address, where a guard page is
  void* stack_pointer_ = nullptr;  // while suspended
  void* identity_ = nullptr;
};

// For ThreadSanitizer: all that each of the fibers has done comes before all that any of them will
// do. Nothing else orders them; switching does not.
void order(void* const* identities, int count, void* edge);

}  // namespace mige::emulator
