"""Tests of pairs of torch's features, such as ``vmap`` and ``torch.compile``, on mige_ext.

A :class:`Subject` is a scalar function of mige_ext, and the same function in plain torch.
:func:`outcome` applies two features to both functions and compares:

- "=": the results are equal;
- "refused": mige_ext raises an error that names what was called;
- "torch": torch raises an error.

Any other outcome is a failure. Features are applied in a fixed order: changes of the function
(``functional_call``, checkpoint, a change in place), derivatives, ``vmap``, and ``torch.compile``
or ``torch.export``. If neither feature is a derivative, ``backward`` computes the gradient.
"""

import csv
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

import mige_ext as mige
from mige_ext import ops
from tests.support.inputs import normal
from tests.support.process import ROOT

Function = Callable[[Tensor, Tensor], Tensor]

TABLE = ROOT / "docs" / "pairs.csv"
SAMPLES = (12, 10, 9)  # values of M; only the feature "dynamic M" uses all three


@dataclass(frozen=True)
class Subject:
    """A function of mige_ext, and the same function in plain torch."""

    function: Function
    plain: Function
    differentiable: bool = True  # if False, a derivative must raise an error
    twice: bool = True  # if False, a second derivative must raise an error


def _arguments(m: int) -> tuple[Tensor, Tensor]:
    return normal(m, 2, seed=1), normal(m, 2, seed=2)


def _surrogate(x: Tensor, z: Tensor) -> Tensor:
    return mige.mutual_information(x, z, marginal="own")


@cache
def _gradient(m: int) -> Tensor:
    """The gradient of the surrogate in z, by ``backward`` in eager mode."""
    x, z = _arguments(m)
    (gradient,) = torch.autograd.grad(_surrogate(x, z.requires_grad_()), z)
    return gradient


def _linear(x: Tensor, z: Tensor) -> Tensor:
    """A linear function with the gradient of the surrogate."""
    return (z * _gradient(z.shape[-2])).sum()


def _score(x: Tensor, z: Tensor) -> Tensor:
    return (mige.SSGE().score(z) * (x.sum(-1, keepdim=True) + z.exp())).sum()


def _constant_score(x: Tensor, z: Tensor) -> Tensor:
    score = mige.SSGE().score(z.detach().clone())
    return (score * (x.sum(-1, keepdim=True) + z.exp())).sum()


def _gram(x: Tensor, z: Tensor) -> Tensor:
    one = torch.ones((), dtype=z.dtype)
    return (ops.rbf_gram(z, x, bandwidth=one) * ops.squared_distances(z)).square().sum()


def _plain_gram(x: Tensor, z: Tensor) -> Tensor:
    def distances(a: Tensor, b: Tensor) -> Tensor:
        return (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1)

    return (torch.exp(-distances(z, x) / 2) * distances(z, z)).square().sum()


def _ssge(x: Tensor, z: Tensor) -> Tensor:
    return (x * ops.ssge(z)[0]).sum()


SUBJECTS = {
    "surrogates": Subject(_surrogate, _linear, twice=False),
    "scores": Subject(_score, _constant_score),
    "operators with a derivative": Subject(_gram, _plain_gram),
    "other operators": Subject(_ssge, _ssge, differentiable=False, twice=False),
}

# --- features -------------------------------------------------------------------------------------

#: Columns and rows of the table, in the order of the table.
FEATURES = (
    "compile, eager",
    "compile, aot_eager",
    "compile, inductor",
    "grad",
    "vjp",
    "jvp",
    "second derivative",
    "vmap",
    "functional_call",
    "checkpoint",
    "inference input",
    "change in place",
    "dynamic M",
    "export",
)


