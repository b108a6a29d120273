// Implements cpu/interrupt.h with Python's signals.
//
// An operator runs without Python's lock (GIL), so Ctrl-C only sets a flag in Python. A poll takes
// the lock and lets Python run its signal handlers. If a handler raises an exception, the poll
// stores it in `pending`, and the operator fails. mige_ext.ops then raises the stored exception.
#include "bind/interrupt.h"

#include <chrono>

#include "bind/checks.h"
#include "cpu/interrupt.h"

namespace mige::cpu {

namespace {

thread_local Interruption* current = nullptr;

}  // namespace

Interruption* current_interruption() { return current; }

Interruptible::Interruptible(Interruption* shared) : before_(current) { current = shared; }
Interruptible::~Interruptible() { current = before_; }

}  // namespace mige::cpu

namespace mige::bind {
namespace {

unsigned long signal_thread = 0;                  // set at import; every thread reads it
std::chrono::steady_clock::time_point last_poll;  // of the signal thread
PyObject* pending = nullptr;                      // used with Python's lock

// Whether a signal handler raised an exception, which is then in `pending`.
bool handler_raised() {
  if (!Py_IsInitialized()) return false;
  const PyGILState_STATE state = PyGILState_Ensure();
  const bool raised = PyErr_CheckSignals() != 0;
  if (raised) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    Py_XDECREF(pending);
    pending = value;
  }
  PyGILState_Release(state);
  return raised;
}

}  // namespace

void handle_signals_on_main_thread() {
  signal_thread = PyThread_get_thread_ident();  // used if the import fails
  PyObject* const threading = PyImport_ImportModule("threading");
  PyObject* const thread =
      threading ? PyObject_CallMethod(threading, "main_thread", nullptr) : nullptr;
  PyObject* const ident = thread ? PyObject_GetAttrString(thread, "ident") : nullptr;
  if (ident) {
    const unsigned long found = PyLong_AsUnsignedLong(ident);
    if (!PyErr_Occurred()) signal_thread = found;
  }
  PyErr_Clear();
  Py_XDECREF(ident);
  Py_XDECREF(thread);
  Py_XDECREF(threading);
}

PyObject* take_interruption(PyObject*, PyObject*) {
  if (cpu::handles_signals() && pending) {
    PyObject* const taken = pending;
    pending = nullptr;
    return taken;
  }
  Py_INCREF(Py_None);
  return Py_None;
}

}  // namespace mige::bind

namespace mige::cpu {

bool handles_signals() { return PyThread_get_thread_ident() == bind::signal_thread; }

Interruption::Interruption() : possible(handles_signals()) {}

void poll_interrupt() {
  Interruption* const shared = current_interruption();
  if (shared && shared->raised.load(std::memory_order_relaxed))
    bind::fail("interrupted by a signal");
  if (!handles_signals()) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - bind::last_poll < kPollInterval) return;
  bind::last_poll = now;
  if (!bind::handler_raised()) return;
  if (shared) shared->raised.store(true, std::memory_order_relaxed);
  bind::fail("interrupted by a signal");
}

}  // namespace mige::cpu
