// The division of a long sum into parts, so that a product with few tiles occupies many
// multiprocessors. The sum of each part is computed on its own, and the parts are added in
// ascending order.
//
// The shape of a group alone determines the parts, so a group has the same bits alone and in a
// batch. If one thread block per tile would leave multiprocessors idle, every part has its own
// thread block, which writes the sums to the workspace. Otherwise the thread block of a tile
// computes one part after the other.
#pragma once

#include <initializer_list>

#include "cuda/core/device.cuh"
#include "cuda/core/workspace.cuh"

namespace mige::cuda {

// Two thread blocks on each of the 132 multiprocessors of an H100 or H200.
constexpr int64_t kFullDevice = 264;
constexpr int64_t kMostParts = 32;
constexpr int64_t kMostPartialBytes = int64_t(64) << 20;

// Memory for the sums of the parts.
struct PartialSums {
  void* sums = nullptr;
  int64_t bytes = 0;
};

// Takes memory for several sums, which are computed one after another.
inline PartialSums take_partial_sums(Workspace& space, std::initializer_list<int64_t> bytes) {
  int64_t most = 0;
  for (const int64_t of_sum : bytes) most = of_sum > most ? of_sum : most;
  return {space.take<char>(most), most};
}

// The division of one sum.
struct Parts {
  int64_t count = 1;
  int64_t depth = 0;      // length of a part; the last part may be shorter
  bool separate = false;  // whether every part has its own thread block

  // The parts of a sum of `depth` terms, for a group of `tiles` tiles. The length of a part is a
  // multiple of `unit`.
  static Parts of(int64_t tiles, int64_t depth, int64_t unit) {
    const int64_t wanted = at_most(divide_up(kFullDevice, tiles > 0 ? tiles : 1), kMostParts);
    const int64_t units = divide_up(depth, unit);
    Parts parts;
    parts.depth = divide_up(units, wanted) * unit;
    parts.count = depth > 0 ? divide_up(depth, parts.depth) : 1;
    return parts;
  }

  // The bytes of partial sums, with `values` sums per part and group. The result is 0 if the parts
  // get no thread blocks of their own, because the tiles occupy the device or the partial sums
  // would be too large.
  int64_t bytes(int64_t groups, int64_t tiles, int64_t values, size_t size) const {
    const int64_t total = groups * count * values * static_cast<int64_t>(size);
    const bool idle = 2 * groups * tiles < kFullDevice;
    return count > 1 && idle && total <= kMostPartialBytes ? total : 0;
  }
};

}  // namespace mige::cuda
