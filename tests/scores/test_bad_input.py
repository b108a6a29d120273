"""A table of bad and extreme input for every public function and class.

Whatever comes, the outcome is a finite result or an error that names the argument, says what was
expected and what came. Never a silent NaN.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import compat, ops, projection
from tests.support.inputs import normal

ERRORS = (TypeError, ValueError, RuntimeError)


def fill(like: Any, *tail: int) -> Tensor:
    """A good companion: the leading dimensions and the dtype of an argument where it has some."""
    if not isinstance(like, Tensor):
        return normal(*tail, dtype=torch.float32)
    dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
    return normal(*like.shape[:-2], *tail, dtype=dtype)


def sigma(like: Any) -> Tensor:
    """A good bandwidth."""
    return torch.ones_like(fill(like))


# --- the tensor arguments -------------------------------------------------------------------------


@dataclass(frozen=True)
class Argument:
    """One tensor argument of something public, with all others good.

    Attributes:
        owner: the function or class.
        method: of the class, for the name of the test.
        name: the argument, as the signature and error messages call it.
        call: the call, given this argument.
        rows: fewest samples allowed.
        native: whether only float32 and float64 are taken.
        paired: whether there are other tensors, which must be on the same device.
        shape: of a good one.
    """

    owner: Any
    method: str
    name: str
    call: Callable[[Any], Any]
    rows: int = 2
    native: bool = False
    paired: bool = False
    shape: tuple[int, ...] = (16, 3)

    def __str__(self) -> str:
        return f"{self.owner.__name__}.{self.method}.{self.name}".replace("..", ".")

    def good(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Random numbers, none of them large."""
        return normal(*self.shape, dtype=dtype).clamp(-3, 3)


estimator = compat.SpectralScoreEstimator(n_eigen_threshold=0.9)
mutual = compat.MutualInformationGradientEstimator(n_eigen_threshold=0.9)
NETWORK = mige.SlicedScoreMatching(hidden=8, layers=1, steps=2)

