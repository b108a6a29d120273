"""Bad and extreme input for every estimator, kernel and bandwidth rule."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import mige_ext as mige
from mige_ext import compat, ops
from tests.support.bad_input import (
    EXTREME,
    INF,
    NAN,
    Argument,
    B,
    BadInputTests,
    X,
    Z,
    assert_finite,
    fill,
)
from tests.support.inputs import normal

estimator = compat.SpectralScoreEstimator(n_eigen_threshold=0.9)
QIS = mige.AdaptiveScore(gaussian="qis")
NETWORK = mige.SlicedScoreMatching(hidden=8, layers=1, steps=2)

ARGUMENTS = [
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
             lambda s: mige.Landweber(steps=20, kernel=mige.IMQ()).fit(s)),
    Argument(mige.NuMethod, "fit", "samples", lambda s: mige.NuMethod(curl_free=True).fit(s)),
    Argument(mige.FittedFilter, "score", "query",
             lambda q: mige.Tikhonov().fit(fill(q, 16, 3)).score(q), 0, paired=True),
    Argument(mige.FittedFilter, "energy", "query",
             lambda q: mige.Stein(curl_free=True).fit(fill(q, 16, 3)).energy(q), 0, paired=True),
    Argument(mige.AdaptiveScore, "score", "samples", lambda s: QIS.score(s)),
    Argument(mige.AdaptiveScore, "fit", "samples",
             lambda s: mige.AdaptiveScore(gaussian="qis", calibrate="stein").fit(s)),
    Argument(mige.AdaptiveScore, "diagnose", "samples", lambda s: QIS.diagnose(s)),
    Argument(mige.FittedAdaptive, "score", "query",
             lambda q: QIS.fit(fill(q, 16, 3)).score(q), 0, paired=True),
    Argument(mige.GaussianScore, "ridge", "samples", lambda s: mige.GaussianScore().fit(s)),
    Argument(mige.GaussianScore, "qis", "samples",
             lambda s: mige.GaussianScore(covariance="qis").fit(s)),
    Argument(mige.GaussianScore, "mle", "samples",
             lambda s: mige.GaussianScore(covariance="mle").score(s)),
    Argument(mige.FittedGaussian, "score", "query",
             lambda q: mige.GaussianScore().fit(fill(q, 16, 3)).score(q), 0, paired=True),
    Argument(mige.FittedGaussian, "energy", "query",
             lambda q: mige.GaussianScore().fit(fill(q, 16, 3)).energy(q), 0, paired=True),
    Argument(mige.SlicedScoreMatching, "fit", "samples", lambda s: NETWORK.fit(s)),
    Argument(mige.FittedNetwork, "score", "query",
             lambda q: NETWORK.fit(fill(q, 16, 3)).score(q), 0, paired=True),
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
]  # fmt: skip

UNFIT: dict[str, tuple[Callable[[], Any], str]] = {
    "query columns": (lambda: mige.SSGE().fit(X).score(Z),
                      r"query must have the 3 columns of samples, got 2"),
    "query batch": (lambda: mige.SSGE().fit(X).score(B),
                    r"query must have the leading dimensions of samples, \(\), got \(2,\)"),
    "phi list": (lambda: mige.RBF().phi([1.0], 1.0),  # type: ignore[arg-type]
                 r"s must be a torch.Tensor, got list"),
    "phi integer": (lambda: mige.RBF().phi(torch.arange(3), 1.3),
                    r"s must have a floating-point dtype, got torch.int64"),
    "dphi integer": (lambda: mige.RBF().dphi(torch.arange(3), 1.3),
                     r"s must have a floating-point dtype, got torch.int64"),
    "compat query columns": (lambda: estimator.compute_gradients(X, Z),
                             r"x must have the 3 columns of samples, got 2"),
    "compat query batch": (lambda: estimator.compute_gradients(X, B),
                           r"x must have the leading dimensions of samples, \(\), got \(2,\)"),
}  # fmt: skip

NUMBERS: list[tuple[Any, str, Callable[[Any], Any], list[Any], str]] = [
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
    (mige.Tikhonov, "lam", lambda v: mige.Tikhonov(lam=v), [0, -1.0, NAN, INF, "1", None],
     r"must be positive and finite"),
    (mige.Tikhonov, "bandwidth", lambda v: mige.Tikhonov(bandwidth=v).score(X), [1e-50, 1e50],
     r"must "),
    (mige.Tikhonov, "bandwidth", lambda v: mige.Tikhonov(bandwidth=v),
     [0, -1.0, NAN, INF, "mean", None, [1.0]], r"must "),
    (mige.Tikhonov, "calibrate", lambda v: mige.Tikhonov(calibrate=v), ["Stein", True, 1],
     r'must be "stein" or None'),
    (mige.Stein, "eta", lambda v: mige.Stein(eta=v), [0, -1.0, NAN, INF, "1", None],
     r"must be positive and finite"),
    (mige.Landweber, "steps", lambda v: mige.Landweber(steps=v), [0, -1, 2.5, "3", None, True],
     r"must be a positive integer"),
    (mige.Landweber, "step_size", lambda v: mige.Landweber(step_size=v),
     [0, -1.0, 2.0, NAN, INF, "1", None], r"must lie in \(0, 2\)"),
    (mige.NuMethod, "steps", lambda v: mige.NuMethod(steps=v), [0, -1, 2.5, "3", None],
     r"must be a positive integer"),
    (mige.NuMethod, "nu", lambda v: mige.NuMethod(nu=v), [0, -1.0, NAN, INF, "1", None],
     r"must be positive and finite"),
    (mige.GaussianScore, "covariance", lambda v: mige.GaussianScore(covariance=v),
     ["ols", None, 0.1], r'must be "ridge", "qis" or "mle"'),
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
     [-1, 0.5, "1", None, True], r"must be an integer from 0 to 2\*\*63 - 1"),
    (compat.SpectralScoreEstimator, "n_eigen", lambda v: compat.SpectralScoreEstimator(v),
     [0, -1, 2.5, "3"], r"must be "),
    (compat.SpectralScoreEstimator, "n_eigen",
     lambda v: compat.SpectralScoreEstimator(v).score(X), [7], r"must be at most M = 6"),
    (compat.SpectralScoreEstimator, "eta", lambda v: compat.SpectralScoreEstimator(eta=v),
     [-1.0, NAN, INF, "small"], r"must "),
    (compat.SpectralScoreEstimator, "n_eigen_threshold",
     lambda v: compat.SpectralScoreEstimator(n_eigen_threshold=v),
     [0, -0.5, 1.5, NAN, INF, "all"], r"must lie in \(0, 1\]"),
]  # fmt: skip


class TestBadInput(BadInputTests):
    ARGUMENTS = ARGUMENTS
    UNFIT = UNFIT
    NUMBERS = NUMBERS


def test_two_ways_to_choose_the_rank_are_refused_in_compat() -> None:
    for owner in (compat.SpectralScoreEstimator, compat.MutualInformationGradientEstimator):
        with pytest.raises(
            ValueError, match=r"n_eigen and n_eigen_threshold must not both.*3.*0\.9"
        ):
            owner(n_eigen=3, n_eigen_threshold=0.9)


@pytest.mark.parametrize("call", [
    lambda: mige.SSGE(rank=np.int64(3)).score(X),
    lambda: mige.SSGE(threshold=np.float32(0.9)).score(X),
    lambda: mige.SSGE(threshold=np.float64(0.9)).score(X),
    lambda: mige.SSGE(bandwidth=np.float32(2.0)).score(X),
    lambda: mige.Bandwidth(np.float32(0.3), np.float32(2.0))(X),
    lambda: mige.Tikhonov(lam=np.float32(0.1)).score(X),
    lambda: mige.Stein(eta=np.float64(0.1), curl_free=True).score(X),
    lambda: mige.Landweber(steps=np.int64(3), step_size=np.float32(0.5)).score(X),
    lambda: mige.NuMethod(steps=np.int64(3), nu=np.float32(0.5)).fit(X),
    lambda: mige.SlicedScoreMatching(hidden=np.int64(3), layers=np.int64(1), steps=np.int64(1),
                                     learning_rate=np.float32(0.1), seed=np.int64(1)).score(X),
    lambda: mige.RandomProjection(np.int64(3)).matrix(4),
], ids=range(11))  # fmt: skip
def test_numbers_of_numpy_are_numbers(call: Callable[[], Any]) -> None:
    assert_finite(call())


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


@pytest.mark.parametrize("multiplier", [1e-300, 1e-45, 1e-30, 1e30, 1e300])
def test_any_multiplier_gives_a_positive_bandwidth(multiplier: float) -> None:
    rule = mige.Bandwidth(multiplier=multiplier)
    assert rule(X).isfinite() and rule(X) > 0
    assert mige.SSGE(bandwidth=rule).score(X).isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("width", [
    mige.Bandwidth(multiplier=1e-300), mige.Bandwidth(multiplier=1e-30),
    mige.Bandwidth(multiplier=1e30), mige.Bandwidth(multiplier=1e300), 1e-30, 1e30,
], ids=str)  # fmt: skip
def test_a_fit_accepts_and_refuses_the_same_samples_as_a_score(width: Any, scale: float) -> None:
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
