// The Python module mige_ext._C. Its import registers the operators, by static initializers in the
// other files of this folder. The module has constants that describe the build.
#include <Python.h>

#include "bind/interrupt.h"
#include "bind/operator.h"
#include "cpu/simd.h"

namespace {

// Whether this process's torch can run the CUDA kernels of this build.
const bool cuda_torch_found = mige::bind::kWithCuda && mige::bind::cuda_torch_found();

PyMethodDef methods[] = {
    {"take_interruption", mige::bind::take_interruption, METH_NOARGS,
     "Returns and forgets the exception of a signal handler that ended an operator, or None."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "_C", "Compiled operators of mige_ext.", -1, methods, {}, {}, {}, {}};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
  mige::bind::handle_signals_on_main_thread();
  PyObject* module = PyModule_Create(&module_definition);
  if (module == nullptr) return nullptr;
  if (PyModule_AddStringConstant(module, "cuda_architectures", MIGE_CUDA_ARCHITECTURES) != 0 ||
      PyModule_AddStringConstant(module, "cuda_version", MIGE_CUDA_VERSION) != 0 ||
      PyModule_AddStringConstant(module, "torch_version", MIGE_TORCH_VERSION) != 0 ||
      PyModule_AddStringConstant(module, "compiler", MIGE_COMPILER) != 0 ||
      PyModule_AddIntConstant(module, "cpu_level", mige::cpu::level()) != 0 ||
      PyModule_AddIntConstant(module, "cuda_torch_found", cuda_torch_found) != 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
