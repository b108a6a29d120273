"""Leaks of known size are found within their error, and no leak is found where there is none."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mige_ext import MigeWarning, _warnings
from mige_ext.audit import ATTACKERS, _inputs, _leakage, leakage

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads
RHO = 0.8
FAST = ("neighbors", "trees")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Codes of two dimensions, the first with correlation ``RHO`` to a normal s."""
    s, z = normal(count, seed=seed), normal(count, 2, seed=seed + 1)
    z[:, 0] = RHO * s + math.sqrt(1 - RHO**2) * z[:, 0]
    return z, s


def information_of_bins(count: int) -> float:
    """I(z; bin of s) of ``correlated`` in nats, for bins of equal probability, by quadrature."""
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    inner = torch.arange(1, count, dtype=torch.float64) / count
    edges = torch.cat(
        [torch.tensor([-math.inf]), torch.special.ndtri(inner), torch.tensor([math.inf])]
    )
    below = torch.special.ndtr((edges[:, None] - RHO * z) / math.sqrt(1 - RHO**2))
    p = below.diff(dim=0)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return float(math.log(count) + torch.trapezoid(torch.xlogy(p, p).sum(0) * density, z))


# --- leaks of known size --------------------------------------------------------------------------


def test_the_leak_of_a_gaussian_is_that_of_the_closed_form() -> None:
    found = leakage(*correlated(4000), attackers=["perceptrons"], epochs=3, seed=1)
    expected = information_of_bins(16)
    assert 0.49 < expected < -0.5 * math.log(1 - RHO**2)
    assert abs(found.nats - expected) < 3 * found.standard_error
    assert found.standard_error < 0.04
    assert found.r2 == pytest.approx(RHO**2, abs=0.05) and found.accuracy_above_chance is None
    assert found.attacker.startswith("MLP") and found.test_rows == 1000


def test_the_leak_of_the_sign_of_a_gaussian_is_that_of_the_closed_form() -> None:
    z, s = correlated(4000)
    found = leakage(z, s > 0, attackers=["perceptrons"], epochs=3)
    assert abs(found.nats - information_of_bins(2)) < 3 * found.standard_error
    accuracy = 0.5 + math.asin(RHO) / math.pi
    assert found.accuracy_above_chance == pytest.approx(accuracy - 0.5, abs=0.04)
    assert found.r2 is None


@pytest.mark.parametrize("kind", ATTACKERS)
def test_an_encoded_bit_leaks_its_entropy(kind: str) -> None:
    s = torch.rand(3000, generator=torch.Generator().manual_seed(0)) < 0.3
    z = normal(3000, 3) * 0.1
    z[:, 1] += s
    found = leakage(z, s, attackers=[kind], epochs=6)
    share = -0.3 * math.log(0.3) - 0.7 * math.log(0.7)
    assert found.entropy == pytest.approx(share, abs=0.04)
    assert 0.98 * found.entropy < found.nats <= found.entropy
    assert found.accuracy_above_chance == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("kind", ["perceptrons", "neighbors", "trees"])
def test_a_leak_in_a_direction_of_little_variance_is_found(kind: str) -> None:
    s, z = normal(3000), normal(3000, 3, seed=1)
    z[:, 0] = z[:, 1] + 1e-3 * (3 * s + z[:, 0])
    found = leakage(z.double(), s, attackers=[kind], epochs=6)
    assert found.nats > 0.5  # I(s; 3 s + noise) is 1.15 nats, and I(s; z₁, z₂) is 0
    assert found.r2 is not None and found.r2 > 0.8
    if kind == "perceptrons":
        assert "whitened" in found.attacker


def test_an_angle_is_found_in_both_of_its_columns() -> None:
    angle = 2 * math.pi * torch.rand(3000, generator=torch.Generator().manual_seed(0))
    s = torch.stack([angle.cos(), angle.sin()], 1)
    found = leakage(s + 0.1 * normal(3000, 2), s, attackers=["neighbors"])
    assert found.nats > 1.5 and found.entropy == pytest.approx(math.log(16), abs=0.05)
    assert found.r2 is not None and found.r2 > 0.95


