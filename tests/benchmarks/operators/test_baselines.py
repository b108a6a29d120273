"""The baselines have the results of the operators."""

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.operators import adaptive_baselines, baselines, cusolver, problems
from benchmarks.operators.harness import Samples
from mige_ext import reference
from tests.benchmarks.operators.inputs import TINY, for_each_operator
from tests.support.backends import OPERATORS


def agreed(name: str, function: Any, arguments: dict[str, Tensor]) -> None:
    """Assert that a baseline has the results of the reference."""
    got = function(**arguments)
    exact = getattr(reference, name)(**arguments)
    if name == "eigh":  # up to the signs of eigenvectors
        (values, vectors), (exact, _) = got, exact
        torch.testing.assert_close(vectors @ torch.diag_embed(values) @ vectors.mT, arguments["k"])
        got = values
    elif name == "ssge":
        exact = exact[0]
        if isinstance(got, list):  # `published` runs group after group, with its own median
            sigmas = [published_bandwidth(group) for group in arguments["x"]]
            got, exact = torch.stack(got), reference.ssge(arguments["x"], torch.stack(sigmas))[0]
    elif name in ("adaptive_score", "adaptive_student_score"):
        exact = exact[0]
    torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-9)


def published_bandwidth(x: Tensor) -> Tensor:
    """The median over all M² distances, zeros included."""
    return torch.cdist(x, x).flatten().topk(x.shape[0] ** 2 // 2).values[-1]


@for_each_operator
@pytest.mark.parametrize("groups", [1, 2])
def test_baselines_compute_what_the_operator_does(name: str, groups: int) -> None:
    benchmark = problems.load(name)
    problem = benchmark.problem(Samples("cpu", torch.float64), groups, *TINY[name][1:])
    functions = [f for f in benchmark.eager if groups == 1 or not f.__name__.endswith("pdist")]
    assert functions
    for function in functions:
        agreed(name, function, problem.arguments)
    if problem.published is not None and groups > 1:
        agreed(name, problem.published[0], problem.arguments)


@pytest.mark.parametrize("name", ["published", "eager", "eager_pdist"])
def test_baselines_compute_the_score(name: str) -> None:
    x = torch.randn(65, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = getattr(baselines, name)(x)
    if name == "published":  # its median is over all M² distances, with the zeros
        sigma = torch.cdist(x, x).flatten().topk(65 * 65 // 2).values[-1]
        expected = reference.ssge(x, sigma)[0]
    else:
        expected = reference.ssge(x)[0]
    assert (got - expected).abs().max() <= 1e-9 * expected.abs().max()


@for_each_operator
def test_baselines_compile_as_one_graph(name: str) -> None:
    benchmark = problems.load(name)
    problem = benchmark.problem(Samples("cpu", torch.float64), 1, *TINY[name][1:])
    torch.compiler.reset()
    # Inductor is left out because it takes seconds. The harness notes its failures.
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
            "torch.linalg.eigh with cuSOLVER preferred",
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


def test_eager_baselines_are_those_of_the_file() -> None:
    """The problems declare their baselines; the files of baselines define them."""
    for name in OPERATORS:
        for function in problems.load(name).eager:
            home = baselines if hasattr(baselines, function.__name__) else adaptive_baselines
            assert getattr(home, function.__name__) is function
