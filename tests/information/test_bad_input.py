"""Bad and extreme input for the information functions; completeness of all such tables."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import compat, ops, projection
from tests.ops import test_bad_input as ops_tables
from tests.scores import test_bad_input as scores_tables
from tests.support.bad_input import (
    NAN,
    ONE,
    Argument,
    B,
    BadInputTests,
    X,
    Z,
    fill,
    with_value,
)
from tests.support.inputs import normal

# These calls are misuse on purpose. test_warnings.py tests the warnings.
pytestmark = pytest.mark.filterwarnings("ignore::mige_ext.MigeWarning")

estimator = compat.SpectralScoreEstimator(n_eigen_threshold=0.9)
mutual = compat.MutualInformationGradientEstimator(n_eigen_threshold=0.9)


def with_same_noise(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    return mige.code_information(x, z)


def category(samples: Any) -> torch.Tensor:
    """Classes of the samples (..., M, d), with one class of one sample and one of two."""
    if not isinstance(samples, torch.Tensor) or samples.dim() < 2:
        return torch.zeros(16, dtype=torch.long)
    classes = torch.tensor([7, -2, -2, 0] + 12 * [5, 5, 0, 0])
    return classes[: samples.shape[-2]].expand(samples.shape[:-1])


def of_category(z: Any, marginal: Any = "paired") -> torch.Tensor:
    return mige.mutual_information(category(z), z, marginal=marginal)


ARGUMENTS = [
    Argument(mige.entropy, "", "z", lambda z: mige.entropy(z)),
    Argument(mige.negentropy, "", "z", lambda z: mige.negentropy(z)),
    Argument(mige.mutual_information, "", "x",
             lambda x: mige.mutual_information(x, fill(x, 16, 2)), paired=True),
    Argument(mige.mutual_information, "", "z",
             lambda z: mige.mutual_information(fill(z, 16, 2), z), paired=True),
    Argument(mige.mutual_information, "category", "z", of_category, paired=True),
    Argument(mige.mutual_information, "category-own", "z", lambda z: of_category(z, "own"),
             paired=True),
    Argument(mige.mutual_information, "given", "x",
             lambda x: mige.mutual_information(x, fill(x, 16, 2), given=category(x)), paired=True),
    Argument(mige.code_information, "", "z",
             lambda z: with_same_noise(fill(z, 16, 2), z), paired=True),
    Argument(mige.mutual_information, "projected", "x",
             lambda x: mige.mutual_information(
                 x, fill(x, 16, 2), projection=mige.RandomProjection(2)), paired=True),
    Argument(mige.RandomProjection, "", "x", lambda x: mige.RandomProjection(2)(x), 0),
    Argument(compat.entropy_surrogate, "", "samples",
             lambda s: compat.entropy_surrogate(estimator, s)),
    Argument(compat.MutualInformationGradientEstimator, "", "x",
             lambda x: mutual(x, fill(x, 16, 2)), paired=True),
    Argument(compat.MutualInformationGradientEstimator, "", "y",
             lambda y: mutual(fill(y, 16, 2), y), paired=True),
    Argument(mige.encoder_information, "", "conditional",
             lambda c: mige.encoder_information(normal(5, 4, 3), conditional=c), paired=True,
             samples=False),
    Argument(mige.encoder_information, "", "z", lambda z: mige.encoder_information(z),
             shape=(5, 4, 3), wrong_shapes=((16, 3), (1, 4, 3), (0, 4, 3))),
]  # fmt: skip

UNFIT: dict[str, tuple[Callable[[], Any], str]] = {
    "mutual_information rows": (lambda: mige.mutual_information(X, Z[:4]),
                                r"x and z must agree .*, got \(6, 3\) and \(4, 2\)"),
    "mutual_information batch": (lambda: mige.mutual_information(B, Z),
                                 r"x and z must agree .*, got \(2, 6, 3\) and \(6, 2\)"),
    "encoder_information one draw": (lambda: mige.encoder_information(torch.zeros(6, 1, 3)),
                                     r"z must have shape .*K >= 2.*, got \(6, 1, 3\)"),
    "encoder_information no draw": (
        lambda: mige.encoder_information(torch.zeros(6, 0, 3), conditional=ONE),
        r"z must have shape .*K >= 1.*, got \(6, 0, 3\)"),
    "encoder_information empty conditional": (
        lambda: mige.encoder_information(torch.randn(6, 2, 3), conditional=torch.zeros(0)),
        r"conditional must .*, got \(0,\)"),
    "compat rows": (lambda: mutual(X, Z[:4]), r"x and y must .*, got \(6, 3\) and \(4, 2\)"),
    "compat batch": (lambda: mutual(B, Z), r"x and y must .*, got \(2, 6, 3\) and \(6, 2\)"),
}  # fmt: skip

NUMBERS: list[tuple[Any, str, Callable[[Any], Any], list[Any], str]] = [
    (mige.RandomProjection, "k", lambda v: mige.RandomProjection(v), [0, -1, 2.5, "3", None],
     r"must be a positive integer"),
    (mige.RandomProjection, "normalize", lambda v: mige.RandomProjection(3, normalize=v),
     ["columm", None, 1], r'must be "columns" or "rows"'),
    (mige.RandomProjection, "seed", lambda v: mige.RandomProjection(3, seed=v).matrix(4),
     ["one", 0.5, None], r"must be an integer"),
    (mige.RandomProjection, "d", lambda v: mige.RandomProjection(3).matrix(v),
     [0, -1, 2.5, "3", None], r"must be a positive integer"),
    (mige.RandomProjection, "dtype", lambda v: mige.RandomProjection(3).matrix(4, v),
     [torch.int64, torch.bool], r"must "),
    (compat.MutualInformationGradientEstimator, "n_eigen",
     lambda v: compat.MutualInformationGradientEstimator(v), [0, -1, 2.5, "3"], r"must be "),
    (compat.MutualInformationGradientEstimator, "n_eigen_threshold",
     lambda v: compat.MutualInformationGradientEstimator(n_eigen_threshold=v),
     [0, 1.5, NAN], r"must lie in \(0, 1\]"),
    (mige.entropy, "estimator", lambda v: mige.entropy(X, estimator=v),
     ["SSGE", 0.99, mige.SSGE], r"must have a method score\(samples\)"),
    # test_values_arguments.py has the other arguments. Categories are valid. H of a constant is −∞.
    (mige.estimate_mutual_information, "seed",
     lambda v: mige.estimate_mutual_information(X, Z, seed=v), [-1, 0.5, True, None],
     r"must be an integer from 0 to 2\*\*63 - 1"),
    (mige.estimate_entropy, "seed", lambda v: mige.estimate_entropy(X, seed=v),
     [-1, 0.5, True, None], r"must be an integer from 0 to 2\*\*63 - 1"),
    (mige.negentropy, "estimator", lambda v: mige.negentropy(X, estimator=v),
     ["SSGE", 0.99, mige.SSGE(), mige.AdaptiveScore], r"must be an AdaptiveScore or None"),
    (mige.mutual_information, "estimator", lambda v: mige.mutual_information(X, Z, estimator=v),
     ["SSGE", 0.99], r"must have a method score\(samples\)"),
    (mige.code_information, "noise", lambda v: mige.code_information(X, Z, noise=v),
     [-1.0, float("nan"), float("inf"), "much", torch.tensor(0.6)],
     r"must be a finite number of at least 0"),
    (mige.mutual_information, "marginal",
     lambda v: mige.mutual_information(X, Z, marginal=v),
     ["none", None, True], r"must be "),
    (mige.encoder_information, "estimator", lambda v: mige.encoder_information(B, estimator=v),
     ["SSGE", 0.99], r"must have a method score\(samples\)"),
    (mige.mutual_information, "projection",
     lambda v: mige.mutual_information(X, Z, projection=v), [2, "columns"], r"must be "),
    (compat.entropy_surrogate, "estimator", lambda v: compat.entropy_surrogate(v, X),
     ["SSGE", None], r"must have a method score\(samples\)"),
]  # fmt: skip


class TestBadInput(BadInputTests):
    ARGUMENTS = ARGUMENTS
    UNFIT = UNFIT
    NUMBERS = NUMBERS


def test_what_is_not_finite_is_named_whichever_estimator_is_used() -> None:
    class Passive:
        def score(self, samples: Tensor) -> Tensor:
            return -samples

    bad = with_value(X, torch.nan)
    with pytest.raises(ValueError, match=r"^z must be finite, got 1"):
        mige.entropy(bad, estimator=Passive())
    with pytest.raises(ValueError, match=r"^x must be finite, got 1"):
        mige.mutual_information(bad, Z, estimator=Passive())
    with pytest.raises(ValueError, match=r"^z must be finite, got 1"):
        mige.mutual_information(Z, bad, estimator=Passive())


def test_everything_public_is_in_the_table() -> None:
    # results, a protocol, base classes, and functions without arguments
    records = {mige.AdaptiveDiagnostics, mige.Diagnostics, mige.GaussianDiagnostics,
               mige.NetworkDiagnostics, mige.ScoreEstimator, mige.DistributedScoreEstimator,
               mige.PairScoreEstimator,
               mige.Fitted, mige.FittableEstimator, mige.DEFAULT_ESTIMATOR, mige.Kernel,
               mige.SpectralFilter, mige.MigeWarning, mige.recording,
               mige.SurrogateRecord, mige.TermRecord,
               mige.InformationValue, mige.EntropyValue}  # fmt: skip
    public = {getattr(mige, name) for name in mige.__all__}
    for module in (ops, compat, projection):
        public |= {
            value
            for name, value in vars(module).items()
            if not name.startswith("_")
            and (inspect.isfunction(value) or inspect.isclass(value))
            and value.__module__.startswith(module.__name__)
        }
    covered = {row[0] for row in [*NUMBERS, *scores_tables.NUMBERS, *ops_tables.NUMBERS]}
    for table in (ARGUMENTS, scores_tables.ARGUMENTS, ops_tables.ARGUMENTS):
        covered |= {argument.owner for argument in table}
    assert public - records == covered


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("z", mige.entropy),
        ("z", mige.negentropy),
        ("z", mige.encoder_information),
        ("x", lambda t: mige.mutual_information(t, torch.randn(16, 3))),
        ("z", lambda t: mige.code_information(torch.randn(16, 3), t)),
        ("samples", lambda t: mige.Landmarks(m=8).score(t)),
        ("query", lambda t: mige.SSGE().fit(torch.randn(16, 3)).score(t)),
        ("x", mige.RandomProjection(k=2)),
        ("y", lambda t: mige.ops.squared_distances(torch.randn(16, 3), t)),
        ("x", mige.ops.ssge),
    ],
)
def test_a_nested_tensor_is_refused_by_name(
    name: str, call: Callable[[Tensor], Any], layout: torch.layout
) -> None:
    nested = torch.nested.nested_tensor([torch.randn(9, 3), torch.randn(7, 3)], layout=layout)
    with pytest.raises(TypeError, match=f"^{name} must be a dense tensor, got a nested one"):
        call(nested)