# --- no leak --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["continuous", "bit", "classes"])
def test_a_permuted_s_leaks_nothing(kind: str) -> None:
    z, s = correlated(1200)
    given = {"continuous": s, "bit": s > 0, "classes": (2 * s).round().clamp(-3, 3).long()}[kind]
    results = []
    for seed in range(6):
        order = torch.randperm(len(s), generator=torch.Generator().manual_seed(100 + seed))
        found = leakage(z, given[order], attackers=FAST, seed=seed)
        assert abs(found.nats) <= 4 * found.standard_error + 1e-3
        results.append(found)
    nats = np.array([found.nats for found in results])
    assert abs(nats.mean()) <= 2 * nats.std(ddof=1) / math.sqrt(len(nats)) + 1e-4
    assert abs(np.mean([found.score for found in results])) < 0.02


def test_perceptrons_find_nothing_in_a_permuted_s() -> None:
    z, s = correlated(1200)
    found = leakage(
        z, s[torch.randperm(1200, generator=torch.Generator().manual_seed(5))], epochs=2
    )
    assert len(found.attacks) == 6
    assert abs(found.nats) <= 4 * found.standard_error + 1e-3


def test_the_choice_of_the_strongest_does_not_read_the_test_rows() -> None:
    z, s = correlated(1200)
    other, others = correlated(600, seed=7)
    found, reversed_ = (
        leakage(z, s > 0, test=(other, side), epochs=1) for side in (others > 0, others < 0)
    )
    assert [a.validation_nats for a in found.attacks] == [
        a.validation_nats for a in reversed_.attacks
    ]
    assert found.attacker == reversed_.attacker
    assert found.nats > 0.15 and reversed_.nats < 0  # the same attackers, all wrong


def test_other_frequencies_in_the_test_rows_do_not_inflate_the_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for share, count in ((0.5, 2000), (0.1, 1000)):
        s = torch.rand(count, generator=generator) < share
        parts.append((s[:, None] + 0.05 * torch.randn(count, 1, generator=generator), s))
    found = leakage(*parts[0], test=parts[1], attackers=FAST)
    assert 0.95 * found.entropy < found.nats <= found.entropy < 0.4


def test_a_gain_within_its_standard_error_counts_as_chance() -> None:
    spread = normal(400).double()
    spread = (spread - spread.mean()) / spread.std()  # standard error 1/20
    found = [_leakage._reliability(spread + gain / 20) for gain in (-2, 0, 0.99, 2, 10)]
    assert found == pytest.approx([0, 0, 0, 1 - 2**-4, 1 - 10**-4])
    assert _leakage._reliability(torch.ones(9)) == 1  # an attacker that is always right


# --- arguments ------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_result_and_the_global_seed_stays() -> None:
    z, s = correlated(600)
    state = torch.get_rng_state()
    first, same, other = (leakage(z, s, epochs=1, seed=seed) for seed in (3, 3, 4))
    assert first == same and first != other
    assert torch.equal(torch.get_rng_state(), state)


def test_arrays_tensors_and_dtypes_give_the_same_result() -> None:
    z, s = correlated(600)
    kinds = (
        z.numpy(), z.double(), z.clone().requires_grad_(), z.numpy().astype(">f8"),
        z.numpy().astype(np.longdouble), z.flip(0).numpy()[::-1],
    )  # fmt: skip
    expected = leakage(z, s > 0, attackers=FAST)
    for given in kinds:
        for nuisance in (s > 0, (s > 0).numpy(), (s > 0).byte(), (s.numpy() > 0).astype(np.int32)):
            assert leakage(given, nuisance, attackers=FAST) == expected
    assert leakage(z, s[:, None], attackers=FAST) == leakage(z, s.numpy(), attackers=FAST)
    names = np.array([-7, 11])[(s > 0).long().numpy()]  # any integers name the classes
    assert leakage(z, names, attackers=FAST) == expected


def test_the_modes_of_the_caller_change_nothing() -> None:
    z, s = correlated(400)
    options: dict[str, Any] = {"epochs": 2, "progress": False}
    expected = leakage(z, s, **options)
    assert expected.nats > 0.1
    with torch.autocast("cpu", torch.bfloat16):
        assert leakage(z, s, **options) == expected
    with torch.no_grad():
        assert leakage(z, s, **options) == expected
    with torch.inference_mode():
        assert leakage(z.clone(), s.clone(), **options) == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert leakage(z, s, **options) == expected
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", ATTACKERS)
@pytest.mark.parametrize("value", [1e4, 1e12, -1e300])
def test_a_single_outlier_hides_no_leak(kind: str, value: float) -> None:
    z, s = correlated(1000)
    clean = leakage(z, s > 0, attackers=[kind], epochs=3)
    z = z.double()
    z[3, 0] = value
    found = leakage(z, s > 0, attackers=[kind], epochs=3)
    assert abs(found.nats - clean.nats) < 2 * clean.standard_error


