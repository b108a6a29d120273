#include "cpu/background.h"

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
  const auto outcome = std::make_shared<Outcome>();
  const auto call = [outcome, f] {
    std::exception_ptr error;
    try {
      f();
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard<std::mutex> lock(outcome->mutex);
    outcome->error = error;
    outcome->done = true;
    outcome->changed.notify_one();
  };
  std::thread thread;
  try {
    thread = std::thread(call);
  } catch (const std::system_error&) {  // no further thread is allowed
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
