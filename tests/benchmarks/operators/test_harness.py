"""The microbenchmarks: what they count, what they compare with, and what the command line says.

No test here depends on how fast anything is: where times matter, they are made up.
"""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import common
from benchmarks.operators import (
    adaptive_baselines,
    baselines,
    command,
    cusolver,
    harness,
    records,
    roofline,
)
from benchmarks.operators.harness import Meter, Samples
from benchmarks.operators.records import Record
from benchmarks.operators.roofline import Ceilings
from mige_ext import ops, reference
from tests.support.backends import OPERATORS
from tests.support.inputs import for_each_dtype
from tests.support.process import ROOT, environment

TINY = {
    "squared_distances": (2, 33, 5),
    "distance_quantile": (2, 33, 5),
    "rbf_gram": (2, 33, 5),
    "rbf_gradient_sum": (2, 33, 5),
    "rbf_product": (2, 7, 33, 5, 3),
    "eigh": (2, 33),
    "ssge": (2, 33, 5),
    "ridge_whitening": (2, 33, 5),
    "adaptive_score": (2, 33, 5),
}
CEILINGS = Ceilings(gflops=100.0, gbs=10.0)

for_each_operator = pytest.mark.parametrize("name", OPERATORS)


def record(**changes: Any) -> Record:
    """A record of an imagined machine."""
    return dataclasses.replace(
        Record(
            machine="A (R) Chip", device="cpu", threads="2", torch="2.13.0", operator="rbf_gram",
            size="M=64 d=8", dtype="float32", ms=2.0, gflops=20.0, gbs=4.0, roofline_percent=50.0,
            x_published=None, x_eager=1.5, x_compiled=None, x_library=None, library="",
            peak_gflops=100.0, peak_gbs=10.0,
        ),
        **changes,
    )  # fmt: skip


# --- what is measured -----------------------------------------------------------------------------


def test_every_operator_has_a_benchmark() -> None:
    assert command.OPERATORS == OPERATORS
    for name in OPERATORS:
        benchmark = command.load(name)
        assert benchmark.name == name
        assert benchmark.operator is getattr(ops, name)
        for device in ("cpu", "cuda"):
            sizes = benchmark.sizes[device]
            assert len(set(sizes)) == len(sizes) > 0
            assert {len(size) for size in sizes} == {len(benchmark.fields)}


def test_the_sizes_that_are_targets_on_cuda_are_measured() -> None:
    eigh = {(500, 100), (1024, 32), (128, 64), (128, 128), (16, 256), (1, 1024)}
    assert eigh <= set(command.load("eigh").sizes["cuda"])
    assert {(1, 4096, 64), (1, 4096, 1024)} <= set(command.load("rbf_gram").sizes["cuda"])
    assert {(1, 256, 64), (128, 64, 64), (1, 1024, 64)} <= set(command.load("ssge").sizes["cuda"])


@pytest.mark.parametrize(
    ("name", "size", "flop", "values"),
    [
        # 16 pairs, half of them, 3 flop for each of 3 coordinates; 12 read, 16 written; 2 groups
        ("squared_distances", (2, 4, 3), 2 * 8 * 9, 2 * (12 + 16)),
        ("distance_quantile", (2, 4, 3), 2 * 8 * 9, 2 * (12 + 1)),
        ("rbf_gram", (2, 4, 3), 2 * 8 * 9, 2 * (12 + 1 + 16)),
        # that, and 2 flop for 16 pairs and 3 coordinates; 12 and σ read, 12 written
        ("rbf_gradient_sum", (2, 4, 3), 2 * (8 * 9 + 2 * 16 * 3), 2 * (12 + 1 + 12)),
        # 10 pairs, 3 flop for each of 3 coordinates and 2 for each of 7 columns
        ("rbf_product", (2, 5, 2, 3, 7), 2 * 10 * (9 + 14), 2 * (15 + 6 + 14 + 1 + 35)),
        ("eigh", (2, 10), 2 * 9000, 2 * (100 + 100 + 10)),
        # 2 flop for 10 samples and 3² entries, twice; 9 and 2 for 3³
        ("ridge_whitening", (2, 10, 3), 2 * (4 * 90 + 11 * 27), 2 * (30 + 3 + 9 + 1)),
        # four λ; 1.5 + 2 for 10² pairs, 6 for 10 samples, of 3 coordinates; 9 for 3³
        (
            "adaptive_score",
            (2, 10, 3),
            2 * (4 * (1000 + 10 * 300) + 3.5 * 300 + 6 * 90 + 9 * 27),
            2 * (30 + 30 + 5),
        ),
    ],
)
def test_work_is_counted_as_by_hand(
    name: str, size: tuple[int, ...], flop: float, values: float
) -> None:
    problem = command.load(name).problem(Samples("cpu", torch.float64), *size)
    assert problem.flop == flop
    assert problem.values == values


