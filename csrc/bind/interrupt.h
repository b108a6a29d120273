// The exception that a signal handler of Python raised during an operator.
#pragma once

#include <Python.h>

namespace mige::bind {

// Remembers Python's main thread, which runs signal handlers. Called by the module's import, which
// may run on another thread.
void handle_signals_on_main_thread();

// Returns the exception and forgets it; None if there is none, or on a thread that runs no signal
// handlers. Called as _C.take_interruption().
PyObject* take_interruption(PyObject*, PyObject*);

}  // namespace mige::bind
