"""Samples that coincide or nearly coincide: which ones the adaptive score leaves out."""

import math

import pytest
import torch
from torch import Tensor

from mige_ext import reference
from tests.ops.adaptive_samples import samples
from tests.support.accuracy import rounding
from tests.support.backends import Backend, for_each_backend
from tests.support.inputs import for_each_dtype, normal


def repeated(kind: str) -> Tensor:
    """Normal samples of which some coincide or nearly coincide."""
    x = normal(64, 4)
    kinds = {
        "twice": lambda: x.repeat(2, 1),
        "drawn with replacement": lambda: x[torch.arange(64) * 7 % 41],
        "two views": lambda: x.repeat(2, 1) + 0.05 * normal(128, 4, seed=1),
        "five views": lambda: x[:50].repeat(5, 1) + 0.1 * normal(250, 4, seed=1),
        "rounded": lambda: (2 * normal(130, 2)).round() / 2,
        "few values": lambda: x[:5].repeat(13, 1),
        "one pair": lambda: torch.cat((x, x[:1])),
    }
    return kinds[kind]()


for_each_repetition = pytest.mark.parametrize(
    "kind",
    ["twice", "drawn with replacement", "two views", "five views", "rounded", "few values",
     "one pair"],
)  # fmt: skip


@for_each_repetition
@for_each_dtype
@for_each_backend("adaptive_score")
def test_repeated_samples_are_left_out_of_the_choice(
    backend: Backend, dtype: torch.dtype, kind: str
) -> None:
    x = repeated(kind)
    got = backend.adaptive_score(x.to(dtype))
    exact = reference.adaptive_score(x)
    assert 0 < exact[6] < 1
    assert got[6] == exact[6].to(dtype)
    assert got[1] == exact[1].to(dtype) and got[2] == exact[2]
    lost = rounding(dtype, x.numel()) * max(1, 1 / float(exact[1])) * 100
    for i in (0, 5, 7, 8):
        assert (got[i] - exact[i]).abs().max() <= lost * max(1, float(exact[i].abs().max()))


@for_each_backend("adaptive_score")
def test_repeated_samples_that_are_not_normal_are_corrected_as_without_copies(
    backend: Backend,
) -> None:
    once = 1.5 * normal(48, 2).sign() + normal(48, 2, seed=1)
    start = once.sin()
    x, starts = once.repeat(2, 1), start.repeat(2, 1)
    for args in ((), (starts, starts[:, 0])):
        got = backend.adaptive_score(x, *args)
        exact = reference.adaptive_score(x, *args)
        assert got[1] == exact[1] and got[1].isfinite()
        assert got[6] == 0.5
        assert (got[0] - exact[0]).abs().max() <= 1e-8 * exact[0].abs().max()
        assert (got[8] - exact[8]).abs().max() <= 1e-8 * exact[8].abs().max()
        assert torch.equal(got[8][:48], got[8][48:])
    true = -once + 1.5 * torch.tanh(1.5 * once)
    error = (backend.adaptive_score(x)[0][:48] - true).square().sum()
    assert error < 1.1 * (backend.adaptive_score(once)[0] - true).square().sum()


@for_each_backend("adaptive_score")
def test_repeated_samples_with_more_columns_are_left_out_too(backend: Backend) -> None:
    x = normal(30, 70).repeat(2, 1)
    got, exact = backend.adaptive_score(x), reference.adaptive_score(x)
    assert got[6] == exact[6] == 0.5
    assert got[1] == exact[1] and got[2] == exact[2]
    assert (got[0] - exact[0]).abs().max() <= 1e-8 * exact[0].abs().max()


@pytest.mark.parametrize("m", [64, 200])
@pytest.mark.parametrize("kind", ["normal", "heavy tails"])
def test_no_independent_sample_is_left_out(kind: str, m: int) -> None:
    for d in (2, 5, 20):
        x = samples(kind, m, d)
        assert reference.adaptive_score(x)[6] == 0


@for_each_backend("adaptive_score")
@pytest.mark.parametrize(("m", "d"), [(8, 24), (12, 40)])
def test_copies_of_wide_samples_are_left_out(backend: Backend, m: int, d: int) -> None:
    x = normal(m, d).repeat(2, 1)
    _, lam, _, risk, _, _, left_out, *_ = backend.adaptive_score(x)
    assert left_out == 0.5
    assert lam == math.inf and risk == 0
