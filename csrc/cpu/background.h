// A long call that cannot poll for Ctrl-C, such as one call of LAPACK.
#pragma once

#include <functional>

namespace mige::cpu {

// Calls f on a new thread, and polls for Ctrl-C on the calling thread until f returns. Rethrows an
// exception of f. If a poll throws, the call ends at once while f still runs, so f must own
// everything that it uses. A process that was forked during such a call calls f on the calling
// thread, without polling.
void call_in_background(const std::function<void()>& f);

}  // namespace mige::cpu
