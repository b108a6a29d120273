// Fibers with a switch in assembly. ucontext makes two system calls per switch, which take five
// times as long as the rest of a barrier.
//
// The sanitizers must be notified of every switch. Their functions are weak symbols, which are
// defined only if the kernels were compiled with the sanitizer. One object file therefore serves
// all variants. This file itself must not be instrumented, because ThreadSanitizer would attribute
// the accesses of the runtime to the kernel.
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#ifndef __x86_64__
#error "the CUDA emulator switches stacks in x86-64 assembly"
#endif

extern "C" {
#define WEAK __attribute__((weak))
WEAK void* __tsan_get_current_fiber();
WEAK void* __tsan_create_fiber(unsigned flags);
WEAK void __tsan_destroy_fiber(void* fiber);
WEAK void __tsan_switch_to_fiber(void* fiber, unsigned flags);
WEAK void __tsan_acquire(void* address);
WEAK void __tsan_release(void* address);
WEAK void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
WEAK void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
WEAK void __asan_unpoison_memory_region(const volatile void* address, size_t size);
#undef WEAK

// Pushes the registers that a call must preserve, stores the stack pointer in *save, and continues
// at the stack pointer `load`.
void mige_emulator_switch(void** save, void* load);
}

asm(R"(
    .text
    .p2align 4
    .hidden mige_emulator_switch
    .globl mige_emulator_switch
    .type mige_emulator_switch, @function
mige_emulator_switch:
    .cfi_startproc
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .cfi_endproc
    .size mige_emulator_switch, . - mige_emulator_switch
)");

namespace mige::emulator {
namespace {

constexpr size_t kStack = 256 * 1024;  // address space; only pages in use take memory
constexpr size_t kPage = 4096;
constexpr size_t kColor = 192;  // bytes between the frames of consecutive fibers: three cache lines
constexpr int kColors = 61;
constexpr int kSavedRegisters = 6;
constexpr unsigned kWithoutSynchronization = 1;  // __tsan_switch_to_fiber_no_sync

// The state of the main stack while a fiber runs.
Fiber* running = nullptr;
void* main_stack_pointer = nullptr;
const void* main_bottom = nullptr;
size_t main_size = 0;
void* main_fiber = nullptr;

void enter_tsan(void* identity) {
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(identity, kWithoutSynchronization);
}

}  // namespace

Fiber::~Fiber() {
  if (identity_) __tsan_destroy_fiber(identity_);
  if (stack_) munmap(stack_, kStack);
}

void Fiber::prepare(Entry entry, void* argument, int color) {
  entry_ = entry;
  argument_ = argument;
  if (!stack_) {
    void* const memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stack_ = memory;
    if (mprotect(stack_, kPage, PROT_NONE) != 0) throw std::bad_alloc();
  }
  // If an error stopped the fiber, its frames have left redzones on the stack.
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(stack_, kStack);
  if (identity_) __tsan_destroy_fiber(identity_);
  if (__tsan_create_fiber) identity_ = __tsan_create_fiber(0);

  // Prepares the stack as mige_emulator_switch leaves it: the registers, the return address, and
  // the alignment of the stack at the entry of a function.
  const size_t top = kStack - static_cast<size_t>(color % kColors) * kColor;
  void** frame = reinterpret_cast<void**>(static_cast<char*>(stack_) + top);
  *--frame = nullptr;  // the return address of begin(), which never returns
  *--frame = reinterpret_cast<void*>(&Fiber::begin);
  for (int i = 0; i < kSavedRegisters; ++i) *--frame = nullptr;
  stack_pointer_ = frame;
}

void Fiber::begin() {
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(nullptr, &main_bottom, &main_size);
  running->entry_(running->argument_);
  std::abort();
}

void Fiber::resume() {
  void* fake_stack = nullptr;
  running = this;
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&fake_stack, stack_, kStack);
  enter_tsan(identity_);
  mige_emulator_switch(&main_stack_pointer, stack_pointer_);
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}

void Fiber::suspend() {
  void* fake_stack = nullptr;
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(&fake_stack, main_bottom, main_size);
  enter_tsan(main_identity());
  mige_emulator_switch(&stack_pointer_, main_stack_pointer);
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(fake_stack, &main_bottom, &main_size);
}

void* Fiber::main_identity() {
  if (!main_fiber && __tsan_get_current_fiber) main_fiber = __tsan_get_current_fiber();
  return main_fiber;
}

void order(void* const* identities, int count, void* edge) {
  if (!__tsan_switch_to_fiber) return;
  for (int i = 0; i < count; ++i) {
    enter_tsan(identities[i]);
    __tsan_release(edge);
  }
  for (int i = 0; i < count; ++i) {
    enter_tsan(identities[i]);
    __tsan_acquire(edge);
  }
  enter_tsan(Fiber::main_identity());
}

}  // namespace mige::emulator
