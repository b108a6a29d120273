"""The accuracy benchmark: exact scores, the grid of the oracle, and the output of the command."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from benchmarks.__main__ import app
from benchmarks.accuracy import measure, oracle
from benchmarks.accuracy.distributions import (
    CorrelatedGaussian,
    Distribution,
    Paired,
    Transformed,
)
from benchmarks.accuracy.families import FAMILIES, stream
from benchmarks.accuracy.information import InformationRow
from benchmarks.accuracy.merit import Merit, evaluate
from benchmarks.accuracy.oracle import CUT_OFF, LANDWEBER, NU, TIKHONOV, Setting
from benchmarks.accuracy.report import Row, bounds_of, draw, report
from mige_ext import (
    IMQ,
    RBF,
    SSGE,
    Bandwidth,
    Landweber,
    NuMethod,
    ScoreEstimator,
    Stein,
    Tikhonov,
)
from mige_ext.experiments.common.folder import Table
from mige_ext.experiments.toy.methods import mige_derivative
from tests.support.accuracy import rounding
from tests.support.inputs import normal

for_each_family = pytest.mark.parametrize("name", FAMILIES)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- distributions --------------------------------------------------------------------------------


def within_standard_errors(terms: torch.Tensor, exact: torch.Tensor | float) -> bool:
    """Whether the means of terms over their first dimension are within five standard errors.

    By chance, one mean in two million has a larger error.
    """
    error = terms.std(0) / len(terms) ** 0.5
    return bool(((terms.mean(0) - exact).abs() <= 5 * error).all())


@for_each_family
def test_score_is_the_gradient_of_the_log_density(name: str) -> None:
    distribution = FAMILIES[name].distribution
    z = distribution.sample(50, generator()).requires_grad_()
    (exact,) = torch.autograd.grad(distribution.log_density(z).sum(), z)
    got = distribution.score(z.detach())
    assert got.shape == z.shape == (50, distribution.d) and got.dtype == torch.float64
    assert (got - exact).abs().max() <= rounding(z.dtype, z.shape[1]) * exact.abs().max()


@for_each_family
def test_samples_and_score_fit_together_by_steins_identity(name: str) -> None:
    # E[s] = 0 and −E[s zᵀ] = I hold only for samples of the same density.
    distribution = FAMILIES[name].distribution
    z = distribution.sample(4000, generator())
    score = distribution.score(z)
    assert within_standard_errors(score, 0.0)
    one = torch.eye(distribution.d, dtype=z.dtype)
    assert within_standard_errors(-score.unsqueeze(2) * z.unsqueeze(1), one)


class Exact:
    """An exact estimator: the score of a family, and of the second half of a pair."""

    def __init__(self, distribution: Distribution) -> None:
        self.distribution = distribution

    def score(self, samples: torch.Tensor) -> torch.Tensor:
        if samples.shape[-1] == self.distribution.d:
            return self.distribution.score(samples)
        if isinstance(self.distribution, Transformed):  # y is the transform of a standard normal
            t = self.distribution.transform
            return t.bend(samples) - t.inverse(samples) * t.slope(samples)
        return -samples


@pytest.mark.parametrize(
    "name", ["gaussian-4", "asinh-4", "square-10", "cuberoot-10", "bimodal-2", "bimodal-5",
             "student-3"]
)  # fmt: skip
def test_exact_scores_give_the_exact_gradients(name: str) -> None:
    distribution = FAMILIES[name].distribution
    draws = [distribution.draw(400, generator(seed)) for seed in range(100)]
    merit = evaluate(Exact(distribution), distribution, draws)
    assert not merit.nmse.any()
    one = torch.eye(merit.gradients.shape[-1], dtype=torch.float64)
    assert within_standard_errors(merit.gradients, distribution.gradient * one)
    if distribution.derivative is None:
        assert name == "student-3" and np.isnan(merit.derivatives).all()
    else:
        terms = torch.from_numpy(merit.derivatives)
        assert within_standard_errors(terms, distribution.derivative)
    # The estimated bias is noise, which shrinks with the number of data sets.
    assert merit.bias(distribution.gradient) < 0.05


def test_the_derivative_in_rho_equals_the_one_of_the_toy_experiment() -> None:
    distribution = CorrelatedGaussian(6, 0.7)
    draw = distribution.draw(50, generator())
    x, y = draw.samples.chunk(2, -1)
    noise = (y - 0.7 * x) / (1 - 0.7**2) ** 0.5
    estimator = SSGE(bandwidth=2.0)  # mutual_information scales x and y for a rule
    exact = mige_derivative(0.7, x, noise, estimator).item()
    got = evaluate(estimator, distribution, [draw]).derivatives.item()
    assert abs(got - exact) <= rounding(x.dtype, 50) * abs(exact)


def test_both_halves_of_the_families_have_the_same_kinds() -> None:
    kinds = [
        {name.split("-")[0] for name, family in FAMILIES.items() if family.half == half}
        for half in ("chosen", "held-out")
    ]
    assert kinds[0] == kinds[1]


# --- the oracle -----------------------------------------------------------------------------------


def public(setting: Setting) -> ScoreEstimator:
    """The estimator of ``mige_ext`` that a setting corresponds to."""
    shared: dict[str, Any] = {
        "kernel": {"RBF": RBF(), "IMQ": IMQ()}[setting.kernel],
        "curl_free": setting.curl_free,
        "bandwidth": Bandwidth(multiplier=setting.multiplier),
    }
    if setting.filter == CUT_OFF:
        return SSGE(threshold=setting.number, **shared)
    if setting.filter == TIKHONOV:
        return Tikhonov(lam=setting.number, **shared)
    if setting.filter == NU:
        return NuMethod(steps=int(setting.number), nu=1.0, **shared)
    return Landweber(steps=int(setting.number), step_size=1.0, **shared)


def tolerance(setting: Setting, terms: int) -> float:
    """The largest relative rounding error after the setting's filter."""
    enlarged = {
        # 1 / the smallest eigenvalue that remains at 99.9 % of the trace
        CUT_OFF: 1e4,
        TIKHONOV: 1 / setting.number,
        NU: setting.number**2,
        LANDWEBER: setting.number,
    }[setting.filter]
    value = rounding(torch.float64, terms) * enlarged
    if setting.filter == TIKHONOV and setting.curl_free:  # the tolerance of conjugate gradients
        value += torch.finfo(torch.float64).eps ** 0.75
    return value


