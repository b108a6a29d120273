// Fibers: functions with a stack of their own, between which one thread of the process switches.
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

// Tells ThreadSanitizer that everything that these fibers have done happens before everything that
// they will do. A switch between fibers does not order them.
void order(void* const* identities, int count, void* edge);

}  // namespace mige::emulator
