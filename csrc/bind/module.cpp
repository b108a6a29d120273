// The Python module mige_ext._C. Importing it registers the operators (static initialisers of the
// other files here); it holds nothing but facts about the build.
#include <Python.h>

#include <torch/csrc/stable/version.h>

namespace {

PyModuleDef module_definition = {PyModuleDef_HEAD_INIT, "_C", "Compiled operators of mige_ext.",
                                 -1, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
  PyObject* module = PyModule_Create(&module_definition);
  if (module == nullptr) return nullptr;
  if (PyModule_AddStringConstant(module, "cuda_architectures", MIGE_CUDA_ARCHITECTURES) != 0 ||
      PyModule_AddStringConstant(module, "cuda_version", MIGE_CUDA_VERSION) != 0 ||
      PyModule_AddStringConstant(module, "torch_version", MIGE_TORCH_VERSION) != 0 ||
      PyModule_AddStringConstant(module, "compiler", MIGE_COMPILER) != 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
