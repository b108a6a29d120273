"""Landmarks: agreement with the full estimator, sums over batches, and the choice of landmarks."""

import io
import math
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import SSGE, Bandwidth, Landmarks, ops, reference
from mige_ext.scores import landmark_fit
from tests.support.accuracy import rounding, same_bits
from tests.support.inputs import for_each_dtype, normal


def relative(got: Tensor, exact: Tensor) -> float:
    return ((got.double() - exact).norm() / exact.norm()).item()


def ill(values: Tensor, rank: Tensor | int) -> float:
    """λ_1 / λ_J of ascending eigenvalues, by which the inverse magnifies an error."""
    j = torch.as_tensor(rank).expand(values.shape[:-1]).unsqueeze(-1)
    smallest = values.gather(-1, values.shape[-1] - j).squeeze(-1)
    return (values[..., -1] / smallest).max().item()


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"threshold": 0.9}, {"rank": 7}, {"calibrate": "stein"}])
@pytest.mark.parametrize("d", [2, 16])
def test_with_all_samples_as_landmarks_it_is_ssge(d: int, options: dict[str, Any]) -> None:
    x, q = normal(2, 100, d), normal(2, 9, d, seed=1)
    fitted, full = Landmarks(m=100, **options).fit(x), SSGE(**options).fit(x)
    values = ops.ssge(x)[1]
    # A contains K², so the condition number is squared.
    tolerance = rounding(x.dtype, 100) * ill(values, full.diagnostics.rank) ** 2
    assert tolerance < 1e-4
    for points in (x, q):
        assert relative(fitted.score(points), full.score(points)) <= tolerance
    for name, value in vars(full.diagnostics).items():
        torch.testing.assert_close(
            getattr(fitted.diagnostics, name), value, rtol=tolerance, atol=tolerance
        )


def test_float32_samples_have_the_digits_of_float64() -> None:
    # The equations are solved in float64, so only the coefficients are rounded.
    x = normal(200, 16, dtype=torch.float32)
    exact = SSGE().score(x.double())
    assert relative(Landmarks(m=200).score(x), exact) < relative(SSGE().score(x), exact) / 10


def test_with_a_lambda_it_is_tikhonov() -> None:
    # With all landmarks the score is (K + MλI)^{−1} H. With fewer landmarks it is the minimizer
    # over their span.
    x, lam = normal(60, 3), 1e-2
    sigma = Bandwidth()(x)
    k, h = reference.rbf_gram(x, bandwidth=sigma), reference.rbf_gradient_sum(x, bandwidth=sigma)
    exact = -torch.linalg.solve(k + 60 * lam * torch.eye(60), h)
    # About √ε of H lies in directions in which K is a rounding error, and is divided by λ.
    tolerance = rounding(x.dtype, 60) ** 0.5 / lam
    assert relative(Landmarks(m=60, lam=lam).score(x), exact) <= tolerance

    z = x[::6]
    kz, kxz = (reference.rbf_gram(p, z, bandwidth=sigma) for p in (z, x))
    b = -(kxz.mT @ x - kxz.sum(0).unsqueeze(1) * z) / sigma**2
    c = -torch.linalg.solve(kxz.mT @ kxz / 60 + lam * kz, b / 60)
    fitted = Landmarks(m=10, lam=lam, bandwidth=sigma.item()).fit(x, z)
    assert relative(fitted.score(x), kxz @ c) <= tolerance


def test_it_converges_to_the_full_estimator_as_landmarks_are_added() -> None:
    x = torch.cat([normal(256, 3), 3 + normal(256, 3, seed=1)])
    full = SSGE(bandwidth=3.0).score(x)
    errors = [relative(Landmarks(m=m, bandwidth=3.0).score(x), full) for m in (16, 64, 256)]
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 4