@pytest.mark.parametrize("kernel", ["RBF", "IMQ"])
@pytest.mark.parametrize("curl_free", [False, True])
@pytest.mark.parametrize(
    ("name", "numbers"),
    [(CUT_OFF, (0.5, 0.9, 0.99)), (TIKHONOV, (0.1, 1e-3)), (NU, (1, 2, 24)), (LANDWEBER, (1, 64))],
)
@pytest.mark.parametrize("multiplier", [0.7, 1.0, 2.0])
def test_settings_are_the_estimators(
    kernel: str, curl_free: bool, name: str, numbers: tuple[float, ...], multiplier: float
) -> None:
    x = FAMILIES["mixture-5"].distribution.sample(40, generator())
    for number in numbers:
        setting = Setting(kernel, curl_free, multiplier, name, number)
        exact = public(setting).score(x)
        error = (setting.score(x) - exact).abs().max() / exact.abs().max()
        assert error <= tolerance(setting, x.numel())


def test_tikhonov_is_steins_estimator() -> None:
    x = FAMILIES["mixture-5"].distribution.sample(40, generator())
    exact = Stein(eta=0.4).score(x)
    error = (Setting(filter=TIKHONOV, number=0.01).score(x) - exact).abs().max()
    assert error <= rounding(x.dtype, 40) * 100 * exact.abs().max()


def test_iterates_equal_scores_by_eigendecomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    x = FAMILIES["mixture-5"].distribution.sample(40, generator())
    setting = Setting("IMQ", True, 1.0, NU, 24)
    exact = setting.score(x)
    monkeypatch.setattr(oracle, "LARGEST", 40)
    assert setting.iterated(*x.shape)
    error = (setting.score(x) - exact).abs().max() / exact.abs().max()
    assert error <= tolerance(setting, 40)


@pytest.mark.parametrize("largest", [40, 640])
def test_errors_of_the_grid_are_those_of_its_scores(
    largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle, "LARGEST", largest)
    distribution = FAMILIES["mixture-5"].distribution
    x = distribution.sample(24, generator())
    exact = distribution.score(x)
    for settings in oracle.grid(24, 5):
        errors = oracle.errors(x, exact, settings)
        for setting, got in list(zip(settings, errors, strict=True))[::3]:
            error = (setting.score(x) - exact).square().sum() / exact.square().sum()
            assert abs(got - error) <= tolerance(setting, 120) * (1 + error)


