// Launches, and the functions that a running thread calls. scheduler.h has the order in which
// threads run.
#include "runtime.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "host.h"
#include "messages.h"
#include "scheduler.h"

namespace mige::emulator {
namespace {

Schedule schedule_of_environment() {
  const char* const name = std::getenv("MIGE_EMULATOR_SCHEDULE");
  return name ? schedule_named(name) : Schedule::kAscending;
}

unsigned noise_of_environment() {
  const char* const text = std::getenv("MIGE_EMULATOR_NOISE");
  if (!text || !*text) return 0;
  char* end = nullptr;
  const unsigned long value = std::strtoul(text, &end, 10);
  if (*end != 0 || *text == '-' || value > 0xffffffffu)
    throw std::invalid_argument(std::string("MIGE_EMULATOR_NOISE must be an integer from 0 to "
                                            "4294967295, got ") +
                                text);
  return static_cast<unsigned>(value);
}

unsigned& noise() {
  static unsigned value = noise_of_environment();
  return value;
}

// v, or zero if v is denormal.
float flushed(float v) {
  return std::fabs(v) < std::numeric_limits<float>::min() ? std::copysign(0.0f, v) : v;
}

// The exact result plus the error of the noise.
float noisy(float exact) {
  exact = flushed(exact);
  // Numbers near the ends of the range stay exact.
  const float magnitude = std::fabs(exact);
  if (noise() == 0 || !(magnitude > 2e-38f && magnitude < 3e38f)) return exact;
  uint32_t bits = 0;
  std::memcpy(&bits, &exact, sizeof(bits));
  uint32_t hash = bits ^ noise() * 0x9e3779b9u;  // the finalizer of MurmurHash3 mixes the bits
  hash = (hash ^ hash >> 16) * 0x85ebca6bu;
  hash = (hash ^ hash >> 13) * 0xc2b2ae35u;
  hash ^= hash >> 16;
  bits += hash % 5 - 2;  // −2 … 2 units
  std::memcpy(&exact, &bits, sizeof(bits));
  return exact;
}

Scheduler& scheduler() {
  static Scheduler* const instance = [] {
    auto* const s = new Scheduler;  // never destroyed, because it holds only memory
    s->schedule = schedule_of_environment();
    return s;
  }();
  return *instance;
}

// Reports a fault if the mask does not name the calling lane.
void check_mask(const char* primitive, Site site, unsigned mask) {
  Scheduler& s = scheduler();
  if (!(mask >> s.lane() & 1))
    s.fail(text(primitive, site) + ": its mask " + hexadecimal(mask) +
           " does not name the calling lane " + std::to_string(s.lane()));
}

// Waits for the lanes of the mask, and returns the result for this lane.
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

void set_noise(unsigned value) { noise() = value; }

float approximate_rsqrt(float v) { return noisy(1 / std::sqrt(flushed(v))); }

float approximate_reciprocal(float v) { return noisy(1 / flushed(v)); }

void run(Kernel kernel, dim3 grid, dim3 block, size_t smem, Body body, void* context) {
  if (accept_launch(kernel, grid, block, smem)) scheduler().run(grid, block, smem, body, context);
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