SAMPLES = [
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
    Argument(ops.adaptive_score, "", "x", lambda x: ops.adaptive_score(x)[::2], 2, True),
    Argument(mige.SSGE, "score", "samples", lambda s: mige.SSGE().score(s)),
    Argument(mige.SSGE, "calibrated", "samples", lambda s: mige.SSGE(calibrate="stein").score(s)),
    Argument(mige.SSGE, "fit", "samples", lambda s: mige.SSGE().fit(s)),
    Argument(mige.SSGE, "diagnose", "samples", lambda s: mige.SSGE().diagnose(s)),
    Argument(mige.FittedSSGE, "score", "query",
             lambda q: mige.SSGE().fit(fill(q, 16, 3)).score(q), 0, paired=True),
    Argument(mige.Landmarks, "score", "samples", lambda s: mige.Landmarks(m=8).score(s)),
    Argument(mige.Landmarks, "fit", "samples", lambda s: mige.Landmarks(m=8).fit(s)),
    Argument(mige.Landmarks, "fit", "landmarks",
             lambda z: mige.Landmarks().fit(fill(z, 16, 3), z), paired=True),
    Argument(mige.Landmarks, "start", "samples",
             lambda s: mige.Landmarks(m=8).start(s).partial_fit(s).solve()),
    Argument(mige.LandmarkStatistics, "partial_fit", "samples",
             lambda s: mige.Landmarks(m=8).start(fill(s, 16, 3)).partial_fit(
                 fill(s, 2, 3)).partial_fit(s).solve(), 0, paired=True),
    Argument(mige.FittedLandmarks, "score", "query",
             lambda q: mige.Landmarks(m=8).fit(fill(q, 16, 3)).score(q), 0, paired=True),
    Argument(mige.SSGE, "curl_free", "samples",
             lambda s: mige.SSGE(kernel=mige.IMQ(), curl_free=True).fit(s)),
    Argument(mige.Tikhonov, "score", "samples", lambda s: mige.Tikhonov().score(s)),
    Argument(mige.Tikhonov, "fit", "samples", lambda s: mige.Tikhonov(calibrate="stein").fit(s)),
    Argument(mige.Tikhonov, "diagnose", "samples",
             lambda s: mige.Tikhonov(kernel=mige.IMQ(), curl_free=True).diagnose(s)),
    Argument(mige.Stein, "fit", "samples", lambda s: mige.Stein(curl_free=True).fit(s)),
    Argument(mige.Landweber, "fit", "samples",
             lambda s: mige.Landweber(20, kernel=mige.IMQ()).fit(s)),
    Argument(mige.NuMethod, "fit", "samples", lambda s: mige.NuMethod(curl_free=True).fit(s)),
    Argument(mige.FittedFilter, "score", "query",
             lambda q: mige.Tikhonov().fit(fill(q, 16, 3)).score(q), 0, paired=True),
    Argument(mige.FittedFilter, "energy", "query",
             lambda q: mige.Stein(curl_free=True).fit(fill(q, 16, 3)).energy(q), 0, paired=True),
    Argument(mige.AdaptiveScore, "score", "samples", lambda s: mige.AdaptiveScore().score(s)),
    Argument(mige.AdaptiveScore, "fit", "samples",
             lambda s: mige.AdaptiveScore(gaussian="qis", calibrate="stein").fit(s)),
    Argument(mige.AdaptiveScore, "diagnose", "samples", lambda s: mige.AdaptiveScore().diagnose(s)),
    Argument(mige.FittedAdaptive, "score", "query",
             lambda q: mige.AdaptiveScore().fit(fill(q, 16, 3)).score(q), 0, paired=True),
    Argument(mige.GaussianScore, "ridge", "samples", lambda s: mige.GaussianScore().fit(s)),
    Argument(mige.GaussianScore, "qis", "samples", lambda s: mige.GaussianScore("qis").fit(s)),
    Argument(mige.GaussianScore, "mle", "samples", lambda s: mige.GaussianScore("mle").score(s)),
    Argument(mige.FittedGaussian, "score", "query",
             lambda q: mige.GaussianScore().fit(fill(q, 16, 3)).score(q), 0, paired=True),
    Argument(mige.FittedGaussian, "energy", "query",
             lambda q: mige.GaussianScore().fit(fill(q, 16, 3)).energy(q), 0, paired=True),
    Argument(mige.SlicedScoreMatching, "fit", "samples", lambda s: NETWORK.fit(s)),
    Argument(mige.FittedNetwork, "score", "query",
             lambda q: NETWORK.fit(fill(q, 16, 3)).score(q), 0, paired=True),
    Argument(mige.entropy, "", "z", lambda z: mige.entropy(z)),
    Argument(mige.mutual_information, "", "x",
             lambda x: mige.mutual_information(x, fill(x, 16, 2)), paired=True),
    Argument(mige.mutual_information, "", "z",
             lambda z: mige.mutual_information(fill(z, 16, 2), z), paired=True),
    Argument(mige.mutual_information, "projected", "x",
             lambda x: mige.mutual_information(
                 x, fill(x, 16, 2), projection=mige.RandomProjection(2)), paired=True),
    Argument(mige.RandomProjection, "", "x", lambda x: mige.RandomProjection(2)(x), 0),
    Argument(mige.RBF, "", "x", lambda x: mige.RBF()(x, bandwidth=1.0), 0, True),
    Argument(mige.RBF, "", "y",
             lambda y: mige.RBF()(fill(y, 5, 3), y, bandwidth=1.0), 0, True, True),
    Argument(mige.IMQ, "", "x", lambda x: mige.IMQ()(x, bandwidth=1.0), 0, True),
    Argument(mige.IMQ, "", "y",
             lambda y: mige.IMQ()(fill(y, 5, 3), y, bandwidth=1.0), 0, True, True),
    Argument(mige.Bandwidth, "", "samples", lambda s: mige.Bandwidth()(s)),
    Argument(compat.SpectralScoreEstimator, "compute_gradients", "samples",
             lambda s: estimator.compute_gradients(s)),
    Argument(compat.SpectralScoreEstimator, "score", "samples", lambda s: estimator.score(s)),
    Argument(compat.SpectralScoreEstimator, "elsewhere", "samples",
             lambda s: estimator.compute_gradients(s, fill(s, 5, 3)), paired=True),
    Argument(compat.SpectralScoreEstimator, "compute_gradients", "x",
             lambda x: estimator.compute_gradients(fill(x, 16, 3), x), 0, paired=True),
    Argument(compat.entropy_surrogate, "", "samples",
             lambda s: compat.entropy_surrogate(estimator, s)),
    Argument(compat.MutualInformationGradientEstimator, "", "x",
             lambda x: mutual(x, fill(x, 16, 2)), paired=True),
    Argument(compat.MutualInformationGradientEstimator, "", "y",
             lambda y: mutual(fill(y, 16, 2), y), paired=True),
]  # fmt: skip
DRAWS = Argument(
    mige.encoder_information, "", "z", lambda z: mige.encoder_information(z), shape=(5, 4, 3)
)
# Tensors that are not samples: their shapes have rules of their own.
OTHERS = [
    Argument(ops.rbf_product, "", "w",
             lambda w: ops.rbf_product(fill(w, 5, 3), fill(w, 16, 3), w, bandwidth=sigma(w)),
             0, True, True),
    Argument(ops.eigh, "", "k", lambda k: ops.eigh(k), 1, True, shape=(6, 6)),
    Argument(mige.encoder_information, "", "conditional",
             lambda c: mige.encoder_information(normal(5, 4, 3), conditional=c), paired=True),
]  # fmt: skip
ALL = [*SAMPLES, DRAWS, *OTHERS]


