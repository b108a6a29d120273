// The Python module mige_ext._C. Importing it registers the operators (static initialisers of the
// other files here); it holds nothing but facts about the build.
#include <Python.h>

#include "cpu/simd.h"
#ifdef MIGE_WITH_CUDA
#include "bind/cuda.h"
#endif

namespace {

// Whether this process's torch can run the CUDA kernels of this build.
bool cuda_torch_found() {
#ifdef MIGE_WITH_CUDA
  return mige::bind::cuda_torch_found();
#else
  return false;
#endif
}

PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "_C", "Compiled operators of mige_ext.", -1, {}, {}, {}, {}, {}};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
  PyObject* module = PyModule_Create(&module_definition);
  if (module == nullptr) return nullptr;
  if (PyModule_AddStringConstant(module, "cuda_architectures", MIGE_CUDA_ARCHITECTURES) != 0 ||
      PyModule_AddStringConstant(module, "cuda_version", MIGE_CUDA_VERSION) != 0 ||
      PyModule_AddStringConstant(module, "torch_version", MIGE_TORCH_VERSION) != 0 ||
      PyModule_AddStringConstant(module, "compiler", MIGE_COMPILER) != 0 ||
      PyModule_AddIntConstant(module, "cpu_level", mige::cpu::level()) != 0 ||
      PyModule_AddIntConstant(module, "cuda_torch_found", cuda_torch_found()) != 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
