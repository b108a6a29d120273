"""The operators' own checks, without the functions of mige_ext.ops around them."""

from typing import Any

import pytest
import torch

from tests.support.inputs import normal

_X = torch.zeros(4, 3)
_ONE = torch.ones(())
RAW_MISTAKES: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "rank": ("squared_distances", (_X[0], None), r"x must have shape \(\.\.\., M, d\).*got \(3,\)"),
    "dtype": ("rbf_gram", (_X.half(), None, _ONE.half()),
              r"TypeError: x must be float32 or float64, got torch.float16"),
    "dtype of y": ("squared_distances", (_X, _X.double()),
                   r"y must have the dtype of x, torch.float32, got torch.float64"),
    "columns": ("squared_distances", (_X, _X[:, :2]),
                r"ValueError: y must have as many columns as x, 3, got 2"),
    "batch": ("rbf_gram", (_X, None, torch.ones(2)),
              r"ValueError: bandwidth must have the leading dimensions of x, \(\), got \(2,\)"),
    "one sample": ("distance_quantile", (_X[:1], 0.5), r"x must have .* M >= 2.*got \(1, 3\)"),
    "quantile": ("distance_quantile", (_X, 0.0), r"quantile must lie in \(0, 1\], got 0"),
    "bandwidth": ("rbf_gradient_sum", (_X, -_ONE), r"bandwidth must be positive.*got -1"),
    "rows of w": ("rbf_product", (_X, _X, _X[:2], _ONE),
                  r"ValueError: w must have as many rows as x, 4, got 2"),
    "square": ("eigh", (_X,), r"k must have shape \(\.\.\., M, M\), got \(4, 3\)"),
    "threshold": ("ssge", (_X, None, 0.5, 1.0, 0.0, None, 1),
                  r"threshold must lie in \(0, 1\], got"),
    "multiplier": ("ssge", (normal(4, 3), None, 0.5, -1.0, 0.9, None, 1),
                   r"multiplier must .*got -1"),
    "J": ("ssge", (_X, None, 0.5, 1.0, 0.9, 5, 1), r"rank must lie in \[1, M\] with M = 4, got 5"),
    "power": ("ssge", (_X, None, 0.5, 1.0, 0.9, None, 3), r"power must be 1 or 2, got 3"),
    "factor": ("ridge_whitening", (_X, 0.0), r"factor must be positive and finite, got 0"),
    "one row": ("adaptive_score", (_X[:1], None, None), r"x must have .* M >= 2.*got \(1, 3\)"),
    "rows of start": ("adaptive_score", (_X, _X[:2], _X[:2, 0]),
                      r"ValueError: start must have as many rows as x, 4, got 2"),
    "divergence": ("adaptive_score", (_X, _X, _X[:2, 0]),
                   r"ValueError: start_divergence must have as many rows as x, 4, got 2"),
    "start alone": ("adaptive_score", (_X, _X, None),
                    r"ValueError: start and start_divergence must be given together"),
    "J of 0": ("ssge", (_X, None, 0.5, 1.0, 0.9, 0, 1), r"rank must lie in .*got 0"),
    "nan": ("squared_distances", (_X + torch.nan, None), r"x must be finite, got nan in row 0"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", RAW_MISTAKES)
def test_the_compiled_operators_check_for_themselves(mistake: str) -> None:
    name, args, message = RAW_MISTAKES[mistake]
    with pytest.raises(RuntimeError, match=message):
        getattr(torch.ops.mige_ext, name)(*args)
