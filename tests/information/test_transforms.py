"""Derivatives under torch.func and in compiled code, and tensors that backward does not need."""

import math
import warnings
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import grad, hessian, jvp, vmap

import mige_ext as mige
from mige_ext import ops
from tests.support.inputs import normal

# torch's compiler and its jvp use interfaces that torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

ONE = torch.ones((), dtype=torch.float64)
Y = normal(5, 3, seed=9)


def distances(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)


# Functions of points x (M, 3) and a bandwidth, by operators and in plain torch.
OPERATORS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "distances": (lambda x, s: ops.squared_distances(x) * s, lambda x, s: distances(x, x) * s),
    "distances to others": (
        lambda x, s: ops.squared_distances(x, Y) * s,
        lambda x, s: distances(x, Y) * s,
    ),
    "gram": (
        lambda x, s: ops.rbf_gram(x, bandwidth=s),
        lambda x, s: torch.exp(-distances(x, x) / (2 * s.square())),
    ),
    "gram with others": (
        lambda x, s: ops.rbf_gram(Y, x, bandwidth=s),
        lambda x, s: torch.exp(-distances(Y, x) / (2 * s.square())),
    ),
    "kernel": (
        lambda x, s: mige.IMQ()(x, bandwidth=1.5) * s,
        lambda x, s: (1 + distances(x, x) / 1.5**2).rsqrt() * s,
    ),
}
for_each_operator = pytest.mark.parametrize("name", OPERATORS)


@for_each_operator
def test_operators_have_derivatives_in_forward_mode(name: str) -> None:
    native, plain = OPERATORS[name]
    arguments = normal(6, 3), 1.3 * ONE
    tangents = normal(6, 3, seed=1), 0.7 * ONE
    torch.testing.assert_close(jvp(native, arguments, tangents), jvp(plain, arguments, tangents))
    with forward_ad.dual_level():
        dual = [forward_ad.make_dual(*pair) for pair in zip(arguments, tangents, strict=True)]
        torch.testing.assert_close(
            forward_ad.unpack_dual(native(*dual)).tangent,
            forward_ad.unpack_dual(plain(*dual)).tangent,
        )


@for_each_operator
def test_operators_have_first_and_second_derivatives_under_torch_func(name: str) -> None:
    native, plain = ((lambda x, f=f: f(x, 1.3 * ONE).square().sum()) for f in OPERATORS[name])
    x = normal(4, 3)
    torch.testing.assert_close(grad(native)(x), grad(plain)(x))
    torch.testing.assert_close(hessian(native)(x), hessian(plain)(x))
    groups = normal(3, 4, 3)
    torch.testing.assert_close(vmap(grad(native))(groups), vmap(grad(plain))(groups))


def test_a_derivative_under_torch_func_has_the_value_of_the_operator() -> None:
    x = normal(6, 3, dtype=torch.float32) * 1e15
    sigma = torch.tensor(1e15)
    for f in (ops.squared_distances, lambda x: ops.rbf_gram(x, bandwidth=sigma)):
        value, tangent, *_ = jvp(f, (x,), (x,))
        assert torch.equal(value, f(x))
        assert tangent.isfinite().all()


