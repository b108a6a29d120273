"""Settings and fixtures of all tests. Modules that tests import are in `tests.support`.

The process that distributes the tests among the workers of pytest-xdist loads this file before it
starts the workers. Therefore only functions import torch and hypothesis.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.support import tiers

HYPOTHESIS = find_spec("hypothesis") is not None
if not HYPOTHESIS:  # `make gpu-check` installs nothing, and these tests need no GPU
    collect_ignore = [
        "experiments/test_data.py",
        "experiments/common/test_statistics.py",
        "information/test_unclean_samples.py",
        "scores/test_properties.py",
        "scores/test_unclean_samples.py",
    ]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Runs the test on one thread, which is fastest for the small networks of such tests."""
    from mige_ext.experiments.common.device import cpu_threads

    with cpu_threads(1):
        yield


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Removes compiled code of earlier tests before the test, and its own code after it."""
    import torch

    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """Every test starts with the same seed, one thread, and no warning given.

    test_determinism.py uses more threads.
    """
    import torch

    from tests.support.misuse import forget_warnings

    forget_warnings()
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_runtest_logfinish() -> None:
    """Ends a process of pytest-xdist after an illegal access on a GPU.

    All later calls on the GPU would fail in this process. pytest-xdist starts another one.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    import torch

    if torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            os._exit(1)


# --- tiers ----------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="the second tier of tests: `make check`")
    parser.addoption("--rest", action="store_true", help="what the second tier adds to the first")
    parser.addoption("--product", action="store_true", help="all combinations of all parameters")


def pytest_configure(config: pytest.Config) -> None:
    tiers.thorough = any(config.getoption(name) for name in ("--all", "--rest", "--product"))
    distributes = "PYTEST_XDIST_WORKER" not in os.environ and config.getoption("dist", "no") != "no"
    if HYPOTHESIS and not distributes:
        from hypothesis import settings

        count = tiers.examples(10, 25)
        settings.register_profile(
            "mige", deadline=None, derandomize=True, max_examples=count, database=None
        )
        settings.load_profile("mige")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out tests of other tiers, except tests that failed or that the command line names."""
    named = config.getoption("lf", False) or any("::" in argument for argument in config.args)
    if config.getoption("--product") or named:
        return
    choose = tiers.first
    if config.getoption("--all"):
        choose = tiers.second
    elif config.getoption("--rest"):
        choose = tiers.rest
    chosen = set(choose(items))
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]
