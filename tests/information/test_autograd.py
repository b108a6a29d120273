"""The surrogates are autograd functions of any precision, differentiable once."""

import pytest
import torch
from torch import Tensor

from mige_ext import encoder_information, entropy, mutual_information, negentropy
from mige_ext.information import DEFAULT_ESTIMATOR
from tests.support.gradients import close, leaf
from tests.support.inputs import normal

# --- autograd -------------------------------------------------------------------------------------


def functions(dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """Every information function with its leaves."""
    x, z = leaf(20, 3, dtype=dtype), leaf(20, 2, dtype=dtype, seed=1)
    draws = leaf(6, 5, 3, dtype=dtype)
    spread = (normal(40, 2) ** 3).to(dtype).requires_grad_()
    return [
        (entropy(z), (z,)),
        (mutual_information(x, z), (x, z)),
        (encoder_information(draws), (draws,)),
        (negentropy(spread), (spread,)),
    ]


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_gradients_scale_with_the_incoming_gradient(index: int) -> None:
    value, leaves = functions()[index]
    one = torch.autograd.grad(value, leaves, retain_graph=True)
    scaled = torch.autograd.grad(-0.25 * value, leaves)
    assert all(torch.equal(s, -0.25 * g) for s, g in zip(scaled, one, strict=True))


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_second_derivative_raises(index: int) -> None:
    value, leaves = functions()[index]
    grads = torch.autograd.grad(value.square(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="differentia"):
        sum(g.square().sum() for g in grads).backward()  # type: ignore[union-attr]


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_second_derivative_is_not_silently_zero_beside_another_term(index: int) -> None:
    # Nothing else in a gradient penalty would reveal that the second derivative is missing.
    value, leaves = functions()[index]
    grads = torch.autograd.grad(value, leaves, create_graph=True)
    penalty = sum(g.square().sum() for g in grads)
    with pytest.raises(RuntimeError, match="differentia"):
        (penalty + leaves[0].square().sum()).backward()


def test_gradients_accumulate_over_calls() -> None:
    z = leaf(20, 2)
    entropy(z).backward()
    assert z.grad is not None
    one = z.grad.clone()
    entropy(z).backward()
    assert torch.equal(z.grad, 2 * one)


def test_anomaly_detection_finds_no_anomaly_in_any_surrogate() -> None:
    with pytest.warns(UserWarning, match="Anomaly Detection"), torch.autograd.detect_anomaly():
        for value, _ in functions():
            value.backward()


def test_a_training_step_through_a_module_moves_its_parameters() -> None:
    encoder = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    x = torch.randn(64, 10)
    before = [p.detach().clone() for p in encoder.parameters()]
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    (-mutual_information(x, encoder(x))).backward()
    optimizer.step()
    assert all((a != b).any() for a, b in zip(encoder.parameters(), before, strict=True))


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_gradients_come_in_their_own_dtype(dtype: torch.dtype) -> None:
    z, x = leaf(20, 2, dtype=dtype), leaf(20, 3, dtype=dtype, seed=1)
    wide_z, wide_x = (t.detach().float().requires_grad_() for t in (z, x))
    value, wide = mutual_information(x, z), mutual_information(wide_x, wide_z)
    assert value.dtype == torch.float32 and torch.equal(value, wide)
    value.backward()
    wide.backward()
    for low, high in ((z, wide_z), (x, wide_x)):
        assert low.grad is not None and high.grad is not None
        assert low.grad.dtype == dtype
        assert torch.equal(low.grad, high.grad.to(dtype))
    h = entropy(z)
    assert h.dtype == torch.float32


def test_a_scaled_loss_keeps_half_precision_gradients_from_underflowing() -> None:
    # A GradScaler relies on this: the scale multiplies the gradient before it is rounded to
    # float16.
    scale, half = 2.0**10, torch.finfo(torch.float16)
    leaves = leaf(64, 64, 2, dtype=torch.float16, seed=1), leaf(64, 64, 4, dtype=torch.float16)
    wide = [t.detach().float().requires_grad_() for t in leaves]
    for f in (lambda x, z: entropy(z) + 0 * x.sum(), mutual_information):
        low = torch.autograd.grad(scale * f(*leaves), leaves)
        high = torch.autograd.grad(scale * f(*wide), wide)
        for got, exact in zip(low, high, strict=True):
            # All components, also the smallest, have only the error of one rounding to float16.
            assert ((got.float() - exact).abs() <= half.eps * (exact.abs() + half.tiny)).all()


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("z_dtype", [torch.float32, torch.float16], ids=str)
def test_different_dtypes_are_computed_in_the_wider_one(
    x_dtype: torch.dtype, z_dtype: torch.dtype
) -> None:
    x, z = leaf(20, 3, dtype=x_dtype), leaf(20, 2, dtype=z_dtype, seed=1)
    value = mutual_information(x, z, marginal="own")
    computed = torch.float64 if x_dtype == torch.float64 else torch.float32
    assert value.dtype == computed
    value.backward()
    assert x.grad is not None and z.grad is not None
    assert x.grad.dtype == x_dtype and z.grad.dtype == z_dtype
    joint = DEFAULT_ESTIMATOR.score(torch.cat([x.to(computed), z.to(computed)], -1)) / 20
    assert close(x.grad, joint[:, :3] - DEFAULT_ESTIMATOR.score(x) / 20)
    assert close(z.grad, joint[:, 3:] - DEFAULT_ESTIMATOR.score(z) / 20)


def test_autocast_changes_nothing_but_the_dtype_of_the_encoder() -> None:
    encoder = torch.nn.Linear(10, 3)
    x = torch.randn(40, 10)
    with torch.autocast("cpu", torch.bfloat16):
        z = encoder(x)
        assert z.dtype == torch.bfloat16
        values = [entropy(z), mutual_information(x, z), encoder_information(z.view(8, 5, 3))]
    wide = z.detach().float().requires_grad_()
    expected = [entropy(wide), mutual_information(x, wide),
                encoder_information(wide.view(8, 5, 3))]  # fmt: skip
    for value, exact in zip(values, expected, strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, exact)
    sum(values).backward()  # type: ignore[union-attr]
    assert encoder.weight.grad is not None and encoder.weight.grad.isfinite().all()
