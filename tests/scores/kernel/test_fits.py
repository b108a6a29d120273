"""Settings of the spectral filters, and copies and states of their fits."""

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import IMQ, RBF, Kernel, Tikhonov
from tests.scores.kernel.cases import (
    D,
    Filter,
    M,
    for_each_filter,
    for_each_kernel,
    for_each_value,
    relative,
    skewed,
)
from tests.support.accuracy import rounding, same_bits
from tests.support.inputs import normal


@for_each_filter
def test_settings_are_values(kind: Filter) -> None:
    a, b = kind.make(kernel=IMQ()), kind.make(kernel=IMQ())
    assert a == b and hash(a) == hash(b) and a != kind.make()
    assert pickle.loads(pickle.dumps(a)) == a
    with pytest.raises(FrozenInstanceError):
        a.curl_free = True  # type: ignore[misc]


@pytest.mark.parametrize("duplicate", [
    copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f)),
    lambda f: type(f).from_state_dict(f.state_dict()),
], ids=["copy", "pickle", "state_dict"])  # fmt: skip
@for_each_filter
@for_each_kernel
@for_each_value
def test_fits_can_be_copied_pickled_and_restored_from_their_state(
    kind: Filter, kernel: Any, curl_free: bool, duplicate: Any
) -> None:
    x, q = normal(2, M, D), normal(2, 5, D, seed=1)
    fitted = kind.make(kernel=kernel, curl_free=curl_free).fit(x)
    twin = duplicate(fitted)
    assert type(twin) is type(fitted)
    assert (twin.kernel, twin.curl_free) == (kernel, curl_free)
    assert torch.equal(twin.score(q), fitted.score(q))
    assert same_bits(tuple(vars(twin.diagnostics).values()),
                     tuple(vars(fitted.diagnostics).values()))  # fmt: skip


def test_a_state_with_a_kernel_whose_name_two_classes_have_is_refused() -> None:
    def define() -> type[IMQ]:
        class Twice(IMQ):
            pass

        return Twice

    first, second = define(), define()
    for kernel in (first(), second()):
        state = Tikhonov(kernel=kernel).fit(skewed()).state_dict()
        with pytest.raises(
            ValueError, match=r"kernel must name one Kernel, got 'Twice', .* 2 classes"
        ):
            mige.FittedFilter.from_state_dict(state)


def test_a_state_is_tensors_that_can_be_loaded_as_weights(tmp_path: Any) -> None:
    fitted = Tikhonov(kernel=IMQ(), curl_free=True).fit(skewed())
    state = fitted.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    torch.save(state, tmp_path / "fit.pt")
    loaded = torch.load(tmp_path / "fit.pt", weights_only=True)
    assert torch.equal(mige.FittedFilter.from_state_dict(loaded).energy(), fitted.energy())
    del loaded["bandwidth"]
    with pytest.raises(KeyError, match=r"state must have 'bandwidth', got .*samples"):
        mige.FittedFilter.from_state_dict(loaded)
    with pytest.raises(TypeError, match="state must be a dict of tensors, got NoneType"):
        mige.FittedFilter.from_state_dict(None)  # type: ignore[arg-type]
    arrays = {name: value.numpy() for name, value in state.items()}
    with pytest.raises(TypeError, match=r"state\[.*\] must be a tensor, got ndarray"):
        mige.FittedFilter.from_state_dict(arrays)  # type: ignore[arg-type]
    state["kernel"] = torch.tensor(list(b"Matern"), dtype=torch.uint8)
    with pytest.raises(ValueError, match="kernel must be a known Kernel, got 'Matern'"):
        mige.FittedFilter.from_state_dict(state)


@dataclass(frozen=True)
class RationalQuadratic(Kernel):
    """Rational quadratic kernel, ``(1 + u/2α)^{−α}``, with a setting of its own."""

    alpha: float = 1.0
    name: str | None = None

    def psi(self, u: Tensor, order: int = 0) -> Tensor:
        factor = 1.0
        for k in range(order):
            factor *= -(self.alpha + k) / (2 * self.alpha)
        return factor * (1 + u / (2 * self.alpha)) ** (-self.alpha - order)


class Unscaled(RBF):
    """``exp(−u)``, whose bandwidth differs from that of the RBF kernel."""

    def psi(self, u: Tensor, order: int = 0) -> Tensor:
        return (-1.0) ** order * torch.exp(-u)


@for_each_value
def test_a_kernel_with_a_setting_survives_its_state(curl_free: bool) -> None:
    fitted = Tikhonov(kernel=RationalQuadratic(alpha=0.3), curl_free=curl_free).fit(skewed())
    twin = mige.FittedFilter.from_state_dict(fitted.state_dict())
    assert twin.kernel == RationalQuadratic(alpha=0.3)
    assert torch.equal(twin.score(skewed(7, seed=1)), fitted.score(skewed(7, seed=1)))


def test_a_kernel_with_a_setting_that_is_no_number_is_refused_by_its_state() -> None:
    fitted = Tikhonov(kernel=RationalQuadratic(name="mine")).fit(skewed())
    with pytest.raises(TypeError, match=r"^kernel\.name must be a tensor, a number .*got 'mine'"):
        fitted.state_dict()


def test_a_kernel_that_is_not_normalized_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^kernel must have .* got 1 and -1 from Unscaled"):
        Tikhonov(kernel=Unscaled())


@for_each_filter
@for_each_value
def test_scores_need_no_grad_mode_and_no_autocast(kind: Filter, curl_free: bool) -> None:
    x = skewed(dtype=torch.float32).requires_grad_()
    estimator = kind.make(kernel=IMQ(), curl_free=curl_free)
    expected = estimator.score(x.detach()), estimator.fit(x.detach()).score(x.detach() + 1)
    for mode in (torch.no_grad, torch.inference_mode,
                 lambda: torch.autocast("cpu", torch.bfloat16)):  # fmt: skip
        with mode():
            got = estimator.score(x), estimator.fit(x).score(x + 1)
        assert same_bits(got, expected) and not any(t.requires_grad for t in got)


@for_each_filter
def test_every_filter_is_an_estimator(kind: Filter) -> None:
    z = skewed().requires_grad_()
    estimator = kind.make()
    assert isinstance(estimator, mige.ScoreEstimator)
    (gradient,) = torch.autograd.grad(mige.entropy(z, estimator=estimator), z)
    assert relative(gradient + estimator.score(z) / M, gradient) <= rounding(z.dtype)