def test_the_gradient_of_an_entropy_from_landmarks_is_that_of_all_samples() -> None:
    z = normal(500, 4).requires_grad_()
    grads = [
        torch.autograd.grad(mige.entropy(z, estimator=e), z)[0]
        for e in (SSGE(threshold=0.9), Landmarks(m=200, threshold=0.9))
    ]
    assert relative(grads[1], grads[0]) < 0.05


# --- sums -----------------------------------------------------------------------------------------


def batches(x: Tensor, size: int) -> Iterator[Tensor]:
    yield from x.split(size, -2)


@for_each_dtype
def test_batches_sum_up_to_the_fit_at_once(dtype: torch.dtype) -> None:
    x = normal(2, 700, 5, dtype=dtype)
    estimator = Landmarks(m=30, rank=20)
    running = estimator.start(x)
    for batch in batches(x, 97):
        running.partial_fit(batch)
    at_once, values = estimator.fit(x), ops.ssge(x.double())[1]
    tolerance = rounding(dtype, 700) * ill(values, 20) ** 2
    assert relative(running.solve().score(x), at_once.score(x).double()) <= tolerance
    assert running.moments[:, -1, -1].tolist() == [700, 700]


def test_tiles_sum_up_to_the_fit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(3, 200, 4)
    whole = Landmarks(m=20, rank=15).score(x)
    seen: list[int] = []

    def progress(tiles: Iterable[landmark_fit.Tile]) -> Iterator[landmark_fit.Tile]:
        for tile in tiles:
            seen.append(len(seen))
            yield tile

    monkeypatch.setattr(landmark_fit, "_TILE", 1000)
    tiled = Landmarks(m=20, rank=15).score(x, progress=progress)
    assert len(seen) > 3 * 4
    assert relative(tiled, whole) <= rounding(x.dtype, 200) * ill(ops.ssge(x)[1], 15) ** 2


def test_a_fit_continues_from_its_checkpoint() -> None:
    x = normal(90, 3, dtype=torch.float32)
    running = Landmarks(m=20).start(x[:50]).partial_fit(x[:50])
    file = io.BytesIO()
    torch.save(running.state_dict(), file)
    file.seek(0)
    resumed = Landmarks(m=20).resume(torch.load(file)).partial_fit(x[50:])
    expected = running.partial_fit(x[50:]).solve()
    assert same_bits((resumed.solve().score(x),), (expected.score(x),))
    with pytest.raises(ValueError, match="state must be of an estimator with the same bandwidth"):
        Landmarks(m=20, bandwidth=0.5).resume(running.state_dict())
    for damaged in (torch.tensor(1.0), running.moments * math.nan):
        with pytest.raises(ValueError, match=r"state\['moments'\] must be finite and have shape"):
            Landmarks(m=20).resume({**running.state_dict(), "moments": damaged})


def test_groups_are_independent_and_threads_do_not_matter() -> None:
    x = normal(3, 300, 4)
    scores = Landmarks(m=70).score(x)
    for alone, together in zip(x, scores, strict=True):
        assert same_bits((Landmarks(m=70).score(alone),), (together,))
    for threads in (2, 4):
        torch.set_num_threads(threads)
        assert same_bits((Landmarks(m=70).score(x),), (scores,))


# --- the landmarks --------------------------------------------------------------------------------


def test_landmarks_are_distinct_samples_and_depend_on_the_seed() -> None:
    chosen = Landmarks(m=50).chosen(1000)
    assert torch.equal(chosen, chosen.unique()) and len(chosen) == 50
    assert not torch.equal(chosen, Landmarks(m=50, seed=1).chosen(1000))
    assert torch.equal(chosen, Landmarks(m=50).chosen(1000))
    assert torch.equal(Landmarks(m=50).chosen(20), torch.arange(20))


def test_every_sample_is_as_likely_a_landmark() -> None:
    counts = torch.zeros(100)
    for seed in range(400):
        counts[Landmarks(m=10, seed=seed).chosen(100)] += 1
    # Each count is binomial with mean 40 and standard deviation 6. The largest of 100 counts is at
    # most 4 standard deviations away.
    assert (counts - 40).abs().max() < 4 * 6
    assert 0.5 < (counts - 40).square().mean() / 36 < 1.5