@pytest.mark.parametrize("m", [64, 1024])
def test_the_grid_has_hundreds_of_different_settings(m: int) -> None:
    settings = [setting for group in oracle.grid(m, 5) for setting in group]
    assert len(set(settings)) == len(settings) > 300
    assert {setting.filter for setting in settings} == set(oracle.NUMBERS)
    assert len({str(setting) for setting in settings}) == len(settings)
    for group in oracle.grid(m, 5):
        assert len({(s.kernel, s.curl_free, s.multiplier) for s in group}) == 1


# --- measurements and files -----------------------------------------------------------------------


def test_no_row_of_the_grid_is_below_the_oracle() -> None:
    rows, found = measure.measure(FAMILIES["bimodal-2"], 24, 3)
    (least,) = (row for row in rows if row.estimator == "oracle")
    assert least.ratio == 1
    assert least.nmse <= min(mean for mean, _ in found.values()) * (1 + 1e-9)
    for row in rows:
        assert row.ratio == pytest.approx(row.nmse / least.nmse)
        if row.estimator.startswith(("best", "Gaussian")):
            assert row.ratio >= 1
    best = [row for row in rows if row.estimator.startswith("best")]
    assert len(best) == len(oracle.NUMBERS)
    for row in best:  # the row was measured again, from scores
        (mean,) = (found[setting][0] for setting in found if str(setting) == row.setting)
        assert row.nmse == pytest.approx(mean, rel=1e-6)


def test_data_sets_differ_by_family_size_and_seed_and_are_reproducible() -> None:
    def numbers(*key: Any) -> list[float]:
        return torch.rand(2, generator=stream(*key)).tolist()

    keys = [("laplace-5", 64, 0), ("laplace-5", 64, 1), ("laplace-5", 256, 0), ("banana-2", 64, 0)]
    assert numbers(*keys[0]) == numbers(*keys[0])
    assert len({tuple(numbers(*key)) for key in keys}) == 4


def test_bias_is_the_error_of_the_mean() -> None:
    # The exact gradient is I, and the estimates are 0.8 I + noise. Their mean differs from I by the
    # bias 0.2 and by the mean noise. ``bias`` subtracts the variance of the mean noise.
    noise = torch.randn(100, 6, 6, generator=generator(), dtype=torch.float64)
    nothing = np.zeros(100)
    merit = Merit(nothing, 0.8 * torch.eye(6, dtype=torch.float64) + noise, nothing)
    naive = (merit.gradients.mean(0) - torch.eye(6)).norm() / 6**0.5
    assert abs(merit.bias(1.0) - 0.2) < abs(naive - 0.2)
    assert np.isnan(Merit(nothing[:1], merit.gradients[:1], nothing[:1]).bias(1.0))


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["accuracy", *arguments])


def run(folder: Path, *arguments: str) -> tuple[list[Row], str]:
    """The rows that the command saves and the text that it prints."""
    result = call("--save", "--out", str(folder), *arguments)
    assert result.exit_code == 0, result.output
    return Table(folder / "accuracy.csv", Row).rows, result.stdout


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    families = ["--families", "bimodal-2", "--families", "banana"]
    rows, text = run(tmp_path, *families, "--samples", "16", "--seeds", "2")
    assert {row.family for row in rows} == {"bimodal-2", "banana-2", "banana-10"}
    assert {row.samples for row in rows} == {16} and {row.seeds for row in rows} == {2}
    fixed = [row.setting for row in rows if row.estimator == "best fixed"]
    assert len(fixed) == 3 and len(set(fixed)) == 1
    assert (tmp_path / "accuracy.png").stat().st_size > 0
    for part in ("M = 16: NMSE", "bias of the gradient", "dI/dθ", "held-out, worst", "SSGE .99"):
        assert part in text
    # Another run replaces the rows that it measures again, and keeps all other rows.
    again, text = run(
        tmp_path, "--families", "bimodal-2", "--samples", "16", "--seeds", "3", "--markdown"
    )
    assert len(again) == len(rows)
    assert {row.seeds for row in again if row.family == "bimodal-2"} == {3}
    assert {row.seeds for row in again if row.family != "bimodal-2"} == {2}
    assert "| density |" in text


