// A long call that cannot poll for Ctrl-C, such as one call of LAPACK.
#pragma once

#include <functional>

namespace mige::cpu {

// Calls f on a new thread, and polls for Ctrl-C on the calling thread until f returns. Throws what
// f throws. If a poll throws, the exception is passed on at once, and the new thread continues
// until f returns. Therefore f must own everything that it uses.
void call_in_background(const std::function<void()>& f);

}  // namespace mige::cpu
