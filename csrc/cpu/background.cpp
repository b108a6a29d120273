#include "cpu/background.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "cpu/interrupt.h"

namespace mige::cpu {
namespace {

// Calls that run, of which some may be abandoned.
std::atomic<int> running{0};

// Whether this process was forked while such a call ran. The end of a thread can then hang forever
// (MKL frees the memory of the thread, and waits for a thread that the fork did not copy).
std::atomic<bool> forked_from_running{false};

[[maybe_unused]] const int watches_forks = pthread_atfork(nullptr, nullptr, [] {
  if (running > 0) forked_from_running = true;
});

// The state that both threads share. The new thread may outlive the call.
struct Outcome {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  std::exception_ptr error;
};

}  // namespace

void call_in_background(const std::function<void()>& f) {
  poll_interrupt();
  if (forked_from_running) return f();
  const auto outcome = std::make_shared<Outcome>();
  const auto call = [outcome, f] {
    std::exception_ptr error;
    try {
      f();
    } catch (...) {
      error = std::current_exception();
    }
    --running;
    const std::lock_guard<std::mutex> lock(outcome->mutex);
    outcome->error = error;
    outcome->done = true;
    outcome->changed.notify_one();
  };
  std::thread thread;
  ++running;
  try {
    thread = std::thread(call);
  } catch (const std::system_error&) {  // no further thread is allowed
    --running;
    return f();
  }
  try {
    std::unique_lock<std::mutex> lock(outcome->mutex);
    while (!outcome->changed.wait_for(lock, kPollInterval, [&] { return outcome->done; })) {
      lock.unlock();
      poll_interrupt();
      lock.lock();
    }
  } catch (...) {
    thread.detach();
    throw;
  }
  thread.join();
  if (outcome->error) std::rethrow_exception(outcome->error);
}

}  // namespace mige::cpu