def test_one_estimator_is_measured_again_relative_to_the_stored_oracle(tmp_path: Path) -> None:
    options = ["--families", "bimodal-2", "--samples", "16"]
    before, _ = run(tmp_path, *options, "--seeds", "2")
    stored = tmp_path / "accuracy.csv"
    lines = stored.read_text().splitlines(keepends=True)
    changed = [line.replace("0.", "0.9", 1) if "Tikhonov" in line else line for line in lines]
    stored.write_text("".join(changed))
    result = call("--save", "--out", str(tmp_path), *options, "--estimator", "Tikhonov")
    assert result.exit_code == 0, result.output
    assert "bimodal-2" in result.stdout and "accuracy.png" in result.stdout
    for row, again in zip(before, Table(stored, Row).rows, strict=True):
        assert row.estimator == again.estimator
        assert row.ratio == pytest.approx(again.ratio)
    result = call("--out", str(tmp_path), "--samples", "32", "--estimator", "Tikhonov")
    assert result.exit_code == 2
    assert "accuracy.csv has no oracle of gaussian-4 at M = 32" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--estimator", "best"], "there is no best; there are Gaussian ridge"),
        (["--estimator", "SSGE .99", "--seeds", "2"], "--estimator does not go with --seeds"),
        (["--families", "cauchy"], "there is no cauchy; there are gaussian-4"),
        (["--samples", "4"], "'--samples'"),
        (["--seeds", "0"], "'--seeds'"),
    ],
)
def test_the_command_refuses_what_it_does_not_have(arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def row_of(estimator: str, **changes: Any) -> Row:
    values = {
        "family": "bimodal-2", "d": 2, "half": "chosen", "samples": 64, "estimator": estimator,
        "setting": "", "seeds": 4, "nmse": 0.1, "nmse_se": 0.01, "ratio": 1.0,
        "gradient_bias": 0.1, "derivative_error": 0.1, "worse": np.nan,
    }  # fmt: skip
    return Row(**{**values, **changes})


def test_bounds_are_about_the_best_estimator_and_its_control() -> None:
    kept = [row_of("adaptive qis", ratio=1.1, worse=0.0), row_of("oracle")]
    missed = [row_of("adaptive qis", ratio=1.4, worse=0.25), row_of("oracle")]
    assert [row[3] for row in bounds_of(kept).rows] == ["ok", "ok"]
    assert [row[3] for row in bounds_of(missed).rows] == ["MISSED", "MISSED"]
    assert len(report(missed, complete=True)) == 2
    assert report(missed, complete=False) == report(kept, complete=True) == []


def test_the_figure_holds_both_halves_and_all_sizes(tmp_path: Path) -> None:
    rows = [
        row_of(name, family=family.name, half=family.half, samples=m, ratio=ratio)
        for family in FAMILIES.values()
        for m in (64, 256, 1024)
        for name, ratio in (("oracle", 1.0), ("SSGE .99", 30.0), ("adaptive qis", 1.2))
    ]
    assert draw(rows, tmp_path / "new" / "a.png").stat().st_size > 0


@pytest.mark.parametrize("name", ["gaussian-4", "asinh-4", "square-10", "cuberoot-10"])
def test_marginal_scores_are_those_of_half_the_pair(name: str) -> None:
    distribution = FAMILIES[name].distribution
    assert isinstance(distribution, Paired)
    y = normal(20, distribution.d // 2).requires_grad_()
    # Without correlation, the score of the pair consists of the scores of its halves.
    base = CorrelatedGaussian(distribution.d, 0.0)
    transform = getattr(distribution, "transform", None)
    apart = base if transform is None else Transformed(base, transform)
    both = apart.score(torch.cat((torch.zeros_like(y), y), -1))
    assert torch.allclose(distribution.marginal_score(y), both.chunk(2, -1)[1])


def test_the_command_measures_gradients_of_information(tmp_path: Path) -> None:
    options = ("--information", "--families", "asinh-4", "--families", "bimodal-2")
    result = call("--save", "--out", str(tmp_path), *options, "--samples", "256", "--seeds", "2")
    assert result.exit_code == 0, result.output
    rows = Table(tmp_path / "information.csv", InformationRow).rows
    assert {row.family for row in rows} == {"asinh-4"}
    ratios = {row.estimator: row.ratio for row in rows}
    assert ratios["Gaussian ridge"] == 1.0
    assert ratios["default"] <= 1.1
    assert "information, relative squared error" in result.stdout
    assert not (tmp_path / "accuracy.png").exists()
