"""Bad and extreme input for every operator."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mige_ext import ops
from tests.support.bad_input import (
    INF,
    NAN,
    ONE,
    Argument,
    B,
    BadInputTests,
    X,
    Z,
    assert_finite,
    fill,
    sigma,
)
from tests.support.inputs import normal

ARGUMENTS = [
    Argument(ops.squared_distances, "", "x", lambda x: ops.squared_distances(x), 0, True),
    Argument(ops.squared_distances, "", "y",
             lambda y: ops.squared_distances(fill(y, 5, 3), y), 0, True, True),
    Argument(ops.distance_quantile, "", "x", lambda x: ops.distance_quantile(x), 2, True),
    Argument(ops.rbf_gram, "", "x",
             lambda x: ops.rbf_gram(x, bandwidth=sigma(x)), 0, True, True),
    Argument(ops.rbf_gram, "", "y",
             lambda y: ops.rbf_gram(fill(y, 5, 3), y, bandwidth=sigma(y)), 0, True, True),
    Argument(ops.rbf_gradient_sum, "", "x",
             lambda x: ops.rbf_gradient_sum(x, bandwidth=sigma(x)), 1, True, True),
    Argument(ops.rbf_product, "", "q",
             lambda q: ops.rbf_product(q, fill(q, 5, 3), fill(q, 5, 2), bandwidth=sigma(q)),
             0, True, True),
    Argument(ops.rbf_product, "", "x",
             lambda x: ops.rbf_product(fill(x, 5, 3), x, fill(x, 16, 2), bandwidth=sigma(x)),
             0, True, True),
    Argument(ops.ssge, "", "x", lambda x: ops.ssge(x), 2, True),
    Argument(ops.ridge_whitening, "", "x", lambda x: ops.ridge_whitening(x), 2, True),
    Argument(ops.student_score, "", "x", lambda x: ops.student_score(x)[:2], 2, True),
    Argument(ops.adaptive_score, "", "x", lambda x: ops.adaptive_score(x)[::2], 2, True),
    Argument(
        ops.adaptive_student_score, "", "x", lambda x: ops.adaptive_student_score(x)[::2], 2, True
    ),
    Argument(ops.rbf_product, "", "w",
             lambda w: ops.rbf_product(fill(w, 5, 3), fill(w, 16, 3), w, bandwidth=sigma(w)),
             0, True, True, samples=False),
    Argument(ops.eigh, "", "k", lambda k: ops.eigh(k), 1, True, shape=(6, 6), samples=False),
]  # fmt: skip

UNFIT: dict[str, tuple[Callable[[], Any], str]] = {
    "squared_distances y columns": (lambda: ops.squared_distances(X, Z),
                                    r"y must have as many columns as x, 3, got 2"),
    "squared_distances y batch": (lambda: ops.squared_distances(X, B),
                                  r"y must have the leading dimensions of x, \(\), got \(2,\)"),
    "squared_distances y dtype": (lambda: ops.squared_distances(X, X.double()),
                                  r"y must have the dtype of x, torch.float32, got torch.float64"),
    "rbf_gram y columns": (lambda: ops.rbf_gram(X, Z, bandwidth=ONE),
                           r"y must have as many columns as x, 3, got 2"),
    "rbf_gram bandwidth batch": (lambda: ops.rbf_gram(B, bandwidth=ONE),
                                 r"bandwidth must have the leading .* of x, \(2,\), got \(\)"),
    "rbf_gram bandwidth dtype": (lambda: ops.rbf_gram(X, bandwidth=ONE.double()),
                                 r"bandwidth must have the dtype of x, .*32, got torch.float64"),
    "rbf_gram bandwidth number": (lambda: ops.rbf_gram(X, bandwidth=1.0),  # type: ignore[arg-type]
                                  r"bandwidth must be a torch.Tensor, got float"),
    "rbf_gram bandwidth device": (lambda: ops.rbf_gram(X, bandwidth=ONE.to("meta")),
                                  r"bandwidth must be on the device of x, cpu, got meta"),
    "rbf_gradient_sum bandwidth": (lambda: ops.rbf_gradient_sum(X, bandwidth=torch.ones(1)),
                                   r"bandwidth must have the leading .* of x, \(\), got \(1,\)"),
    "rbf_product x columns": (lambda: ops.rbf_product(X, Z, X, bandwidth=ONE),
                              r"x must have as many columns as q, 3, got 2"),
    "rbf_product w rows": (lambda: ops.rbf_product(X, X, X[:2], bandwidth=ONE),
                           r"w must have as many rows as x, 6, got 2"),
    "rbf_product w rank": (lambda: ops.rbf_product(X, X, X[0], bandwidth=ONE),
                           r"w must have shape .*, got \(3,\)"),
    "rbf_product x batch": (lambda: ops.rbf_product(X, B, B, bandwidth=ONE),
                            r"x must have the leading dimensions of q, \(\), got \(2,\)"),
    "rbf_product bandwidth batch": (lambda: ops.rbf_product(X, X, X, bandwidth=torch.ones(2)),
                                    r"bandwidth must have the leading .* of q, \(\), got \(2,\)"),
    "ssge bandwidth batch": (lambda: ops.ssge(B, ONE),
                             r"bandwidth must have the leading .* of x, \(2,\), got \(\)"),
    "ssge bandwidth dtype": (lambda: ops.ssge(X, ONE.double()),
                             r"bandwidth must have the dtype of x, .*32, got torch.float64"),
    "eigh not square": (lambda: ops.eigh(X), r"k must have shape \(.*M, M\).*, got \(6, 3\)"),
    "eigh vector": (lambda: ops.eigh(X[0]), r"k must have shape \(.*M, M\).*, got \(3,\)"),
    "eigh empty": (lambda: ops.eigh(X[:0, :0]), r"k must have shape .*M >= 1, got \(0, 0\)"),
}  # fmt: skip

NUMBERS: list[tuple[Any, str, Callable[[Any], Any], list[Any], str]] = [
    (ops.distance_quantile, "quantile", lambda v: ops.distance_quantile(X, v),
     [0, -0.5, 1.5, NAN, INF], r"must lie in \(0, 1\]"),
    (ops.ssge, "quantile", lambda v: ops.ssge(X, quantile=v),
     [0, -0.5, 1.5, NAN, INF], r"must lie in \(0, 1\]"),
    (ops.ssge, "threshold", lambda v: ops.ssge(X, threshold=v),
     [0, -0.5, 1.5, NAN, INF], r"must lie in \(0, 1\]"),
    (ops.ssge, "multiplier", lambda v: ops.ssge(X, multiplier=v),
     [0, -0.5, NAN, INF], r"must be positive and finite"),
    (ops.ssge, "rank", lambda v: ops.ssge(X, rank=v), [0, -1, 7, 2.5, "3", True], r"must "),
    (ops.ssge, "power", lambda v: ops.ssge(X, power=v), [3, 2**63 - 1], r"must be 1 or 2"),
    (ops.ssge, "power", lambda v: ops.ssge(X, power=v), [0, 1.5, "1", None],
     r"must be a positive integer"),
    *(
        (ops.ssge, name, lambda v, n=name: ops.ssge(X, **{n: v}), ["half", None, ONE],
         r"must be a real number")
        for name in ("quantile", "threshold", "multiplier")
    ),
    (ops.distance_quantile, "quantile", lambda v: ops.distance_quantile(X, v),
     ["half", None, ONE], r"must be a real number"),
    (ops.ridge_whitening, "factor", lambda v: ops.ridge_whitening(X, factor=v),
     [0, -1.0, NAN, INF], r"must be positive and finite"),
]  # fmt: skip


class TestBadInput(BadInputTests):
    ARGUMENTS = ARGUMENTS
    UNFIT = UNFIT
    NUMBERS = NUMBERS


@pytest.mark.parametrize("value", [0.0, -1.0, NAN, INF, -INF])
@pytest.mark.parametrize("name", ["rbf_gram", "rbf_gradient_sum", "rbf_product", "ssge"])
def test_bandwidths_that_are_not_positive_numbers_are_refused(name: str, value: float) -> None:
    width = torch.tensor([1.0, value])
    calls = {
        "rbf_gram": lambda: ops.rbf_gram(B, bandwidth=width),
        "rbf_gradient_sum": lambda: ops.rbf_gradient_sum(B, bandwidth=width),
        "rbf_product": lambda: ops.rbf_product(B, B, B, bandwidth=width),
        "ssge": lambda: ops.ssge(B, width),
    }
    with pytest.raises(RuntimeError, match=rf"^bandwidth must be positive.*got {value:g}"):
        calls[name]()


def test_numbers_of_numpy_are_numbers() -> None:
    assert_finite(ops.ssge(X, rank=np.int64(3), threshold=np.float32(0.9)))


def test_numbers_beyond_the_range_of_the_operators_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^multiplier must be positive and finite, got inf"):
        ops.ssge(X, multiplier=10**400)
    with pytest.raises(ValueError, match=r"^rank must lie in \[1, M\] with M = 6, got "):
        ops.ssge(X, rank=2**70)


def test_a_non_finite_sample_is_located() -> None:
    x = normal(2, 5, 3)
    x[1, 4, 2] = torch.inf
    with pytest.raises(
        RuntimeError, match="x must be finite, got inf in row 4, column 2 of group 1"
    ):
        ops.ssge(x)


@pytest.mark.parametrize("width", [1e-38, 1e-30, 1.0, 1e30, 3e38])
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1.0, 1e30, 1e38])
@pytest.mark.parametrize("name", ["rbf_gram", "rbf_gradient_sum", "rbf_product", "ssge"])
def test_any_bandwidth_and_scale_give_finite_results(name: str, scale: float, width: float) -> None:
    x, bandwidth = X.clamp(-3, 3) * scale, torch.tensor(width)
    calls: dict[str, Callable[[], Any]] = {
        "rbf_gram": lambda: (ops.rbf_gram(x, bandwidth=bandwidth),
                             ops.rbf_gram(x, x.flip(0), bandwidth=bandwidth)),
        "rbf_gradient_sum": lambda: ops.rbf_gradient_sum(x, bandwidth=bandwidth),
        "rbf_product": lambda: ops.rbf_product(x, x, Z, bandwidth=bandwidth),
        "ssge": lambda: ops.ssge(x, bandwidth),
    }  # fmt: skip
    result = calls[name]()
    assert_finite(result)
    if name == "rbf_gram":
        assert (result[0].diagonal() == 1).all()


@pytest.mark.parametrize("multiplier", [1e-300, 1e-45, 1e-30, 1e30, 1e300])
def test_any_multiplier_gives_a_positive_bandwidth(multiplier: float) -> None:
    _, _, width, rank = ops.ssge(X, multiplier=multiplier)
    assert width.isfinite() and width > 0 and rank >= 1  # rank 0 means that all samples are equal


def test_shapes_that_do_not_fit_are_refused_without_values() -> None:
    x, y, b = (t.to("meta") for t in (X, Z, B))
    one = ONE.to("meta")
    misfits: dict[str, tuple[Any, ...]] = {
        r"y must have shape \(..., N, d\) with d = 3, got \(6, 2\)": (ops.squared_distances, x, y),
        r"y must have the leading dimensions of x, \(\)": (ops.squared_distances, x, b),
        r"k must have shape \(..., M, M\) with M = 6": (ops.eigh, x),
    }
    for message, (operator, *points) in misfits.items():
        with pytest.raises(ValueError, match=message):
            operator(*points)
    with pytest.raises(ValueError, match=r"w must have shape \(..., M, p\) with M = 6"):
        ops.rbf_product(x, x, x[:2], bandwidth=one)


def test_every_operator_is_in_the_table() -> None:
    covered = {argument.owner for argument in ARGUMENTS}
    assert covered == {getattr(ops, name) for name in ops.OPERATORS}
