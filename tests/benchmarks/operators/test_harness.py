"""The harness: numbers that are computed from times, and rows that are left out with a note.

No test depends on the speed of the machine. Tests that need times replace the clock.
"""

from typing import Any

import pytest
import torch

from benchmarks.operators import cusolver, harness, problems
from benchmarks.operators.harness import Meter, Samples
from tests.benchmarks.operators.inputs import CEILINGS, TINY, for_each_operator
from tests.support.inputs import for_each_dtype


@for_each_operator
@for_each_dtype
def test_a_record_follows_from_the_times(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype
) -> None:
    def made_up(functions: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, float]:
        for function in functions.values():
            function()  # every function must run with its arguments
        times = dict.fromkeys(functions, 7e-6)
        return times | {"own": 2e-6, next(k for k in times if k.startswith("eager")): 3e-6}

    monkeypatch.setattr(harness, "time_each", made_up)
    benchmark = problems.load(name)
    meter = Meter("cpu", dtype, CEILINGS, compiled=False)
    [row] = meter.measure(benchmark, [TINY[name]])
    problem = benchmark.problem(Samples("cpu", dtype), *TINY[name])
    assert row.operator == name
    assert row.dtype == str(dtype).removeprefix("torch.")
    assert (row.device, row.threads) == ("cpu", "1")
    assert row.ms == pytest.approx(2e-3)
    assert row.gflops == pytest.approx(problem.flop / 2e-6 / 1e9)
    assert row.gbs == pytest.approx(problem.values * dtype.itemsize / 2e-6 / 1e9)
    assert row.roofline_percent == pytest.approx(
        100 * row.gflops / min(100.0, 10.0 * row.gflops / row.gbs)
    )
    assert row.x_eager == pytest.approx(1.5)  # relative to the fastest one
    assert row.x_published == (pytest.approx(3.5) if problem.published else None)
    assert row.x_compiled is None and "left out" in " ".join(meter.notes)


def test_eager_baselines_take_the_better_solver_and_both_are_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    solved = 0

    def solver(k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal solved
        solved += 1
        values, vectors = torch.linalg.eigh(k)
        return values, vectors

    def made_up(functions: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, float]:
        for function in functions.values():
            function()
        return {name: 5e-6 if "batched" in name else 7e-6 for name in functions} | {"own": 2e-6}

    monkeypatch.setattr(harness, "time_each", made_up)
    monkeypatch.setattr(cusolver, "batched_eigh", lambda device: ("a library", solver))
    meter = Meter("cpu", torch.float32, CEILINGS, compiled=False)
    [row] = meter.measure(problems.load("ssge"), [TINY["ssge"]])
    assert row.x_eager == pytest.approx(2.5)
    assert solved >= 1
    assert any(
        "eager takes 0.007 ms with torch.linalg.eigh and 0.005 ms with a library" in note
        for note in meter.notes
    )
    [row] = meter.measure(problems.load("rbf_gram"), [TINY["rbf_gram"]])
    assert row.x_eager == pytest.approx(3.5)  # nothing is decomposed


def test_a_published_algorithm_too_large_is_left_out_with_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(harness.PUBLISHED_LIMIT, "cpu", 2 * 33 * 33 * 5 * 4 - 1)
    meter = Meter("cpu", torch.float32, CEILINGS, compiled=False, seconds=0.0)
    [row] = meter.measure(problems.load("rbf_gram"), [TINY["rbf_gram"]])
    assert row.x_published is None
    assert any("published was left out, as it needs 4.36e-05 GB" in note for note in meter.notes)


def test_a_compiler_that_fails_leaves_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", failing)
    meter = Meter("cpu", torch.float32, CEILINGS, seconds=0.0)
    [row] = meter.measure(problems.load("rbf_gram"), [TINY["rbf_gram"]])
    assert row.x_compiled is None
    assert any("not compiled, RuntimeError: no C++ compiler" in note for note in meter.notes)


def test_what_compiles_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: function)
    meter = Meter("cpu", torch.float32, CEILINGS, seconds=0.0)
    [row] = meter.measure(problems.load("rbf_gram"), [TINY["rbf_gram"]])
    assert row.x_compiled is not None and row.x_compiled > 0
    assert meter.notes == []
