"""Import, the compiled module's ABI, and the examples of the documentation."""

import doctest
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

import mige_ext
from mige_ext import _C
from tests.support.process import ROOT, environment

PACKAGE = Path(mige_ext.__file__).parent
LIBRARY = Path(mige_ext._C.__file__)
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages([str(PACKAGE)], "mige_ext.")
    if not info.name.endswith(("__main__", "._C"))
)


# --- import ---------------------------------------------------------------------------------------


def test_import_without_the_compiled_module_says_what_to_run(tmp_path: Path) -> None:
    shutil.copytree(
        PACKAGE, tmp_path / "mige_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    # Without -S, an editable install would find _C in the build. PYTHONPATH still finds torch.
    paths = [str(tmp_path), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    result = subprocess.run(
        [sys.executable, "-S", "-c", "import mige_ext"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: mige_ext is not built")
    assert "pip install --no-build-isolation -e ." in last
    assert "circular import" not in result.stderr


FRESH_IMPORT = """
import sys, torch, warnings
warnings.simplefilter("error")  # not -W error, which would also hold for torch's own import
import mige_ext as mige
print(*[m for m in sys.modules if m.startswith("mige_ext.")])
print(*{"matplotlib", "sklearn", "scipy", "typer"} & set(sys.modules))
warnings.simplefilter("default")
print(mige.bounds.__name__, mige.compat.__name__, mige.experiments.__name__)
"""


@pytest.fixture(scope="module")
def fresh_import() -> list[str]:
    """The lines that ``FRESH_IMPORT`` prints in a new process."""
    result = subprocess.run(
        [sys.executable, "-c", FRESH_IMPORT],
        capture_output=True, text=True, check=True, cwd=ROOT, env=environment(),
    )  # fmt: skip
    return result.stdout.split("\n")


def test_modules_are_attributes_without_an_import_and_load_when_they_are_used(
    fresh_import: list[str],
) -> None:
    before, _, names = fresh_import[:3]
    assert "mige_ext.bounds" not in before.split()
    assert names.split() == ["mige_ext.bounds", "mige_ext.compat", "mige_ext.experiments"]
    with pytest.raises(AttributeError, match="no attribute 'bound'"):
        _ = mige_ext.bound


def test_completion_shows_only_public_names() -> None:
    names = dir(mige_ext)
    assert {*mige_ext.__all__, "bounds", "ops", "__version__"} <= set(names)
    assert not {"torch", "gram", "solvers", "importlib", "Any"} & set(names)


def test_import_loads_neither_the_oracle_nor_the_experiments(fresh_import: list[str]) -> None:
    ours, others = fresh_import[:2]
    assert "mige_ext.ops" in ours
    assert not {"mige_ext.reference", "mige_ext.experiments", "mige_ext.compat"} & set(ours.split())
    assert others == ""


def test_public_names_exist_and_are_documented() -> None:
    assert len(set(mige_ext.__all__)) == len(mige_ext.__all__)
    for name in mige_ext.__all__:
        assert getattr(mige_ext, name).__doc__, name


def test_the_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


# --- the compiled module --------------------------------------------------------------------------


def undefined_symbols() -> list[str]:
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", str(LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    return [line.split()[-1].split("@")[0] for line in listing.splitlines()]


@pytest.mark.library
def test_the_library_is_abi3() -> None:
    assert LIBRARY.name == "_C.abi3.so"


@pytest.mark.library
def test_the_library_needs_no_cpp_symbol_of_torch() -> None:
    # Mangled names of the unstable C++ interface: the namespaces at, c10, torch and caffe2.
    unstable = re.compile(r"^_Z\w*?(2at|3c10|5torch|6caffe2)")
    assert [s for s in undefined_symbols() if unstable.match(s)] == []


@pytest.mark.library
def test_the_library_uses_the_stable_c_interface_of_torch() -> None:
    symbols = undefined_symbols()
    assert "torch_call_dispatcher" in symbols
    assert any(s.startswith("aoti_torch_") for s in symbols)


@pytest.mark.library
def test_the_library_uses_only_the_limited_api_of_python() -> None:
    limited = {
        "PyModule_Create2", "PyModule_AddStringConstant", "PyModule_AddIntConstant",
        "_Py_Dealloc", "Py_DecRef",
        # Ctrl-C in a long operator (csrc/bind/interrupt.cpp)
        "Py_IsInitialized", "PyGILState_Ensure", "PyGILState_Release", "PyErr_CheckSignals",
        "PyErr_Fetch", "PyErr_NormalizeException", "_Py_NoneStruct",
            # Python's main thread (csrc/bind/interrupt.cpp)
            "PyThread_get_thread_ident", "PyImport_ImportModule", "PyObject_CallMethod",
            "PyObject_GetAttrString", "PyLong_AsUnsignedLong", "PyErr_Occurred", "PyErr_Clear",
    }  # fmt: skip
    used = {s for s in undefined_symbols() if re.match(r"_?Py", s)}
    assert used <= limited
    assert "PyModule_Create2" in used


@pytest.mark.library
def test_the_library_exports_its_module_and_names_of_its_own_namespace() -> None:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    strong = {line.split()[-1] for line in listing.splitlines() if " T " in line}
    assert "PyInit__C" in strong
    assert [s for s in strong - {"PyInit__C"} if not s.startswith("_ZN4mige")] == []


@pytest.mark.library
def test_the_compiled_module_says_how_it_was_built() -> None:
    assert re.match(r"2\.\d+", _C.torch_version)
    assert _C.compiler
    assert bool(_C.cuda_version) == bool(_C.cuda_architectures)


@pytest.mark.library
def test_cuda_functions_of_torch_are_found_if_torch_has_them() -> None:
    # `_C` uses weak symbols of libtorch. `_C` must find them under a torch with CUDA, also without
    # a GPU, and must load under a torch that lacks them.
    assert bool(_C.cuda_torch_found) == (
        _C.cuda_architectures != "" and torch.version.cuda is not None
    )


@pytest.mark.library
def test_every_operator_is_registered_for_the_cpu() -> None:
    for name in ("squared_distances", "distance_quantile", "rbf_gram", "rbf_gradient_sum",
                 "rbf_product", "eigh", "ssge"):  # fmt: skip
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mige_ext::{name}", "CPU")
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mige_ext::{name}", "Meta")


@pytest.mark.library
def test_importing_twice_does_not_register_twice() -> None:
    importlib.reload(mige_ext)
    assert mige_ext.SSGE().score(torch.randn(4, 2)).isfinite().all()


# --- documentation --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mige_ext", *MODULES])
def test_examples_of_the_documentation_run(name: str) -> None:
    module = importlib.import_module(name)
    results = doctest.testmod(module)
    assert results.failed == 0
    source = Path(str(module.__file__)).read_text()
    assert (results.attempted > 0) == (">>> " in source)