def for_each_argument(arguments: list[Argument]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("argument", arguments, ids=str)


def tensors_of(result: Any) -> Iterator[Tensor]:
    """Every tensor in a result, also in records and in what a fit gives at its samples."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, tuple):
        for part in result:
            yield from tensors_of(part)
    elif dataclasses.is_dataclass(result):
        for field in dataclasses.fields(result):
            if field.name == "lam":  # infinite, where the Gaussian score is taken as it is
                continue
            yield from tensors_of(getattr(result, field.name))
        if isinstance(result, mige.Fitted):
            yield result.score()


def assert_finite(result: Any) -> None:
    tensors = list(tensors_of(result))
    assert tensors
    for t in tensors:
        assert t.isfinite().all(), t


@for_each_argument(ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_good_input_gives_finite_results(argument: Argument, dtype: torch.dtype) -> None:
    assert_finite(argument.call(argument.good(dtype)))


# --- what is refused ------------------------------------------------------------------------------


def with_value(t: Tensor, value: float) -> Tensor:
    t = t.clone()
    t.view(-1)[t.numel() // 2] = value
    return t


# kind -> (the bad tensor, the message after the argument's name)
REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "list": (lambda t: t.tolist(), r"must be a torch\.Tensor, got list"),
    "None": (lambda t: None, r"must be a torch\.Tensor, got NoneType"),
    "integer": (lambda t: t.long(), r"must have a floating-point dtype, got torch\.int64"),
    "bool": (lambda t: t.bool(), r"must have a floating-point dtype, got torch\.bool"),
    "complex": (lambda t: t + 0j, r"must have a floating-point dtype, got torch\.complex64"),
    "sparse": (lambda t: t.to_sparse(), r"must be a dense tensor, got layout torch\.sparse_coo"),
    "nan": (lambda t: with_value(t, torch.nan), r"must be finite, got "),
    "inf": (lambda t: with_value(t, torch.inf), r"must be finite, got "),
    "-inf": (lambda t: with_value(t, -torch.inf), r"must be finite, got "),
    "all nan": (lambda t: t * torch.nan, r"must be finite, got "),
}
MAY_BE_NONE = {("squared_distances", "y"), ("rbf_gram", "y"), ("RBF", "y"), ("IMQ", "y"),
               ("FittedSSGE", "query"), ("FittedFilter", "query"), ("FittedGaussian", "query"),
               ("FittedNetwork", "query"), ("FittedAdaptive", "query"),
               ("FittedLandmarks", "query"), ("SpectralScoreEstimator", "x"),
               ("encoder_information", "conditional"), ("Landmarks", "landmarks")}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
@for_each_argument(ALL)
def test_what_is_not_a_finite_real_tensor_is_refused_by_name(argument: Argument, kind: str) -> None:
    make, message = REFUSED[kind]
    bad = make(argument.good())
    if kind == "None" and (argument.owner.__name__, argument.name) in MAY_BE_NONE:
        argument.call(bad)
        return
    with pytest.raises(ERRORS, match=rf"^{argument.name} {message}"):
        argument.call(bad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@for_each_argument(ALL)
def test_half_precision_is_taken_by_estimators_and_refused_by_operators(
    argument: Argument, dtype: torch.dtype
) -> None:
    x = argument.good(dtype)
    if not argument.native:
        assert_finite(argument.call(x))
        return
    with pytest.raises(TypeError, match=rf"^{argument.name} must (be|have) .*, got {dtype}"):
        argument.call(x)


@for_each_argument([*SAMPLES, DRAWS])
def test_wrong_shapes_of_samples_are_refused_by_name(argument: Argument) -> None:
    *front, _, _ = argument.shape
    wrong = [(), (3,), (*front, 16, 0)]
    wrong += [(*front, rows, 3) for rows in range(argument.rows)]
    if argument is DRAWS:
        wrong += [(16, 3), (1, 4, 3), (0, 4, 3)]
    for shape in wrong:
        message = rf"^{argument.name} must have shape \(.*\) with .*, got {re.escape(str(shape))}"
        with pytest.raises(ValueError, match=message):
            argument.call(torch.zeros(shape))


@for_each_argument([a for a in ALL if a.paired])
def test_devices_must_not_be_mixed(argument: Argument) -> None:
    message = r"^\w+ must be on the device of \w+, (cpu|meta), got (cpu|meta)"
    with pytest.raises(ERRORS, match=message):
        argument.call(argument.good().to("meta"))


X = normal(6, 3, dtype=torch.float32)
Z = normal(6, 2, dtype=torch.float32)
B = normal(2, 6, 3, dtype=torch.float32)
ONE = torch.ones(())
# Arguments that are good alone and do not fit together, or are good tensors of a wrong shape.
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
    "query columns": (lambda: mige.SSGE().fit(X).score(Z),
                      r"query must have the 3 columns of samples, got 2"),
    "query batch": (lambda: mige.SSGE().fit(X).score(B),
                    r"query must have the leading dimensions of samples, \(\), got \(2,\)"),
    "mutual_information rows": (lambda: mige.mutual_information(X, Z[:4]),
                                r"x and z must agree .*, got \(6, 3\) and \(4, 2\)"),
    "mutual_information batch": (lambda: mige.mutual_information(B, Z),
                                 r"x and z must agree .*, got \(2, 6, 3\) and \(6, 2\)"),
    "phi list": (lambda: mige.RBF().phi([1.0], 1.0),  # type: ignore[arg-type]
                 r"s must be a torch.Tensor, got list"),
    "phi integer": (lambda: mige.RBF().phi(torch.arange(3), 1.3),
                    r"s must have a floating-point dtype, got torch.int64"),
    "dphi integer": (lambda: mige.RBF().dphi(torch.arange(3), 1.3),
                     r"s must have a floating-point dtype, got torch.int64"),
    "encoder_information one draw": (lambda: mige.encoder_information(torch.zeros(6, 1, 3)),
                                     r"z must have shape .*K >= 2.*, got \(6, 1, 3\)"),
    "encoder_information no draw": (
        lambda: mige.encoder_information(torch.zeros(6, 0, 3), conditional=ONE),
        r"z must have shape .*K >= 1.*, got \(6, 0, 3\)"),
    "encoder_information empty conditional": (
        lambda: mige.encoder_information(torch.randn(6, 2, 3), conditional=torch.zeros(0)),
        r"conditional must .*, got \(0,\)"),
    "compat query columns": (lambda: estimator.compute_gradients(X, Z),
                             r"x must have the 3 columns of samples, got 2"),
    "compat query batch": (lambda: estimator.compute_gradients(X, B),
                           r"x must have the leading dimensions of samples, \(\), got \(2,\)"),
    "compat rows": (lambda: mutual(X, Z[:4]), r"x and y must .*, got \(6, 3\) and \(4, 2\)"),
    "compat batch": (lambda: mutual(B, Z), r"x and y must .*, got \(2, 6, 3\) and \(6, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_arguments_that_do_not_fit_are_refused_with_both_sizes(case: str) -> None:
    call, message = UNFIT[case]
    with pytest.raises(ERRORS, match=f"^{message}"):
        call()


# --- numbers, names and objects -------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


def _ssge_of(**options: Any) -> Callable[[], Any]:
    return lambda: ops.ssge(X, **options)


# What takes a number: (owner, argument, call, bad values, expectation in the message)
NUMBERS: list[tuple[Any, str, Callable[[Any], Any], list[Any], str]] = [
    (ops.distance_quantile, "quantile", lambda v: ops.distance_quantile(X, v),
     [0, -0.5, 1.5, NAN, INF, "half", None], r"must lie in \(0, 1\]"),
    (ops.ssge, "quantile", lambda v: ops.ssge(X, quantile=v),
     [0, -0.5, 1.5, NAN, INF, "half", None], r"must lie in \(0, 1\]"),
    (ops.ssge, "threshold", lambda v: ops.ssge(X, threshold=v),
     [0, -0.5, 1.5, NAN, INF, "all", None], r"must lie in \(0, 1\]"),
    (ops.ssge, "multiplier", lambda v: ops.ssge(X, multiplier=v),
     [0, -0.5, NAN, INF, "one", None], r"must be positive and finite"),
    (ops.ssge, "rank", lambda v: ops.ssge(X, rank=v), [0, -1, 7, 2.5, "3"], r"must "),
    (ops.ssge, "power", lambda v: ops.ssge(X, power=v), [0, 3, 1.5, "1", None], r"must be 1 or 2"),
    (mige.SSGE, "threshold", lambda v: mige.SSGE(threshold=v),
     [0, -0.5, 1.5, NAN, INF, "all", None], r"must lie in \(0, 1\]"),
    (mige.SSGE, "rank", lambda v: mige.SSGE(rank=v), [0, -1, 2.5, "3"],
     r"must be a positive integer or None"),
    (mige.SSGE, "rank", lambda v: mige.SSGE(rank=v).score(X), [7], r"must lie in \[1, M\].*M = 6"),
    (mige.SSGE, "rank", lambda v: mige.SSGE(rank=v).fit(X), [7], r"must lie in \[1, M\].*M = 6"),
    (mige.SSGE, "bandwidth", lambda v: mige.SSGE(bandwidth=v),
     [0, -1.0, NAN, INF, "mean", None, [1.0]], r"must "),
    # positive, but not in the dtype of the samples
    (mige.SSGE, "bandwidth", lambda v: mige.SSGE(bandwidth=v).score(X), [1e-50, 1e50], r"must "),
    (mige.SSGE, "calibrate", lambda v: mige.SSGE(calibrate=v), ["Stein", True, 1],
     r'must be "stein" or None'),
    (mige.Landmarks, "m", lambda v: mige.Landmarks(m=v), [0, 1, -1, 2.5, "3", None], r"must be "),
    (mige.Landmarks, "threshold", lambda v: mige.Landmarks(threshold=v),
     [0, 1.5, NAN, "all", None], r"must lie in \(0, 1\]"),
    (mige.Landmarks, "rank", lambda v: mige.Landmarks(m=4, rank=v), [0, -1, 2.5, "3", 5],
     r"must be "),
    (mige.Landmarks, "lam", lambda v: mige.Landmarks(lam=v), [0, -1.0, NAN, INF, "small"],
     r"must be positive and finite"),
    (mige.Landmarks, "bandwidth", lambda v: mige.Landmarks(bandwidth=v),
     [0, -1.0, NAN, INF, "mean", None, [1.0]], r"must "),
    (mige.Landmarks, "bandwidth", lambda v: mige.Landmarks(bandwidth=v).score(X), [1e-50, 1e50],
     r"must "),
    (mige.Landmarks, "calibrate", lambda v: mige.Landmarks(calibrate=v), ["Stein", True, 1],
     r'must be "stein" or None'),
    (mige.Landmarks, "seed", lambda v: mige.Landmarks(seed=v), ["one", 0.5, None, -1],
     r"must be an integer"),
    (mige.Bandwidth, "quantile", lambda v: mige.Bandwidth(quantile=v),
     [0, -0.5, 1.5, NAN, INF, "half", None], r"must lie in \(0, 1\]"),
    (mige.Bandwidth, "multiplier", lambda v: mige.Bandwidth(multiplier=v),
     [0, -0.5, NAN, INF, "one", None], r"must be positive and finite"),
    (mige.RBF, "bandwidth", lambda v: mige.RBF()(X, bandwidth=v),
     [0, -1.0, NAN, INF, "median", None, 1e-50, 1e50], r"must "),
    (mige.RBF, "bandwidth", lambda v: mige.RBF().phi(X, v),
     [0, -1.0, NAN, INF, "median", None, 1e-50, 1e50], r"must "),
    (mige.RBF, "bandwidth", lambda v: mige.RBF().dphi(X, v),
     [0, -1.0, NAN, INF, "median", None, 1e-50, 1e50], r"must "),
    (mige.RBF, "order", lambda v: mige.RBF().dphi(X, 1.0, order=v), [-1, 0.5, "1", None],
     r"must "),
    (mige.IMQ, "bandwidth", lambda v: mige.IMQ()(X, bandwidth=v),
     [0, -1.0, NAN, INF, "median", None, 1e-50, 1e50], r"must "),
    (mige.IMQ, "bandwidth", lambda v: mige.IMQ().dphi(X, v),
     [0, -1.0, NAN, INF, "median", None, 1e-50, 1e50], r"must "),
    (mige.IMQ, "order", lambda v: mige.IMQ().dphi(X, 1.0, order=v), [-1, 0.5, "1", None],
     r"must "),
    (mige.SSGE, "kernel", lambda v: mige.SSGE(kernel=v), ["rbf", None, mige.RBF],
     r"must be a Kernel"),
    (mige.SSGE, "curl_free", lambda v: mige.SSGE(curl_free=v), [1, "yes", None],
     r"must be True or False"),
    (mige.SSGE, "rank", lambda v: mige.SSGE(rank=v, kernel=mige.IMQ()).score(X), [7],
     r"must lie in \[1, M\].*M = 6"),
    (mige.SSGE, "rank", lambda v: mige.SSGE(rank=v, curl_free=True).score(X), [19],
     r"must lie in \[1, Md\].*Md = 18"),
    (mige.Tikhonov, "lam", lambda v: mige.Tikhonov(v), [0, -1.0, NAN, INF, "1", None],
     r"must be positive and finite"),
    (mige.Tikhonov, "bandwidth", lambda v: mige.Tikhonov(bandwidth=v).score(X), [1e-50, 1e50],
     r"must "),
    (mige.Tikhonov, "bandwidth", lambda v: mige.Tikhonov(bandwidth=v),
     [0, -1.0, NAN, INF, "mean", None, [1.0]], r"must "),
    (mige.Tikhonov, "calibrate", lambda v: mige.Tikhonov(calibrate=v), ["Stein", True, 1],
     r'must be "stein" or None'),
    (mige.Stein, "eta", lambda v: mige.Stein(v), [0, -1.0, NAN, INF, "1", None],
     r"must be positive and finite"),
    (mige.Landweber, "steps", lambda v: mige.Landweber(v), [0, -1, 2.5, "3", None, True],
     r"must be a positive integer"),
    (mige.Landweber, "step_size", lambda v: mige.Landweber(step_size=v),
     [0, -1.0, 2.0, NAN, INF, "1", None], r"must lie in \(0, 2\)"),
    (mige.NuMethod, "steps", lambda v: mige.NuMethod(v), [0, -1, 2.5, "3", None],
     r"must be a positive integer"),
    (mige.NuMethod, "nu", lambda v: mige.NuMethod(nu=v), [0, -1.0, NAN, INF, "1", None],
     r"must be positive and finite"),
    (mige.GaussianScore, "shrinkage", lambda v: mige.GaussianScore(v), ["ols", None, 0.1],
     r'must be "ridge", "qis" or "mle"'),
    *(
        (mige.SlicedScoreMatching, name, lambda v, n=name: mige.SlicedScoreMatching(**{n: v}),
         [0, -1, 2.5, "3", None, True], r"must be a positive integer")
        for name in ("hidden", "layers", "steps", "projections")
    ),
    (mige.SlicedScoreMatching, "learning_rate",
     lambda v: mige.SlicedScoreMatching(learning_rate=v), [0, -1.0, NAN, INF, "1", None],
     r"must be positive and finite"),
    (mige.SlicedScoreMatching, "variance_reduced",
     lambda v: mige.SlicedScoreMatching(variance_reduced=v), [1, "yes", None],
     r"must be True or False"),
    (mige.SlicedScoreMatching, "seed", lambda v: mige.SlicedScoreMatching(seed=v),
     [-1, 0.5, "1", None, True], r"must be an integer, not negative"),
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
    (compat.SpectralScoreEstimator, "n_eigen", lambda v: compat.SpectralScoreEstimator(v),
     [0, -1, 2.5, "3"], r"must be "),
    (compat.SpectralScoreEstimator, "n_eigen",
     lambda v: compat.SpectralScoreEstimator(v).score(X), [7], r"must be at most M = 6"),
    (compat.SpectralScoreEstimator, "eta", lambda v: compat.SpectralScoreEstimator(eta=v),
     [-1.0, NAN, INF, "small"], r"must "),
    (compat.SpectralScoreEstimator, "n_eigen_threshold",
     lambda v: compat.SpectralScoreEstimator(n_eigen_threshold=v),
     [0, -0.5, 1.5, NAN, INF, "all"], r"must lie in \(0, 1\]"),
    (compat.MutualInformationGradientEstimator, "n_eigen",
     lambda v: compat.MutualInformationGradientEstimator(v), [0, -1, 2.5, "3"], r"must be "),
    (compat.MutualInformationGradientEstimator, "n_eigen_threshold",
     lambda v: compat.MutualInformationGradientEstimator(n_eigen_threshold=v),
     [0, 1.5, NAN], r"must lie in \(0, 1\]"),
    (mige.entropy, "estimator", lambda v: mige.entropy(X, estimator=v),
     ["SSGE", 0.99, mige.SSGE], r"must have a method score\(samples\)"),
    (mige.mutual_information, "estimator", lambda v: mige.mutual_information(X, Z, estimator=v),
     ["SSGE", 0.99], r"must have a method score\(samples\)"),
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


def _each_number() -> Iterator[Any]:
    for owner, name, call, values, expectation in NUMBERS:
        for i, value in enumerate(values):
            label = getattr(value, "__name__", None) or repr(value)
            yield pytest.param(
                name, call, value, expectation, id=f"{owner.__name__}.{name}={label}-{i}"
            )


@pytest.mark.parametrize(("name", "call", "value", "expectation"), list(_each_number()))
def test_settings_out_of_range_are_refused_by_name_with_the_value(
    name: str, call: Callable[[Any], Any], value: Any, expectation: str
) -> None:
    shown = re.escape(repr(value))
    if isinstance(value, (int, float)):
        shown = rf"({shown}|{re.escape(f'{value:g}')})"
    with pytest.raises(ERRORS, match=rf"^{name} {expectation}.*got .*{shown}"):
        call(value)


def test_two_ways_to_choose_the_rank_are_refused_in_compat() -> None:
    for owner in (compat.SpectralScoreEstimator, compat.MutualInformationGradientEstimator):
        with pytest.raises(
            ValueError, match=r"n_eigen and n_eigen_threshold must not both.*3.*0\.9"
        ):
            owner(n_eigen=3, n_eigen_threshold=0.9)


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


@pytest.mark.parametrize("call", [
    lambda: mige.SSGE(rank=np.int64(3)).score(X),
    lambda: mige.SSGE(threshold=np.float32(0.9)).score(X),
    lambda: mige.SSGE(threshold=np.float64(0.9)).score(X),
    lambda: mige.SSGE(bandwidth=np.float32(2.0)).score(X),
    lambda: mige.Bandwidth(np.float32(0.3), np.float32(2.0))(X),
    lambda: mige.Tikhonov(np.float32(0.1)).score(X),
    lambda: mige.Stein(np.float64(0.1), curl_free=True).score(X),
    lambda: mige.Landweber(np.int64(3), np.float32(0.5)).score(X),
    lambda: mige.NuMethod(np.int64(3), np.float32(0.5)).fit(X),
    lambda: mige.SlicedScoreMatching(hidden=np.int64(3), layers=np.int64(1), steps=np.int64(1),
                                     learning_rate=np.float32(0.1), seed=np.int64(1)).score(X),
    lambda: mige.RandomProjection(np.int64(3)).matrix(4),
    lambda: ops.ssge(X, rank=np.int64(3), threshold=np.float32(0.9)),
], ids=range(12))  # fmt: skip
def test_numbers_of_numpy_are_numbers(call: Callable[[], Any]) -> None:
    assert_finite(call())


def test_a_non_finite_sample_is_located() -> None:
    x = normal(2, 5, 3)
    x[1, 4, 2] = torch.inf
    with pytest.raises(
        RuntimeError, match="x must be finite, got inf in row 4, column 2 of group 1"
    ):
        ops.ssge(x)


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


# --- extreme, but right ---------------------------------------------------------------------------


def scaled(a: float) -> Callable[[Tensor], Tensor]:
    return lambda t: t * a


def outlier(t: Tensor) -> Tensor:
    t = t.clone()
    t[..., 0, :] = 1e30
    return t


EXTREME: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "all equal": lambda t: t[..., :1, :].expand(t.shape),
    "75 % duplicates": lambda t: t[..., [0, 1, 2, 3] * 4, :][..., : t.shape[-2], :],
    "one distinct": lambda t: torch.cat([t[..., :1, :], t[..., 1:2, :].expand(t[..., 1:, :].shape)],
                                        -2),
    "1e30": scaled(1e30),
    "1e-30": scaled(1e-30),
    "1e38": scaled(1e38),
    "1e-38": scaled(1e-38),
    "subnormal": scaled(1e-42),
    "mixed scales": lambda t: t * torch.tensor([1e30, 1.0, 1e-30]).repeat(2)[: t.shape[-1]],
    "outlier": outlier,
    "offset": lambda t: t + 1e6,
    "transposed": lambda t: t.mT.contiguous().mT,
    "expanded": lambda t: t[..., :1].expand(t.shape),
    "every other": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "one coordinate": lambda t: t[..., :1],
    "empty batch": lambda t: t.expand(0, *t.shape),
    "batch of empty batches": lambda t: t.expand(2, 0, *t.shape),
}  # fmt: skip
CHANGES_THE_SHAPE = {"one coordinate"}


@pytest.mark.parametrize("kind", EXTREME)
@for_each_argument(ALL)
def test_extreme_input_gives_finite_results(argument: Argument, kind: str) -> None:
    if kind in CHANGES_THE_SHAPE and (argument.owner is ops.eigh or fixed_columns(argument)):
        return
    if argument.name == "conditional" and "empty" in kind:
        return  # the mean of nothing: among the errors
    assert_finite(argument.call(EXTREME[kind](argument.good())))


def fixed_columns(argument: Argument) -> bool:
    """Whether the other arguments of the call dictate the number of columns."""
    return argument.paired and (argument.owner.__name__, argument.name) in {
        ("squared_distances", "y"), ("rbf_gram", "y"), ("RBF", "y"), ("IMQ", "y"),
        ("rbf_product", "q"), ("rbf_product", "x"), ("FittedSSGE", "query"),
        ("FittedFilter", "query"), ("FittedGaussian", "query"), ("FittedNetwork", "query"),
        ("FittedAdaptive", "query"), ("Landmarks", "landmarks"), ("LandmarkStatistics", "samples"),
        ("FittedLandmarks", "query"), ("SpectralScoreEstimator", "x"),
        ("SpectralScoreEstimator", "samples"),
    }  # fmt: skip


DIFFERENTIABLE = [
    a for a in ALL
    if a.owner in (ops.squared_distances, ops.rbf_gram, mige.RBF, mige.IMQ, mige.entropy,
                   DRAWS.owner, mige.mutual_information, mige.RandomProjection,
                   compat.entropy_surrogate, compat.MutualInformationGradientEstimator)
]  # fmt: skip


@pytest.mark.parametrize("kind", EXTREME)
@for_each_argument(DIFFERENTIABLE)
def test_extreme_input_gives_finite_gradients(argument: Argument, kind: str) -> None:
    if kind in CHANGES_THE_SHAPE and fixed_columns(argument):
        return
    if argument.name == "conditional" and "empty" in kind:
        return
    x = EXTREME[kind](argument.good()).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(argument.call(x).sum(), x)
    assert gradient.shape == x.shape and gradient.dtype == x.dtype
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", ["all equal", "75 % duplicates", "1e30", "1e-30", "1e38"])
@pytest.mark.parametrize("arguments", [
    {}, {"n_eigen": 16}, {"n_eigen": 3}, {"n_eigen_threshold": 1.0}, {"eta": 0.1}, {"eta": 0.0},
], ids=str)  # fmt: skip
def test_every_setting_of_the_release_is_finite_on_extreme_input(
    arguments: dict[str, Any], kind: str
) -> None:
    x = EXTREME[kind](normal(16, 3, dtype=torch.float32).clamp(-3, 3))
    release = compat.SpectralScoreEstimator(**arguments)
    for dtype in (torch.float32, torch.float64):
        assert_finite(release.compute_gradients(x.to(dtype)))
        assert_finite(release.compute_gradients(x.to(dtype), x[:4].to(dtype)))


@pytest.mark.parametrize("width", [1e-38, 1e-30, 1.0, 1e30, 3e38])
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1.0, 1e30, 1e38])
@pytest.mark.parametrize("name", ["rbf_gram", "rbf_gradient_sum", "rbf_product", "ssge"])
def test_any_bandwidth_meets_any_scale(name: str, scale: float, width: float) -> None:
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
    rule = mige.Bandwidth(multiplier=multiplier)
    assert rule(X).isfinite() and rule(X) > 0
    _, _, width, rank = ops.ssge(X, multiplier=multiplier)
    assert width.isfinite() and width > 0 and rank >= 1  # rank 0 means that all samples are equal
    assert mige.SSGE(bandwidth=rule).score(X).isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("width", [
    mige.Bandwidth(multiplier=1e-300), mige.Bandwidth(multiplier=1e-30),
    mige.Bandwidth(multiplier=1e30), mige.Bandwidth(multiplier=1e300), 1e-30, 1e30,
], ids=str)  # fmt: skip
def test_a_fit_takes_what_a_score_takes_and_says_the_same(width: Any, scale: float) -> None:
    x, ssge = X.clamp(-3, 3) * scale, mige.SSGE(bandwidth=width)
    assert_finite(ssge.score(x))
    fitted, diagnostics = ssge.fit(x), ssge.diagnose(x)
    assert_finite(fitted.score(x.flip(0)))
    assert_finite(fitted.diagnostics)
    assert torch.equal(fitted.diagnostics.rank, diagnostics.rank)
    assert fitted.diagnostics.bandwidth > 0
    nominal = width
    if isinstance(width, mige.Bandwidth):
        nominal = width.multiplier * ops.distance_quantile(x).item()
    if 4 * torch.finfo(x.dtype).tiny < nominal < torch.finfo(x.dtype).max / 4:
        assert torch.equal(fitted.diagnostics.bandwidth, diagnostics.bandwidth)


@for_each_argument(ALL)
def test_a_gradient_that_makes_no_sense_is_neither_given_nor_in_the_way(
    argument: Argument,
) -> None:
    x = argument.good().requires_grad_()
    expected = list(tensors_of(argument.call(x.detach())))
    got = list(tensors_of(argument.call(x)))
    if argument.owner is not mige.mutual_information:  # which adds the marginals that it needs
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    if argument in DIFFERENTIABLE:
        assert all(t.requires_grad for t in got)
    elif argument.owner is not mige.Bandwidth and argument.owner not in vars(ops).values():
        assert not any(t.requires_grad for t in got)  # scores are data


@for_each_argument(ALL)
def test_bad_calls_leave_no_trace(argument: Argument) -> None:
    x = argument.good()
    expected = list(tensors_of(argument.call(x)))
    with pytest.raises(ERRORS):
        argument.call(with_value(x, torch.nan))
    got = list(tensors_of(argument.call(x)))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


# --- completeness ---------------------------------------------------------------------------------


def test_everything_public_is_in_the_table() -> None:
    # results, a protocol, and bases
    records = {mige.AdaptiveDiagnostics, mige.Diagnostics, mige.GaussianDiagnostics,
               mige.NetworkDiagnostics, mige.ScoreEstimator, mige.Fitted, mige.Kernel,
               mige.SpectralFilter}  # fmt: skip
    public = {getattr(mige, name) for name in mige.__all__}
    for module in (ops, compat, projection):
        public |= {
            value
            for name, value in vars(module).items()
            if not name.startswith("_")
            and (inspect.isfunction(value) or inspect.isclass(value))
            and value.__module__ == module.__name__
        }
    covered = {argument.owner for argument in ALL} | {row[0] for row in NUMBERS}
    assert public - records == covered