def test_the_bandwidth_is_the_rule_at_the_landmarks() -> None:
    x = normal(200, 3)
    chosen = Landmarks(m=40).chosen(200)
    for given, rule in (("median", Bandwidth()), (Bandwidth(0.3, 2.0), Bandwidth(0.3, 2.0))):
        sigma = Landmarks(m=40, bandwidth=given).fit(x).diagnostics.bandwidth
        assert torch.equal(sigma, rule(x[chosen]))


# --- ranges ---------------------------------------------------------------------------------------


@for_each_dtype
@pytest.mark.parametrize("exponent", [-98, 98])
def test_any_size_of_samples_is_as_good(dtype: torch.dtype, exponent: int) -> None:
    x, unit = normal(100, 4, dtype=dtype), 2.0**exponent
    scaled = Landmarks(m=30).score(x * unit) * unit
    assert same_bits((scaled,), (Landmarks(m=30).score(x),))


def test_an_offset_and_an_outlier_cost_no_accuracy() -> None:
    x = (normal(100, 4) * 1024).round() / 1024  # so that the offset is added exactly
    estimator = Landmarks(m=100, rank=20, bandwidth=3.0)
    exact = estimator.score(x)
    tolerance = rounding(x.dtype, 100) * ill(ops.ssge(x)[1], 20) ** 2
    assert relative(estimator.score(x + 2.0**20), exact) <= tolerance
    far = torch.cat([x, torch.full((1, 4), 1e30, dtype=x.dtype)])
    with_outlier = estimator.fit(far, x).score(x)
    assert relative(with_outlier, exact) <= tolerance


def test_equal_samples_have_score_zero() -> None:
    x = torch.ones(10, 3)
    fitted = Landmarks(m=5).fit(x)
    assert not fitted.score(normal(4, 3, dtype=torch.float32)).any()
    assert fitted.diagnostics.rank == 0


def test_repeated_landmarks_are_one() -> None:
    x = normal(60, 3)
    z = x[:10]
    once, twice = (Landmarks(rank=8, m=8, bandwidth=2.0).fit(x, p) for p in (z, torch.cat([z, z])))
    gram = reference.rbf_gram(z, bandwidth=torch.tensor(2.0))
    tolerance = rounding(x.dtype, 60) * ill(ops.eigh(gram)[0], 8) ** 2
    assert relative(twice.score(x), once.score(x)) <= tolerance


