"""Invalid arguments of the functions for values in nats, and arguments that give a warning."""

import math
from collections.abc import Callable

import pytest
import torch

import mige_ext as mige
from mige_ext import estimate_entropy, estimate_mutual_information
from tests.support.inputs import normal

X, Z = normal(20, 2), normal(20, 2, seed=1)
S = torch.arange(20) % 2
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: estimate_mutual_information([1.0], Z), TypeError, "x must be a torch.Tensor"),  # type: ignore[arg-type]
    (lambda: estimate_mutual_information(X, Z[:9]), ValueError, r"z must have .* \(20,\), got \(9"),
    (
        lambda: estimate_mutual_information(X[:, 0], Z),
        ValueError,
        r"x must have shape .*; one column has shape \(M, 1\), and a category has integers",
    ),
    (lambda: estimate_mutual_information(S, S), TypeError, "x or z must have a floating-point"),
    (lambda: estimate_mutual_information(X, Z.to("meta")), ValueError, "z must have values, got"),
    (lambda: estimate_entropy(Z.to("meta")), ValueError, "z must have values, got"),
    (lambda: estimate_mutual_information(X * math.nan, Z), ValueError, "x must be finite"),
    (lambda: estimate_mutual_information(X, Z / 0), ValueError, "z must be finite"),
    (lambda: estimate_mutual_information(X[:5], Z[:5]), ValueError, "at least 6 samples"),
    (
        lambda: estimate_mutual_information(normal(20, 30), Z),
        ValueError,
        r"at least 34 samples .*, got 20",
    ),
    (
        lambda: estimate_mutual_information(S, normal(20, 13)),
        ValueError,
        r"M >= 1.25 \(d \+ classes \+ 2\) samples, here 22 for 2 classes and d = 13 .*, got 20",
    ),
    (
        lambda: estimate_mutual_information(S, normal(20, 30)),
        ValueError,
        r"here 43 for 2 classes and d = 30 columns, got 20",
    ),
    (
        lambda: estimate_mutual_information(S[:8], Z[:8], given=S[:8] * 0 + (S[:8].cumsum(0) > 2)),
        ValueError,
        r"given = 0: x and z must have M >= 1.25 .*, got 5",
    ),
    (lambda: estimate_mutual_information(X, 2 * X), ValueError, "must not determine each other"),
    (lambda: estimate_mutual_information(X, Z, given=X[:, 0]), TypeError, "given must have an int"),
    (lambda: estimate_mutual_information(X, Z, given=S[:9]), ValueError, "given must have"),
    (
        lambda: estimate_mutual_information(X, Z, given=torch.arange(20)),
        ValueError,
        "given must have at least 2 samples of each value, got 1 sample of 0",
    ),
    (
        lambda: estimate_mutual_information(X, Z, given=torch.arange(20) // 4),
        ValueError,
        "given = 0",
    ),
    (
        lambda: estimate_mutual_information(torch.arange(20), Z),
        ValueError,
        "x must have at least 2 samples of each class, got 1 of the smallest of 20 classes in 20",
    ),
    (
        lambda: estimate_mutual_information(Z, torch.arange(20) == 0),
        ValueError,
        "z must have at least 2 samples of each class, got 1 of the smallest of 2 classes",
    ),
    (
        lambda: estimate_mutual_information(torch.arange(2100) < 3, normal(2100, 1)),
        ValueError,
        r"x must have at least 4 samples of each class \(2 parts of at most 2000\), got 3 of",
    ),
    (
        lambda: estimate_mutual_information(X.long(), Z),
        ValueError,
        r"x must have .* \(20,\), got \(20, \d\) \(integers are a category\)",
    ),
    (lambda: estimate_mutual_information(X, Z, seed=-1), ValueError, "seed must be"),
    (lambda: estimate_mutual_information(X, Z, group=3), TypeError, "group must be"),  # type: ignore[arg-type]
    (lambda: estimate_mutual_information(X.to(torch.complex64), Z), TypeError, "x must be real"),
    (lambda: estimate_entropy(S), TypeError, "z must have a floating-point dtype"),
    (lambda: estimate_entropy(Z[:3]), ValueError, "z must have M >= d \\+ 2"),
    (lambda: estimate_entropy(Z * math.inf), ValueError, "z must be finite"),
    (lambda: estimate_entropy(Z * torch.tensor([1, 0])), ValueError, "vary in every column"),
    (lambda: estimate_entropy(torch.cat((Z, Z), 1)), ValueError, "vary in all 4 directions, got 2"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input_is_named(case: int) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


def test_few_values_as_numbers_give_a_warning() -> None:
    with pytest.warns(mige.MigeWarning, match="takes 2 distinct values"):
        estimate_mutual_information(S.double().repeat(5).unsqueeze(1), normal(100, 2))


def test_compiled_code_gives_an_error_that_names_the_functions() -> None:
    compiled = torch.compile(lambda: estimate_entropy(Z).value, backend="eager", fullgraph=True)
    try:
        with pytest.raises(Exception, match="call them outside the compiled function"):
            compiled()
    finally:
        torch.compiler.reset()