def test_work_of_the_score_depends_on_its_rank() -> None:
    problem = command.load("ssge").problem(Samples("cpu", torch.float64), 2, 10, 3)
    ranks = reference.ssge(problem.arguments["x"])[3]
    expected = 2 * (3.5 * 100 * 3 + 9 * 1000) + sum(4 * 10 * 3 * int(j) for j in ranks)
    assert 0 < ranks.min() <= ranks.max() <= 10
    assert problem.flop == expected
    assert problem.values == 2 * (30 + 30 + 10 + 1 + 1)


# --- baselines ------------------------------------------------------------------------------------


def agreed(name: str, function: Any, arguments: dict[str, Tensor]) -> None:
    """Asserts that a baseline computes what the reference does."""
    got = function(**arguments)
    exact = getattr(reference, name)(**arguments)
    if name == "eigh":  # up to the signs of eigenvectors
        (values, vectors), (exact, _) = got, exact
        torch.testing.assert_close(vectors @ torch.diag_embed(values) @ vectors.mT, arguments["k"])
        got = values
    elif name == "ssge":
        exact = exact[0]
        if isinstance(got, list):  # published, group after group, has its own median
            sigmas = [published_bandwidth(group) for group in arguments["x"]]
            got, exact = torch.stack(got), reference.ssge(arguments["x"], torch.stack(sigmas))[0]
    elif name == "adaptive_score":
        exact = exact[0]
    torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-9)


def published_bandwidth(x: Tensor) -> Tensor:
    """The median over all M² distances, zeros included."""
    return torch.cdist(x, x).flatten().topk(x.shape[0] ** 2 // 2).values[-1]


@for_each_operator
@pytest.mark.parametrize("groups", [1, 2])
def test_baselines_compute_what_the_operator_does(name: str, groups: int) -> None:
    benchmark = command.load(name)
    problem = benchmark.problem(Samples("cpu", torch.float64), groups, *TINY[name][1:])
    functions = [f for f in benchmark.eager if groups == 1 or not f.__name__.endswith("pdist")]
    assert functions
    for function in functions:
        agreed(name, function, problem.arguments)
    if problem.published is not None and groups > 1:
        agreed(name, problem.published, problem.arguments)


@for_each_operator
def test_baselines_compile_as_one_graph(name: str) -> None:
    benchmark = command.load(name)
    problem = benchmark.problem(Samples("cpu", torch.float64), 1, *TINY[name][1:])
    torch.compiler.reset()
    # Without inductor, which takes seconds; what it can fail at, the harness notes.
    compiled = torch.compile(benchmark.eager[0], backend="eager", fullgraph=True)
    agreed(name, compiled, problem.arguments)


def test_the_library_baseline_says_what_it_is() -> None:
    name, routine = cusolver.batched_eigh("cpu")
    assert routine is None
    assert "LAPACK" in name


@pytest.mark.parametrize(
    ("missing", "expected", "function"),
    [
        ((), "XsyevBatched, called directly", cusolver.syev_batched),
        (("syev_batched",), "syevjBatched by CuPy (XsyevBatched cannot", cusolver.cupy_eigh),
        (
            ("syev_batched", "cupy_eigh"),
            "torch.linalg.eigh told to use cuSOLVER",
            cusolver.torch_cusolver_eigh,
        ),
    ],
)
def test_the_library_is_the_best_that_works(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], expected: str, function: object
) -> None:
    def check(candidate: Any) -> None:
        if candidate.__name__ in missing:
            raise RuntimeError("not here")

    monkeypatch.setattr(cusolver, "_check", check)
    name, routine = cusolver.batched_eigh("cuda")
    assert expected in name
    assert routine is function


# --- timing ---------------------------------------------------------------------------------------


@for_each_operator
@for_each_dtype
def test_a_record_follows_from_the_times(
    monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype
) -> None:
    def made_up(functions: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, float]:
        for function in functions.values():
            function()  # every one must run with the arguments that it gets
        times = dict.fromkeys(functions, 7e-6)
        return times | {"own": 2e-6, next(k for k in times if k.startswith("eager")): 3e-6}

    monkeypatch.setattr(harness, "time_each", made_up)
    benchmark = command.load(name)
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
    assert row.x_eager == pytest.approx(1.5)  # the fastest of them
    assert row.x_published == (pytest.approx(3.5) if problem.published else None)
    assert row.x_compiled is None and "left out" in " ".join(meter.notes)