def test_vmap_of_a_score_gives_no_warning_of_a_performance_drop() -> None:
    groups = normal(3, 16, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = vmap(mige.AdaptiveScore().score, in_dims=1)(groups.transpose(0, 1))
    assert torch.equal(got, mige.AdaptiveScore().score(groups))


@pytest.mark.parametrize("name", ["eigh", "ssge", "ridge_whitening"])
def test_an_operator_without_derivative_raises_in_forward_mode(name: str) -> None:
    f = getattr(ops, name)
    x = normal(6, 6)
    with pytest.raises(NotImplementedError, match=f"ops.{name} has no derivative"):
        jvp(lambda x: f(x)[0], (x,), (x,))


# --- compiled code --------------------------------------------------------------------------------


X = normal(48, 4, seed=7)
SURROGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": mige.entropy,
    "negentropy": mige.negentropy,
    "mutual_information": lambda z: mige.mutual_information(X, z),
    "encoder_information": lambda z: mige.encoder_information(z.unflatten(0, (12, 4))),
}


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    "name",
    [
        "mutual_information",
        *(
            pytest.param(name, marks=pytest.mark.thorough)
            for name in SURROGATES
            if name != "mutual_information"
        ),
    ],
)
def test_the_compiled_gradient_of_torch_func_is_the_eager_one(name: str) -> None:
    f, z = SURROGATES[name], normal(48, 3) ** 3  # the negentropy of a Gaussian has no gradient
    compiled = torch.compile(grad(f), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(z), grad(f)(z))
    assert compiled(z).any()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_a_gradient_penalty_of_compiled_code_raises(compiler: str) -> None:
    network = nn.Linear(4, 2).double()
    compiled = torch.compile(
        lambda x: mige.mutual_information(x, network(x)), fullgraph=True, backend=compiler
    )
    value = compiled(X)
    (gradient,) = torch.autograd.grad(value, network.weight, create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiable once|does not .* support double"):
        (value + gradient.square().sum()).backward()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("compiler", ["aot_eager", "eager"])
@pytest.mark.parametrize("name", SURROGATES)
def test_a_penalty_on_the_result_of_a_compiled_grad_raises(name: str, compiler: str) -> None:
    f, z = SURROGATES[name], normal(48, 3)
    expected = grad(f)(z)
    gradient = torch.compile(grad(f), backend=compiler, fullgraph=True)(z.requires_grad_())
    assert torch.equal(gradient, expected)
    with pytest.raises(RuntimeError, match=r"surrogates .* are differentiable once"):
        (gradient.square().sum() + z.sum()).backward()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("compiler", [None, "aot_eager", "eager"])
@pytest.mark.parametrize("marginal", ["paired", "own", "matched"])
def test_a_mixed_second_derivative_under_torch_func_raises(
    marginal: Literal["paired", "own", "matched"], compiler: str | None
) -> None:
    derivative = grad(lambda z, x: mige.mutual_information(x, z, marginal=marginal))
    if compiler is not None:
        derivative = torch.compile(derivative, backend=compiler, fullgraph=True)
    x = X.clone().requires_grad_()
    gradient = derivative(normal(48, 3), x)
    assert gradient.any()
    with pytest.raises(RuntimeError, match=r"surrogates .* are differentiable once"):
        (gradient.square().sum() + x.sum()).backward()


def test_a_mixed_second_derivative_raises() -> None:
    x, z = X.clone().requires_grad_(), normal(48, 3).requires_grad_()
    value = mige.mutual_information(x, z)
    (gradient,) = torch.autograd.grad(value, z, create_graph=True)
    with pytest.raises(RuntimeError, match=r"surrogates .* are differentiable once"):
        torch.autograd.grad(gradient.square().sum() + x.sum(), x)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("f", [lambda z: jvp(mige.entropy, (z,), (z,)), vmap(mige.entropy)])
def test_what_raises_in_eager_mode_raises_in_compiled_code(f: Callable[..., Tensor]) -> None:
    z = normal(2, 8, 3)
    with pytest.raises(Exception, match=r"surrogates? .*(forward mode|vmap)"):
        torch.compile(f, backend="aot_eager", fullgraph=True)(z)


def test_a_surrogate_is_not_exported() -> None:
    class Loss(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return mige.entropy(z)

    with pytest.raises(RuntimeError, match=r"surrogates .* do not work in torch.export"):
        torch.export.export(Loss(), (normal(16, 3),))


# --- tensors that backward does not need ----------------------------------------------------------


def test_features_may_be_inference_tensors() -> None:
    with torch.inference_mode():
        features = X * 1
    z = normal(48, 3).requires_grad_()
    mige.mutual_information(features, z).backward()
    assert z.grad is not None
    assert torch.equal(z.grad, grad(lambda z: mige.mutual_information(X, z))(z.detach()))


@pytest.mark.parametrize("name", SURROGATES)
def test_the_argument_may_be_changed_in_place_after_the_call(name: str) -> None:
    leaf = normal(48, 3).requires_grad_()
    z = leaf * 1.5
    value = SURROGATES[name](z)
    head = nn.ReLU(inplace=True)(z).sum()
    (value + 0 * head).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, 1.5 * grad(SURROGATES[name])(1.5 * leaf.detach()))


def test_a_surrogate_saves_its_gradients_but_not_its_arguments() -> None:
    kept: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    z = normal(48, 3).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mige.mutual_information(X, z)
    # The gradients of x and z, and an empty tensor: the anchor of z (mige_ext/_surrogate.py).
    assert sum(math.prod(shape) for shape in kept) == X.numel() + z.numel()


def test_two_passes_over_parts_give_the_gradient_of_the_batch() -> None:
    torch.manual_seed(0)
    encoder = nn.Linear(4, 3).double()
    mige.mutual_information(X, encoder(X)).backward()
    whole = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
    encoder.zero_grad()
    parts = X.split(20)
    with torch.no_grad():
        codes = torch.cat([encoder(part) for part in parts])
    mige.mutual_information(X, codes.requires_grad_()).backward()
    assert codes.grad is not None
    for part, gradient in zip(parts, codes.grad.split(20), strict=True):
        encoder(part).backward(gradient)
    torch.testing.assert_close([p.grad for p in encoder.parameters()], whole)


INFORMATION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "paired": mige.mutual_information,
    "own": lambda x, z: mige.mutual_information(x, z, marginal="own"),
    "given": lambda x, z: mige.mutual_information(x, z, given=torch.arange(len(x)) % 2),
}


@pytest.mark.parametrize("name", INFORMATION)
def test_a_gradient_through_a_transform_over_something_else_is_exact(name: str) -> None:
    x, noise = normal(64, 3), normal(64, 2, seed=1) / 3
    weight = normal(3, 2, seed=2).requires_grad_()
    (expected,) = torch.autograd.grad(INFORMATION[name](x, x @ weight + noise), weight)

    def scaled(factor: Tensor) -> Tensor:
        return INFORMATION[name](x, x @ weight + noise) * factor

    _, value = torch.func.grad_and_value(scaled)(torch.tensor(1.0).double())
    (found,) = torch.autograd.grad(value, weight)
    torch.testing.assert_close(found, expected)


def test_compiled_code_refuses_nested_derivatives() -> None:
    x, weight = normal(64, 3), normal(3, 2, seed=2)

    def nested(weight: Tensor) -> Tensor:
        def scaled(factor: Tensor) -> Tensor:
            return mige.entropy(x @ weight) * factor

        return torch.func.grad_and_value(scaled)(torch.tensor(1.0).double())[1]

    compiled = torch.compile(torch.func.grad(nested), backend="eager", fullgraph=True)
    try:
        with pytest.raises(Exception, match="differentiable once"):
            compiled(weight)
    finally:
        torch.compiler.reset()