class _WithParameter(nn.Module):
    """``f(x, w)`` with a parameter w, which ``functional_call`` replaces."""

    def __init__(self, f: Function) -> None:
        super().__init__()
        self.f, self.w = f, nn.Parameter(torch.zeros(1, 2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x, self.w)


def _functional(f: Function) -> Function:
    module = _WithParameter(f)
    return lambda x, z: functional_call(module, {"w": z}, (x,))


def _checkpointed(f: Function) -> Function:
    return lambda x, z: checkpoint(f, x, z, use_reentrant=False)


def _changed(f: Function) -> Function:
    def changed(x: Tensor, z: Tensor) -> Tensor:
        code = z * 1
        value = f(x, code)
        code.mul_(0)
        return value + code.sum()

    return changed


INNER = {
    "functional_call": _functional,
    "checkpoint": _checkpointed,
    "change in place": _changed,
}


def _directional(f: Function) -> Function:
    return lambda x, z: jvp(lambda q: f(x, q), (z,), (z.detach().cos(),))[1]


def _by_vjp(f: Function) -> Function:
    def gradient(x: Tensor, z: Tensor) -> Tensor:
        value, pull, *_ = vjp(lambda q: f(x, q), z)
        gradient: Tensor = pull(torch.ones_like(value))[0]
        return gradient

    return gradient


DERIVATIVES: dict[str, Callable[[Function], Function]] = {
    "grad": lambda f: grad(f, 1),
    "vjp": _by_vjp,
    "jvp": _directional,
}


def _sum_of_squares(f: Function) -> Function:
    return lambda x, z: f(x, z).square().sum()


def _nested(derivatives: list[str], f: Function) -> Function:
    """A derivative of f. A further derivative is taken of the sum of the squared elements."""
    for order, name in enumerate(derivatives):
        f = DERIVATIVES[name](_sum_of_squares(f) if order else f)
    return f


def _mapped(f: Function) -> Function:
    return lambda x, z: vmap(f)(torch.stack((x, 2 * x)), torch.stack((z, z + x)))


class _Program(nn.Module):
    def __init__(self, f: Function) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.f(x, z)


def _exported(f: Function, x: Tensor, z: Tensor, sizes: int) -> Function:
    dynamic = None
    if sizes > 1:
        m = torch.export.Dim("m", min=3, max=1000)
        dynamic = {"x": {0: m}, "z": {0: m}}
    return torch.export.export(_Program(f), (x, z), dynamic_shapes=dynamic).module()


def _run(f: Function, features: set[str], differentiable: bool) -> list[Tensor]:
    """The derivative, or the value if there is no derivative, for each number of samples."""
    for name in INNER:
        if name in features:
            f = INNER[name](f)
    derivatives = [name for name in DERIVATIVES if name in features]
    f = _nested(derivatives, f)
    if "vmap" in features:
        f = _mapped(f)
    second = "second derivative" in features
    for backend in ("eager", "aot_eager", "inductor"):
        if f"compile, {backend}" in features:
            f = torch.compile(f, backend=backend, fullgraph=True)
    sizes = SAMPLES if "dynamic M" in features else SAMPLES[:1]
    results = []
    for number, m in enumerate(sizes):
        x, z = _arguments(m)
        if "inference input" in features:
            with torch.inference_mode():
                x = x * 1
        if second or (differentiable and not derivatives):
            z.requires_grad_()
        if "export" in features and number == 0:
            f = _exported(f, x, z, len(sizes))
        value = f(x, z)
        if type(value) is not Tensor:  # torch.export of a program with torch.func in it
            raise TypeError(f"torch must give a tensor, got {type(value).__name__}")
        if differentiable and not derivatives:
            (value,) = torch.autograd.grad(value.sum(), z, create_graph=second)
        if second:
            (value,) = torch.autograd.grad(value.square().sum(), z)
        results.append(value.detach().clone())
    return results


# --- outcomes -------------------------------------------------------------------------------------

NAMED = re.compile(r"surrogates? |mige_ext\.ops\.\w+ has no derivative")
#: Features that change how a result is computed, but not the result.
NEUTRAL = {"export", *INNER, "inference input", *(f for f in FEATURES if f.startswith("compile"))}


def pairs() -> list[tuple[str, str]]:
    """Each feature, as a pair with itself, and all pairs of features that exist."""
    return [
        (a, b)
        for i, a in enumerate(FEATURES)
        for b in FEATURES[i:]
        if a == b or not (a.startswith("compile") and (b.startswith("compile") or b == "export"))
    ]


def outcome(subject: str, *features: str) -> str:
    """The outcome of two features together: "=", "refused" or "torch"."""
    s, wanted = SUBJECTS[subject], set(features)
    order = len(wanted & {*DERIVATIVES, "second derivative"})
    if order == 1 and "second derivative" in wanted:
        order = 2 if s.differentiable else 1
    torch.compiler.reset()
    for m in SAMPLES:
        _gradient(m)  # outside any transform
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            got = _run(s.function, wanted, s.differentiable)
        except Exception as error:
            return "refused" if NAMED.search(str(error)) else "torch"
        allowed = (s.differentiable or order == 0) and (s.twice or order < 2)
        assert allowed, f"{subject} with {features} must raise an error, got {got}"
        expected = _run(s.plain, wanted - NEUTRAL, s.differentiable)
    torch.testing.assert_close(got, expected, msg=lambda m: f"{subject} with {features}: {m}")
    return "="


# --- the table ------------------------------------------------------------------------------------


@cache
def recorded() -> dict[tuple[str, str, str], str]:
    """The outcomes in ``docs/pairs.csv``, by subject and features."""
    with TABLE.open(newline="") as file:
        return {(row[0], row[1], row[2]): row[3] for row in list(csv.reader(file))[1:]}


def main() -> None:
    """Computes all outcomes, and writes ``docs/pairs.csv``."""
    rows = [(s, *pair, outcome(s, *pair)) for s in SUBJECTS for pair in pairs()]
    with TABLE.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [("function", "first", "second", "outcome"), *rows]
        )


if __name__ == "__main__":
    main()