def test_a_published_algorithm_too_large_is_left_out_with_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(harness.PUBLISHED_LIMIT, "cpu", 2 * 33 * 33 * 5 * 4 - 1)
    meter = Meter("cpu", torch.float32, CEILINGS, compiled=False, seconds=0.0)
    [row] = meter.measure(command.load("rbf_gram"), [TINY["rbf_gram"]])
    assert row.x_published is None
    assert any("published not run, it would form 4.36e-05 GB" in note for note in meter.notes)


def test_a_compiler_that_fails_leaves_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", failing)
    meter = Meter("cpu", torch.float32, CEILINGS, seconds=0.0)
    [row] = meter.measure(command.load("rbf_gram"), [TINY["rbf_gram"]])
    assert row.x_compiled is None
    assert any("not compiled, RuntimeError: no C++ compiler" in note for note in meter.notes)


def test_what_compiles_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: function)
    meter = Meter("cpu", torch.float32, CEILINGS, seconds=0.0)
    [row] = meter.measure(command.load("rbf_gram"), [TINY["rbf_gram"]])
    assert row.x_compiled is not None and row.x_compiled > 0
    assert meter.notes == []


def test_on_cuda_events_enclose_the_second_call(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            done.append("event")

        def elapsed_time(self, end: object) -> float:
            assert end is not self
            return 4.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("fence"))
    assert common.time_call(lambda: done.append("call"), "cuda") == pytest.approx(4e-3)
    assert done == ["fence", "call", "event", "call", "event", "fence"]


# --- the roofline ---------------------------------------------------------------------------------


def test_the_roof_is_the_lower_of_two_ceilings() -> None:
    assert CEILINGS.attainable(flop=2.0, size=1.0) == 20.0  # below the ridge at 10 flop a byte
    assert CEILINGS.attainable(flop=10.0, size=1.0) == 100.0
    assert CEILINGS.attainable(flop=1000.0, size=1.0) == 100.0
    # 2e9 flop on 1e9 bytes take 0.1 s at best
    assert CEILINGS.percent(flop=2e9, size=1e9, seconds=0.1) == pytest.approx(100.0)
    assert CEILINGS.percent(flop=2e9, size=1e9, seconds=0.4) == pytest.approx(25.0)
    assert CEILINGS.percent(flop=1e12, size=1e9, seconds=20.0) == pytest.approx(50.0)


@for_each_dtype
def test_ceilings_come_from_times(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setitem(roofline.MATMUL, "cpu", 64)
    monkeypatch.setitem(roofline.COPY, "cpu", 1 << 20)
    monkeypatch.setattr(roofline, "_fastest", lambda function, device: function() is None or 1e-3)
    ceilings = roofline.measure_ceilings("cpu", dtype)
    convolution = 2 * 8 * 256 * 32 * 32 * 256 * 9  # more than 2 · 64³, in the same time
    assert ceilings.gflops == pytest.approx(convolution * 4 / dtype.itemsize / 1e-3 / 1e9)
    assert ceilings.gbs == pytest.approx(2 * 2**20 / 1e-3 / 1e9)


def test_the_roofline_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "made" / "roofline.png"
    roofline.draw(path, [record(), record(operator="eigh", size="n=9", gflops=1.0)], CEILINGS)
    assert path.read_bytes()[:4] == b"\x89PNG"


# --- records --------------------------------------------------------------------------------------


def test_records_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "made" / "results.csv"
    first = record(x_library=2.25, library="a, b")
    assert records.merge(path, [first]) == [first]
    assert records.read(path) == [first]
    # the same again replaces it; another machine, number of threads, size or dtype does not
    others = [record(machine="B"), record(threads="1"), record(size="M=1"), record(dtype="float64")]
    faster = record(ms=1.0, torch="2.14.1")
    assert records.merge(path, [faster, *others]) == [faster, *others]
    assert records.read(path) == [faster, *others]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"end_to_end.csv is no file of microbenchmarks: no "):
        records.read(ROOT / "benchmarks" / "results" / "end_to_end.csv")


def test_files_are_named_after_the_machine() -> None:
    assert records.slug(record()) == "a-r-chip-2-threads"
    assert records.slug(record(threads="1")) == "a-r-chip-1-thread"
    gpu = record(machine="NVIDIA H100 80GB HBM3", device="cuda", threads="-")
    assert records.slug(gpu) == "nvidia-h100-80gb-hbm3-cuda"


