// Fibers are functions with a stack of their own. One thread of the process switches between them.
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
  // frames, so that the frames of many fibers do not map to the same cache lines.
  void prepare(Entry entry, void* argument, int color);

  // Called on the main stack: runs the fiber until it suspends.
  void resume();

  // Called on the fiber: returns to the caller of resume().
  void suspend();

  // The handle of this fiber in ThreadSanitizer.
  void* identity() const { return identity_; }

  // The handle of the main stack in ThreadSanitizer.
  static void* main_identity();

 private:
  static void begin();

  Entry entry_ = nullptr;
  void* argument_ = nullptr;
  void* stack_ = nullptr;          // lowest address; its first page is a guard page
  void* stack_pointer_ = nullptr;  // valid while the fiber is suspended
  void* identity_ = nullptr;
};

// Tells ThreadSanitizer that all past accesses of these fibers happen before all their later
// accesses. A switch between fibers alone does not order accesses.
void order(void* const* identities,  // [count]
           int count,
           void* edge);  // any address that nothing else synchronizes on

}  // namespace mige::emulator
