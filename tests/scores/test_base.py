"""Properties of all estimators and all fits."""

from typing import Any

import pytest
import torch

import mige_ext as mige
from mige_ext import DistributedScoreEstimator, FittableEstimator, Fitted
from mige_ext.scores.base import stein_sum
from tests.support.inputs import normal

ESTIMATORS: dict[str, FittableEstimator[Any]] = {
    "ssge": mige.SSGE(),
    "curl-free": mige.SSGE(kernel=mige.IMQ(), curl_free=True, rank=5),
    "tikhonov": mige.Tikhonov(),
    "gaussian": mige.GaussianScore(),
    "adaptive": mige.AdaptiveScore(),
    "adaptive-qis": mige.AdaptiveScore(gaussian="qis"),
    "landmarks": mige.Landmarks(m=8),
    "network": mige.SlicedScoreMatching(hidden=8, steps=2),
}
for_each_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def tensors(fitted: Fitted) -> dict[str, torch.Tensor]:
    """The tensors of a fit; its settings are tensors in the state alone."""
    settings = {"kernel", "curl_free"}
    return {k: t for k, t in fitted.state_dict().items() if k not in settings}


@for_each_estimator
def test_a_fit_moves_with_all_its_tensors(name: str) -> None:
    fitted = ESTIMATORS[name].fit(normal(2, 20, 3))
    moved = fitted.to("meta")
    assert type(moved) is type(fitted)
    assert tensors(moved).keys() == tensors(fitted).keys()
    assert all(t.is_meta for t in tensors(moved).values())
    assert not any(t.is_meta for t in tensors(fitted).values())
    assert torch.equal(fitted.to(torch.device("cpu")).score(), fitted.score())


@for_each_estimator
@pytest.mark.parametrize("batch", [(), (2,), (0,)], ids=str)
def test_the_repr_of_a_fit_is_one_line(name: str, batch: tuple[int, ...]) -> None:
    fitted = ESTIMATORS[name].fit(normal(*batch, 20, 3))
    for text in (repr(fitted), repr(fitted.to("meta"))):
        assert text.startswith(f"{type(fitted).__name__}(") and "\n" not in text
        assert str(batch)[1:-1] in text and "dtype=float64" in text and "device=" in text
        assert all(f"{key}=" in text for key in vars(fitted.diagnostics))


def test_the_repr_of_a_fit_shows_settings_and_the_range_over_groups() -> None:
    x = torch.stack((normal(20, 3), 2 * normal(20, 3)))
    text = repr(mige.Tikhonov(kernel=mige.IMQ(), bandwidth=2.0).fit(x))
    assert "kernel=IMQ()" in text and "bandwidth=2," in text and "rank=20," in text
    low, high = text.split("calibration=")[1].split(",")[0].split("..")
    assert float(low) < float(high)


@for_each_estimator
def test_settings_are_given_by_name(name: str) -> None:
    estimator: Any = type(ESTIMATORS[name])
    with pytest.raises(TypeError, match="positional"):
        estimator("ridge", None)


def test_the_covariance_may_be_given_without_its_name() -> None:
    assert mige.GaussianScore("mle") == mige.GaussianScore(covariance="mle")
    assert mige.AdaptiveScore("qis") == mige.AdaptiveScore(gaussian="qis")
    with pytest.raises(ValueError, match="covariance must be"):
        mige.GaussianScore("lw")  # type: ignore[arg-type]


@for_each_estimator
def test_diagnose_gives_the_diagnostics_of_the_fit(name: str) -> None:
    x = normal(20, 3)
    expected = vars(ESTIMATORS[name].fit(x).diagnostics)
    got = vars(ESTIMATORS[name].diagnose(x))
    assert got.keys() == expected.keys()
    torch.testing.assert_close(got, expected)


def test_the_adaptive_score_is_the_default_of_the_information_functions() -> None:
    assert mige.AdaptiveScore() == mige.DEFAULT_ESTIMATOR == mige.AdaptiveScore(gaussian="ridge")


def test_landmarks_alone_reduce_the_samples_of_processes_to_sums() -> None:
    found = {n for n, e in ESTIMATORS.items() if isinstance(e, DistributedScoreEstimator)}
    assert found == {"landmarks"}


def test_a_distributed_score_in_one_process_is_the_score() -> None:
    x, estimator = normal(20, 3), mige.Landmarks(m=8)
    got = estimator.score_distributed(x, offset=0, total=20, all_reduce=lambda sums: None)
    assert torch.equal(got, estimator.score(x))


def test_stein_sum_is_relative_to_the_mean_of_each_group() -> None:
    samples, scores = normal(2, 9, 3) + 4, normal(2, 9, 3, seed=1)
    expected = ((samples - samples.mean(-2, keepdim=True)) * scores).sum((-2, -1))
    torch.testing.assert_close(stein_sum(samples, scores), expected)
