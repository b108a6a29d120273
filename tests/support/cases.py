"""Calls of every operator, one for each path through the code, with their arguments."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from mige_ext import reference
from tests.support.backends import BACKENDS, Backend
from tests.support.inputs import DTYPES, normal


@dataclass(frozen=True)
class Case:
    """An operator, and a function that makes its arguments from x, y, w and bandwidths σ."""

    operator: str
    arguments: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[tuple[Any, ...], dict[str, Any]]]

    def make(
        self, m: int = 33, d: int = 5, batch: tuple[int, ...] = (), dtype: torch.dtype = DTYPES[1]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments and keyword arguments for m samples in d dimensions."""
        sigma = 1 + normal(*batch, dtype=dtype, seed=4).abs()
        return self.arguments(
            normal(*batch, m, d, dtype=dtype, seed=1),
            normal(*batch, m // 2 + 1, d, dtype=dtype, seed=2),
            normal(*batch, m, 7, dtype=dtype, seed=3),
            sigma,
        )

    def run(self, backend: Backend, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """The results as a tuple, also if there is only one."""
        result = backend.operator(self.operator)(*args, **kwargs)
        return result if isinstance(result, tuple) else (result,)


# One case for each operator and each path through its code.
CASES = {
    "squared_distances": Case("squared_distances", lambda x, y, w, s: ((x, y), {})),
    "squared_distances-self": Case("squared_distances", lambda x, y, w, s: ((x,), {})),
    "distance_quantile": Case("distance_quantile", lambda x, y, w, s: ((x,), {"quantile": 0.3})),
    "rbf_gram": Case("rbf_gram", lambda x, y, w, s: ((x, y), {"bandwidth": s})),
    "rbf_gram-self": Case("rbf_gram", lambda x, y, w, s: ((x,), {"bandwidth": s})),
    "rbf_gradient_sum": Case("rbf_gradient_sum", lambda x, y, w, s: ((x,), {"bandwidth": s})),
    "rbf_product": Case("rbf_product", lambda x, y, w, s: ((y, x, w), {"bandwidth": s})),
    "eigh": Case("eigh", lambda x, y, w, s: ((reference.rbf_gram(x, bandwidth=s),), {})),
    "ssge": Case("ssge", lambda x, y, w, s: ((x,), {})),
    "ssge-bandwidth": Case("ssge", lambda x, y, w, s: ((x, s), {"rank": 3, "power": 2})),
    "ridge_whitening": Case("ridge_whitening", lambda x, y, w, s: ((x,), {"factor": 0.5})),
    "ridge_whitening-weak": Case("ridge_whitening", lambda x, y, w, s: ((x,), {"factor": None})),
    # Heavy tails, so that ν is finite.
    "student_score": Case("student_score", lambda x, y, w, s: ((x / w[..., :1],), {})),
    "student_score-wide": Case(
        "student_score", lambda x, y, w, s: ((x.mT / (0.1 + x.mT[..., :1].abs()),), {})
    ),
    "adaptive_score": Case("adaptive_score", lambda x, y, w, s: ((x * x * x,), {})),
    "adaptive_score-wide": Case("adaptive_score", lambda x, y, w, s: ((x.mT.contiguous(),), {})),
    "adaptive_score-start": Case(
        "adaptive_score",
        lambda x, y, w, s: (
            (x * x * x,),
            {"start": x.sin(), "start_divergence": x.sin().sum(-1) - 2 * x.shape[-1]},
        ),
    ),
    "adaptive_student_score": Case(
        "adaptive_student_score", lambda x, y, w, s: ((x / w[..., :1],), {})
    ),
    "adaptive_student_score-wide": Case(
        "adaptive_student_score", lambda x, y, w, s: ((x.mT / (0.1 + x.mT[..., :1].abs()),), {})
    ),
}


def for_each_case(*operators: str) -> pytest.MarkDecorator:
    """Parametrizes ``case`` over the cases of the named operators, by default of all."""
    chosen = {k: c for k, c in CASES.items() if not operators or c.operator in operators}
    return pytest.mark.parametrize("case", chosen.values(), ids=chosen.keys())


def _for_each_case_on(backends: Iterable[Backend]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("case", "backend"),
        [
            pytest.param(case, backend, id=f"{name}-{backend.name}")
            for name, case in CASES.items()
            for backend in backends
            if case.operator in backend.operators
        ],
    )


# Every case on every back end that has the operator of the case.
for_each_case_and_backend = _for_each_case_on(BACKENDS)
# The same without the emulator, which gets contiguous copies of the inputs.
for_each_case_and_device = _for_each_case_on([b for b in BACKENDS if b.name != "emulated"])