# --- errors and states ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"m": 1}, "m must be at least 2, got 1"),
        ({"m": 0}, "m must be a positive integer, got 0"),
        ({"m": 8, "rank": 9}, "rank must be at most m, 8, got 9"),
        ({"lam": 0.0}, "lam must be positive and finite, got 0.0"),
        ({"lam": 0.1, "rank": 3}, "lam and rank exclude each other, got 0.1 and 3"),
        ({"threshold": 0.0}, r"threshold must lie in \(0, 1\], got 0.0"),
        ({"bandwidth": "mean"}, 'bandwidth must be "median"'),
        ({"calibrate": True}, 'calibrate must be "stein" or None, got True'),
        ({"seed": -1}, r"seed must be an integer from 0 to 2\*\*63 - 1, got -1"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Landmarks(**options)


def test_bad_tensors_are_refused_by_name_and_leave_the_sums_as_they_were() -> None:
    x = normal(20, 3)
    running = Landmarks(m=8).start(x)
    with pytest.raises(ValueError, match="a fit needs samples, got none: call partial_fit"):
        running.solve()
    running.partial_fit(x)
    before = running.moments.clone()
    for bad, message in (
        (normal(5, 4), "samples must have the 3 columns of landmarks, got 4"),
        (normal(2, 5, 3), "samples must have the leading dimensions of landmarks"),
        (torch.full((5, 3), torch.nan), "samples must be finite, got 15 values"),
    ):
        with pytest.raises(ValueError, match=message):
            running.partial_fit(bad)
        assert torch.equal(running.moments, before)
    with pytest.raises(ValueError, match=r"landmarks must have shape \(..., M, d\) with M >= 2"):
        Landmarks().fit(x, x[:1])
    with pytest.raises(ValueError, match="landmarks must be finite"):
        Landmarks().fit(x, torch.full((5, 3), torch.inf))
    with pytest.raises(KeyError, match="state must have 'landmarks', got nothing"):
        Landmarks(m=8).resume({})
    with pytest.raises(TypeError, match="state must be a dict of tensors, got NoneType"):
        Landmarks(m=8).resume(None)  # type: ignore[arg-type]


def test_a_fit_is_restored_from_its_state() -> None:
    fitted = Landmarks(m=16).fit(normal(60, 3))
    again = mige.FittedLandmarks.from_state_dict(fitted.state_dict())
    query = normal(5, 3, seed=1)
    assert torch.equal(again.score(query), fitted.score(query))
    assert torch.equal(fitted.score(), fitted.score(fitted.landmarks * fitted.unit))


# --- compiled code --------------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_one_program_serves_all_numbers_of_samples() -> None:
    estimator, compilations = Landmarks(m=8), []

    def backend(graph: Any, _: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(estimator.score, backend=backend, fullgraph=True)
    for m in (40, 31, 25, 60):
        x = normal(2, m, 3)
        assert torch.equal(compiled(x), estimator.score(x))
    assert len(compilations) == 2  # one for the first number, one for all others


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_score_is_exported_for_all_numbers_of_samples() -> None:
    class Score(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Landmarks(m=8).score(x)

    m = torch.export.Dim("m", min=9, max=4096)
    exported = torch.export.export(Score(), (normal(20, 3),), dynamic_shapes={"x": {0: m}})
    x = normal(33, 3)
    assert torch.equal(exported.module()(x), Landmarks(m=8).score(x))


@pytest.mark.parametrize("lam", [1e-3, 1e-4])
def test_tikhonov_in_float32_is_as_accurate_as_in_float64(lam: float) -> None:
    x = normal(2000, 3).float() * torch.tensor([1.0, 1e-2, 1e-4])
    estimator = mige.Landmarks(m=128, lam=lam, bandwidth=1.0)
    error = estimator.score(x) - estimator.score(x.double())
    assert (error.norm(dim=0) <= 1e-4 * estimator.score(x).norm(dim=0)).all()


def test_an_interrupted_batch_adds_nothing() -> None:
    statistics = Landmarks(m=8).start(normal(20, 3))
    before = statistics.moments.clone()

    def interrupted(tiles: Iterable[Any]) -> Iterator[Any]:
        yield next(iter(tiles))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        statistics.partial_fit(normal(1000, 3), progress=interrupted)
    assert torch.equal(statistics.moments, before)


def test_statistics_keep_a_copy_of_the_landmarks() -> None:
    x, landmarks, query = normal(60, 3), normal(12, 3, seed=1), normal(5, 3, seed=2)
    statistics = mige.Landmarks(m=12).start_with(landmarks).partial_fit(x)
    expected = statistics.solve().score(query)
    landmarks += 1
    resumed = mige.Landmarks(m=12).resume(statistics.state_dict())
    assert torch.equal(resumed.solve().score(query), expected)


def test_a_fit_scores_under_vmap() -> None:
    fitted, queries = mige.Landmarks(m=8).fit(normal(32, 3)), normal(4, 5, 3, seed=1)
    got = torch.func.vmap(fitted.score)(queries)
    assert torch.equal(got, torch.stack([fitted.score(query) for query in queries]))


def test_statistics_of_inference_mode_may_grow_outside_of_it() -> None:
    x = normal(40, 3)
    with torch.inference_mode():
        statistics = Landmarks(m=8).start(x)
    assert statistics.partial_fit(x).solve().score(x).isfinite().all()
