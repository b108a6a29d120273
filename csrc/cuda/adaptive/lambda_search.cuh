// The search over λ (common/lambda_search.h) in device memory, one state a group.
//
// The host enqueues as many rounds as the longest search can need. In each round a group evaluates
// the λ that its state names; a group whose search has stopped does nothing.
#pragma once

#include "common/lambda_search.h"
#include "cuda/core/device.cuh"

namespace mige::cuda {

struct GroupSearch : LambdaSearch {
  double mu;       // λM of this round
  double kept_mu;  // λM of the round before
  int32_t kept;    // the base of this round's result if it is the best so far, −1 otherwise
};

}  // namespace mige::cuda