def test_given_test_rows_are_the_test_rows() -> None:
    z, s = correlated(800)
    other, others = correlated(333, seed=9)
    found = leakage(z, s, test=(other.numpy(), others), attackers=FAST)
    assert found.test_rows == 333
    assert leakage(z, s, test=0.5, attackers=FAST).test_rows == 400


def test_more_columns_than_rows_and_constant_columns_are_allowed() -> None:
    s = normal(120) > 0
    z = torch.cat([normal(120, 200, seed=1), torch.ones(120, 1), 3.0 * s[:, None]], 1)
    found = leakage(z, s, epochs=2)
    assert math.isfinite(found.nats) and found.nats > 0.5


def test_constant_codes_leak_nothing() -> None:
    found = leakage(torch.ones(200, 3), normal(200) > 0, epochs=1)
    assert found.nats == 0 and found.accuracy_above_chance == 0


def test_a_class_that_only_the_test_rows_have_gives_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_warnings, "_given", set())
    z, s = correlated(600)
    label = (s > 0).long()
    other = label.clone()
    other[0] = 2
    with pytest.warns(MigeWarning, match=r"s does not have, \[2\] in 1 of 600 test rows"):
        found = leakage(z, label, test=(z, other), attackers=FAST, epochs=1)
    assert math.isfinite(found.nats)


@pytest.mark.parametrize("count", [70, 200])
def test_few_rows_in_16_bins_are_possible(count: int) -> None:
    z, s = correlated(count)
    assert math.isfinite(leakage(z, s, epochs=1).nats)


def test_classes_of_one_row_are_possible_and_do_not_hide_the_others() -> None:
    z, s = correlated(600)
    label = (s > 0).long()
    label[:3] = torch.tensor([2, 3, 4])
    for seed in range(3):  # the rows are fitted to, validation rows or test rows
        assert leakage(z, label, attackers=FAST, seed=seed).nats > 0.1
    rare = torch.arange(600) < 2
    assert math.isfinite(leakage(z, rare, test=(z, s > 0), attackers=FAST).nats)


def test_the_result_prints_the_strongest_attacker_and_all_others() -> None:
    text = str(leakage(*correlated(400), attackers=FAST))
    assert len(text.splitlines()) == 3
    assert "nats of at most 2.7" in text and "R² 0." in text and "boosted trees" in text


def test_no_bar_is_shown_without_a_terminal_or_if_it_is_switched_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tqdm

    z, s = correlated(400)
    leakage(z, s, attackers=["neighbors"])
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(tqdm, "tqdm", None)  # switched off, tqdm is not used
    leakage(z, s, attackers=["neighbors"], progress=False)
    with pytest.raises(TypeError):
        leakage(z, s, attackers=["neighbors"])