def test_slower_means_by_more_than_the_tolerance() -> None:
    stored = [record(ms=2.0)]
    for ms, tolerance, slower in ((2.49, 25, False), (2.51, 25, True), (2.51, 30, False)):
        [pair] = records.compare([record(ms=ms)], stored, tolerance)
        assert pair.ratio == pytest.approx(ms / 2)
        assert pair.slower == slower
    assert records.compare([record(machine="B")], stored, 25) == []
    assert records.compare([record(threads="1")], stored, 25) == []


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the benchmark of rbf_gram a tiny one, with ceilings that need no measuring."""
    module = importlib.import_module("benchmarks.rbf_gram")
    small = dataclasses.replace(module.BENCHMARK, sizes={"cpu": ((2, 33, 5), (1, 17, 3))})
    monkeypatch.setattr(module, "BENCHMARK", small)
    monkeypatch.setattr(roofline, "measure_ceilings", lambda device, dtype: CEILINGS)


QUICK = ["rbf_gram", "--no-compile", "--seconds", "0"]


@pytest.mark.usefixtures("tiny")
def test_a_table_has_a_row_for_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    command.main(QUICK)
    out = capsys.readouterr().out
    assert "rbf_gram\n" in out
    assert "groups=2 M=33 d=5" in out and "M=17 d=3" in out
    assert "torch.compile was left out" in out
    command.main([*QUICK, "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    assert table[0].startswith("| size | ms | GFLOP/s | GB/s | % of roofline | × published |")
    assert table[3].startswith("| M=17 d=3 | ")


@pytest.mark.usefixtures("tiny")
def test_a_slowdown_against_a_stored_file_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stored.csv"
    command.main([*QUICK, "--csv", str(path)])
    kept = records.read(path)
    assert [row.size for row in kept] == ["groups=2 M=33 d=5", "M=17 d=3"]

    def store(*times: float) -> None:
        path.unlink()
        rows = zip(kept, times, strict=True)
        records.merge(path, [dataclasses.replace(row, ms=ms) for row, ms in rows])

    store(1e6, 1e6)  # nothing is slower than hours
    command.main([*QUICK, "--compare", str(path)])
    assert "SLOWER" not in capsys.readouterr().out

    store(1e6, 1e-9)
    with pytest.raises(SystemExit) as stop:
        # Compared with what the file held before it is written.
        command.main([*QUICK, "--compare", str(path), "--csv", str(path)])
    assert stop.value.code == 1
    output = capsys.readouterr()
    assert output.out.count("SLOWER") == 1
    assert "slower by more than 25 %: rbf_gram M=17 d=3" in output.err
    assert records.read(path)[1].ms > 1e-6


@pytest.mark.usefixtures("tiny")
def test_a_file_without_this_machine_is_no_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stored.csv"
    records.merge(path, [record(size="M=17 d=3")])
    with pytest.raises(SystemExit) as stop:
        command.main([*QUICK, "--compare", str(path)])
    assert stop.value.code == 2
    assert "Nothing was compared" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny")
def test_save_names_its_files_after_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    command.main([*QUICK, "--save", "--figure", str(tmp_path / "mine.png")])
    [table] = tmp_path.glob("operators-*-1-thread.csv")
    assert len(records.read(table)) == 2
    figure = tmp_path / table.name.replace("operators-", "roofline-").replace(".csv", ".png")
    assert figure.is_file() and (tmp_path / "mine.png").is_file()


def test_an_operator_without_a_kernel_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("no kernel here")

    module = importlib.import_module("benchmarks.rbf_gram")
    refused = dataclasses.replace(module.BENCHMARK, operator=refuse, sizes={"cpu": ((1, 3, 2),)})
    monkeypatch.setattr(module, "BENCHMARK", refused)
    monkeypatch.setattr(roofline, "measure_ceilings", lambda device, dtype: CEILINGS)
    with pytest.raises(SystemExit, match="nothing was measured"):
        command.main(QUICK)
    assert "rbf_gram: not measured, no kernel here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rbf_grim"], "invalid choice: 'rbf_grim'"),
        (["--device", "cpu"], "options need an operator: squared_distances"),
        (["rbf_gram", "--compare", "/nowhere.csv"], "there is no file /nowhere.csv"),
    ],
)
def test_a_bad_call_names_what_there_is(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "--compare" in arguments or all(name in error for name in OPERATORS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_cuda_without_a_gpu_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["rbf_gram", "--device", "cuda"])
    assert stop.value.code == 2
    assert "--device cuda: no: " in capsys.readouterr().err


def test_help_lists_the_operators() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mige_ext", "bench", "--help"],
        capture_output=True, text=True, cwd=ROOT, env=environment(),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in OPERATORS)
    assert "--compare" in result.stdout


def test_eager_baselines_are_those_of_the_file() -> None:
    """One home for what is compared with: benchmarks declare, the files of baselines define."""
    for name in OPERATORS:
        for function in command.load(name).eager:
            home = baselines if hasattr(baselines, function.__name__) else adaptive_baselines
            assert getattr(home, function.__name__) is function