Z, S = correlated(200)
NAN = torch.full_like(S, math.nan)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((Z, S[:9]), {}, ValueError, r"s must have the 200 rows of z, got 9 rows"),
        ((Z[:, 0], S), {}, ValueError, r"z must have shape \(N, d\) with d >= 1, got \(200,\)"),
        ((Z, S[:, None, None]), {}, ValueError, r"s must have shape \(N,\) or \(N, k\), got"),
        ((Z, torch.zeros(200, 2).bool()), {}, ValueError, r"\(N,\) if s is categorical"),
        ((Z, NAN), {}, ValueError, "s must be finite, got 200 values"),
        ((Z / 0, S), {}, ValueError, "z must be finite"),
        ((Z, S * 0), {}, ValueError, r"s must have at least two values in the training rows"),
        ((Z, S > 99), {}, ValueError, r"s must have at least two values.* got only 0"),
        ((Z, (S > 0).float()), {}, ValueError, "got 2 floating-point values: pass integ"),
        ((Z, torch.arange(200)), {}, ValueError, "at least 5 training rows per class on average"),
        ((Z[:40], S[:40]), {}, ValueError, "z must have at least 50 training rows, got 30"),
        ((Z[:70], S[:70]), {"test": 0.1}, ValueError, "z must have at least 10 test rows, got 7"),
        ((Z, ["a"] * 200), {}, TypeError, "s must be an array or tensor of numbers, got dtype <U1"),
        ((Z * 1j, S), {}, TypeError, "z must be a dense tensor of real numbers"),
        ((Z, S), {"test": 1.5}, ValueError, "test must be a fraction between 0 and 1"),
        ((Z, S), {"test": Z}, TypeError, "test must be a fraction between 0 and 1, or"),
        ((Z, S), {"test": (Z[:, :1], S)}, ValueError, "test z must have the 2 columns of z, got 1"),
        ((Z, S), {"test": (Z, S[:9])}, ValueError, "test s must have the 200 rows of test z"),
        ((Z, S), {"test": (Z, S > 0)}, ValueError, "continuous with 1 column, got categorical"),
        ((Z, S > 0), {"test": (Z, S > 9)}, ValueError, "two values in the test rows"),
        (
            (Z, S > 0),
            {"test": (Z, (S > 0) + 5)},
            ValueError,
            r"of s, got \[5, 6\] in 200",
        ),
        ((Z, S), {"test": (Z,)}, TypeError, r"or \(z, s\), got \(tensor\(.{0,40}$"),
        (([[1, 2], [3]], S), {}, ValueError, "z must be an array or tensor of numbers: setting"),
        ((Z, S), {"bins": 12}, ValueError, "bins must be a power of two, at least 2, got 12"),
        (
            (Z, S),
            {"attackers": ["magic"]},
            ValueError,
            "attackers must be a list with at least one of",
        ),
        (
            (Z, S),
            {"attackers": "trees"},
            ValueError,
            "attackers must be a list with at least one of",
        ),
        (
            (Z, S),
            {"attackers": 3},
            ValueError,
            "attackers must be a list with at least one of .* got 3",
        ),
        ((Z, S), {"epochs": 0}, ValueError, "epochs must be a positive integer"),
        ((Z, S), {"seed": -1}, ValueError, r"seed must be an integer from 0 to 2\*\*63"),
        ((Z, S), {"seed": 2**64}, ValueError, "seed must be an integer from 0 to"),
        (([z.requires_grad_() for z in Z.clone()], S), {}, ValueError, "z must be an array or ten"),
        ((Z, S), {"progress": 1}, TypeError, "progress must be True or False"),
    ],
)
def test_mistakes_are_named(
    arguments: tuple[Any, Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        leakage(*arguments, **options)


def test_numbers_of_numpy_are_numbers() -> None:
    options: dict[str, Any] = {"test": 0.25, "seed": 3}
    of_numpy: dict[str, Any] = {"test": np.float32(0.25), "seed": np.int64(3)}
    expected = leakage(Z, S, attackers=FAST, **options)
    assert leakage(Z, S, attackers=FAST, **of_numpy) == expected
    assert leakage(Z, S, attackers=FAST, seed=2**63 - 1) != expected


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_leakage, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs scikit-learn and tqdm, the extra `audit`"):
        leakage(Z, S)
    found = leakage(Z, S, attackers=["neighbors"], progress=False)  # needs neither package
    assert math.isfinite(found.nats)


# --- bins ----------------------------------------------------------------------------------------


def test_bins_have_equal_probability_and_are_intervals_or_arcs() -> None:
    u = torch.rand(4096, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    angle = 2 * math.pi * u
    for s in (u, torch.cat([angle.cos(), angle.sin()], 1)):
        label, same, count = _inputs.binned(s, s, 16)
        assert count == 16 and torch.equal(label, same)
        assert (label.bincount() == 256).all()
        ordered = label[u[:, 0].argsort()]
        changes = int((ordered.diff() != 0).sum())
        assert changes <= 16  # an interval or arc per bin; an arc may contain the angle 0


def test_bins_of_a_grid_are_fewer_where_values_repeat() -> None:
    s = torch.arange(20, dtype=torch.float64).repeat_interleave(10)[:, None]
    s[100:] = 20.0
    label, _, count = _inputs.binned(s, s, 16)
    assert count == len(label.unique()) < 16
