"""Values of information and entropy in nats: closed forms, invariances, several processes."""

import math
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from scipy import special, stats
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from mige_ext import estimate_entropy, estimate_mutual_information
from mige_ext.values.kernel import negentropy
from mige_ext.values.neighbors import neighbor_entropy, neighbor_information
from mige_ext.values.ranks import ranked, student_quantile
from tests.information.pairs import ERRORS, curved, gaussian_pair, near
from tests.support.inputs import normal


def two_classes(m: int, d: int, shift: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    s = torch.arange(m) % 2
    z = normal(m, d, seed=seed)
    z[:, 0] += shift * s
    return s, z


def of_normal_scores(x: Tensor, z: Tensor) -> Tensor:
    """``½ (log|R_x| + log|R_z| − log|R_xz|)`` of the normal scores, minus its mean at I = 0."""

    def log_determinant(pairs: Tensor) -> Tensor:
        m, d = pairs.shape
        ranks = torch.from_numpy(stats.rankdata(pairs.numpy(), axis=0))
        scores = torch.special.ndtri((ranks - 0.5) / m)
        half = (m - 1) / 2
        bias = sum(special.digamma(half - i / 2) - math.log(half) for i in range(d))
        return torch.logdet(torch.corrcoef(scores.mT).reshape(d, d)) - bias

    of_x, of_z, of_pairs = map(log_determinant, (x, z, torch.cat((x, z), 1)))
    return (of_x + of_z - of_pairs) / 2


# --- closed forms ---------------------------------------------------------------------------------


def test_the_entropy_of_few_samples_has_no_outliers() -> None:
    def of_exponential(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        z = -torch.rand(100, 1, generator=generator, dtype=torch.float64).log()
        return estimate_entropy(z).value

    errors = torch.stack([of_exponential(seed) - 1 for seed in range(20)])
    assert errors.abs().max() < 0.6


@pytest.mark.parametrize("d", [1, 2, 5, 20])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_gaussian_pairs(d: int, rho: float) -> None:
    truth = -d / 2 * math.log(1 - rho**2)
    x, z = gaussian_pair(400, d, rho)
    estimate = estimate_mutual_information(x, z)
    # The error of independent pairs is of the order 1/M, and their standard error can be smaller.
    assert near(estimate, truth, slack=1 / 400)
    assert torch.allclose(estimate.gaussian, of_normal_scores(x, z), rtol=1e-9, atol=1e-12)
    assert estimate.value.dtype == torch.float64 and not estimate.value.requires_grad
    assert estimate.samples_used == 400 and estimate.parts == 1


def test_the_gaussian_part_is_not_biased() -> None:
    values = [estimate_mutual_information(*gaussian_pair(60, 8, 0.6, seed)) for seed in range(40)]
    found = torch.stack([v.gaussian for v in values])
    truth = -4 * math.log(1 - 0.36)
    assert (found.mean() - truth).abs() < ERRORS * found.std() / 40**0.5
    plain = -torch.stack(
        [
            torch.logdet(torch.corrcoef(torch.cat(gaussian_pair(60, 8, 0.6, seed), 1).mT)) / 2
            for seed in range(40)
        ]
    ).mean()
    assert plain - truth > 0.5  # the formula without a correction is too large


@pytest.mark.parametrize("d", [1, 2, 4, 8, 16, 32])
def test_independent_samples_are_near_zero(d: int) -> None:
    estimate = estimate_mutual_information(normal(500, d), normal(500, d, seed=1))
    assert estimate.value.abs() < 0.02 + 2 * estimate.standard_error


def test_student_samples_without_correlation() -> None:
    radius = torch.from_numpy(stats.chi2(2).rvs(600, random_state=0)).sqrt().unsqueeze(1)
    x, z = normal(600, 3) / radius, normal(600, 3, seed=1) / radius
    estimate = estimate_mutual_information(x, z)
    assert estimate.methods == ("student",)
    assert near(estimate, 0.2909)  # Czyż et al., "Beyond normal", student-identity-3-3-2
    assert estimate.gaussian.abs() < 0.1


def test_a_curved_dependence_without_correlation() -> None:
    x = normal(600, 1)
    estimate = estimate_mutual_information(x, x.square() + 0.3 * normal(600, 1, seed=1))
    assert estimate.gaussian.abs() < 0.05 and estimate.value > 0.5


def test_uniform_noise() -> None:
    x = torch.rand(600, 1, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(600, 1, generator=torch.Generator().manual_seed(1)) - 0.5
    estimate = estimate_mutual_information(x, x + 0.5 * noise)
    assert near(estimate, math.log(2) + 0.25, slack=0.03)  # h(x + noise) − h(noise)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("d", [1, 3, 10])
def test_gaussian_entropy(d: int, scale: float) -> None:
    z = scale * normal(400, d) @ torch.linalg.qr(normal(d, d, seed=5)).Q
    truth = d / 2 * math.log(2 * math.pi * math.e) + d * math.log(scale)
    assert near(estimate_entropy(z), truth)


def test_entropy_of_other_densities() -> None:
    uniform = torch.rand(800, 2, generator=torch.Generator().manual_seed(0))
    assert near(estimate_entropy(uniform), 0.0, slack=0.03)
    modes = normal(800, 2).sign() * 5 + normal(800, 2, seed=1)
    estimate = estimate_entropy(modes)
    assert near(estimate, math.log(2 * math.pi * math.e) + 2 * math.log(2), slack=0.03)
    assert estimate.gaussian > estimate.value + 1


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_two_shifted_classes(dtype: torch.dtype) -> None:
    s, z = two_classes(600, 4, 2.0)
    points = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    density = torch.exp(-points.square() / 2) / (2 * math.pi) ** 0.5
    posterior = torch.nn.functional.logsigmoid(-2 * (points - 1))  # of s = 0 where z ~ N(0, 1)
    truth = math.log(2) + float(torch.trapezoid(density * posterior, points))
    for estimate in (
        estimate_mutual_information(s.to(dtype), z),
        estimate_mutual_information(z, s.to(dtype)),
    ):
        assert near(estimate, truth)


def test_classes_that_only_neighbors_tell_apart() -> None:
    signs = normal(800, 2).sign()
    z = 2.5 * signs + normal(800, 2, seed=1)
    estimate = estimate_mutual_information(signs.prod(1) > 0, z)
    assert estimate.methods == ("neighbors",)
    assert 0.5 < estimate.value < math.log(2) + 0.05
    assert estimate.gaussian < 0.05


def test_information_given_a_category() -> None:
    y = torch.arange(800) % 2
    x, noise = normal(800, 2), normal(800, 2, seed=1)
    z = torch.where(y.unsqueeze(1) == 1, 0.8 * x + 0.6 * noise, noise) + 5 * y.unsqueeze(1)
    estimate = estimate_mutual_information(x, z, given=y)
    assert near(estimate, -math.log(1 - 0.64) / 2)
    s = (x[:, 0] > 0).long()
    assert near(estimate_mutual_information(s, normal(800, 2, seed=2) + 5 * y[:, None], given=y), 0)


# --- the parts of the estimate --------------------------------------------------------------------


@pytest.mark.parametrize("nu", [1.0, 1.5, 4.0, 32.0])
def test_student_quantiles(nu: float) -> None:
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    expected = torch.from_numpy(stats.t.ppf(u.numpy(), nu))
    assert torch.allclose(student_quantile(u, nu), expected, rtol=1e-4, atol=1e-6)


def test_neighbor_estimates_are_those_of_a_plain_loop() -> None:
    x, z = gaussian_pair(60, 2, 0.7)
    terms = []
    for i in range(60):
        of_x, of_z = (x - x[i]).abs().amax(1), (z - z[i]).abs().amax(1)
        radius = torch.maximum(of_x, of_z).sort().values[5]
        terms.append(sum(special.digamma(int((of < radius).sum())) for of in (of_x, of_z)))
    expected = special.digamma(5) + special.digamma(60) - sum(terms) / 60
    assert float(neighbor_information(x, z).value) == pytest.approx(expected, abs=1e-12)
    radii = torch.stack([(x - x[i]).norm(dim=1).sort().values[5] for i in range(60)])
    entropy = special.digamma(60) - special.digamma(5) + math.log(math.pi)
    entropy += 2 * float(radii.log().mean())
    assert float(neighbor_entropy(x).value) == pytest.approx(entropy, abs=1e-9)


def test_the_terms_of_the_negentropy_have_its_mean() -> None:
    z = normal(300, 2).sign() + 0.3 * normal(300, 2, seed=1)
    white = (z - z.mean(0)) / z.std(0)
    found = negentropy(white, torch.Generator().manual_seed(0))
    assert found.value > 0.5
    assert float(found.terms.mean()) == pytest.approx(float(found.value), rel=0.02)


def test_equal_values_get_ranks_in_random_order() -> None:
    x = torch.tensor([[0.0], [1.0], [0.0], [0.0], [2.0], [0.0]])
    found = {tuple(ranked(x, torch.Generator().manual_seed(s))[:, 0].tolist()) for s in range(20)}
    assert len(found) > 5
    for ranks in found:
        assert sorted(ranks) == pytest.approx([(i + 0.5) / 6 for i in range(6)])
        assert ranks[1] == pytest.approx(4.5 / 6) and ranks[4] == pytest.approx(5.5 / 6)


# --- invariances ----------------------------------------------------------------------------------


def test_increasing_functions_of_columns_change_nothing() -> None:
    x, z = curved()
    plain = estimate_mutual_information(x, z)
    other = estimate_mutual_information(x.exp(), 3 * z**3 - 5)
    assert plain.value == other.value and plain.standard_error == other.standard_error


@pytest.mark.parametrize("category", [False, True])
def test_the_order_of_samples_changes_nothing(category: bool) -> None:
    x, z = curved()
    x = (x[:, 0] > 0) if category else x
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    plain, other = (estimate_mutual_information(*pair) for pair in ((x, z), (x[order], z[order])))
    assert plain.value == other.value
    assert estimate_entropy(z).value == estimate_entropy(z[order]).value


def test_groups_have_the_values_of_single_calls() -> None:
    x, z = (t.reshape(2, 3, 50, 2) for t in curved(300))
    s = x[..., 0] > 0
    for function in (
        lambda i: estimate_mutual_information(x[i], z[i]),
        lambda i: estimate_mutual_information(s[i], z[i]),
        lambda i: estimate_mutual_information(x[i], z[i], given=s[i]),
        lambda i: estimate_entropy(z[i]),
    ):
        together = function(())
        assert together.value.shape == (2, 3) and len(together.methods) == 6
        for i in range(2):
            for j in range(3):
                alone = function((i, j))
                assert alone.value == together.value[i, j]
                assert alone.standard_error == together.standard_error[i, j]
                assert alone.methods == (together.methods[3 * i + j],)


def test_no_groups() -> None:
    estimate = estimate_mutual_information(torch.empty(0, 9, 2), torch.empty(0, 9, 2))
    assert estimate.value.shape == (0,) and estimate.methods == ()


def test_the_seed_determines_the_value_and_the_global_generator_is_not_used() -> None:
    x, z = curved()
    state = torch.random.get_rng_state()
    values = [estimate_mutual_information(x, z, seed=seed).value for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert values[0] == values[1] != values[2]


# --- many samples ---------------------------------------------------------------------------------


def test_many_samples_are_divided_into_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mige_ext.values.estimates.MOST_SAMPLES", 200)
    x, z = gaussian_pair(900, 2, 0.6)
    estimate = estimate_mutual_information(x, z)
    assert estimate.parts == 5 and estimate.samples_used == 900
    assert near(estimate, -math.log(1 - 0.36))
    one = estimate_mutual_information(x[:180], z[:180])
    assert estimate.standard_error == pytest.approx(float(one.standard_error) / 5**0.5, rel=0.25)
    s, shifted = two_classes(900, 2, 0.0)
    assert near(estimate_mutual_information(s, shifted), 0.0)
    assert near(estimate_entropy(x), math.log(2 * math.pi * math.e))


# --- several processes ----------------------------------------------------------------------------


def _on_rank(rank: int, address: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        x, z = curved(90)
        s = x[:, 0] > 0
        rows = slice(0, 50) if rank == 0 else slice(50, 90)
        group = dist.group.WORLD
        for here, everywhere in (
            (
                estimate_mutual_information(x[rows], z[rows], group=group),
                estimate_mutual_information(x, z),
            ),
            (
                estimate_mutual_information(x[rows], z[rows], given=s[rows], group=group),
                estimate_mutual_information(x, z, given=s),
            ),
            (
                estimate_mutual_information(s[rows], z[rows], group=group),
                estimate_mutual_information(s, z),
            ),
            (estimate_entropy(z[rows], group=group), estimate_entropy(z)),
        ):
            assert here.value == everywhere.value and here.samples_used == 90
        with pytest.raises(ValueError, match="finite"):
            estimate_entropy(z[rows] / rank, group=group)
    finally:
        dist.destroy_process_group()


@pytest.mark.thorough  # because two processes load torch
def test_ranks_of_a_group_have_the_value_of_all_samples(tmp_path: Any) -> None:
    spawn(_on_rank, (f"file://{tmp_path}/store",), nprocs=2)


@pytest.mark.parametrize("width", [1e-3, 1e-5])
def test_entropy_of_a_narrow_gaussian(width: float) -> None:
    x = normal(400, 2)
    z = torch.cat((x[:, :1], x[:, :1] + width * x[:, 1:]), 1)
    plain = estimate_entropy(x)
    assert float(estimate_entropy(z).value - plain.value) == pytest.approx(
        math.log(width), abs=1e-3
    )


@pytest.mark.parametrize("exponent", [200, -200])
def test_entropy_of_huge_and_tiny_samples(exponent: int) -> None:
    x = normal(200, 2)
    moved = estimate_entropy(10.0**exponent * x).value - estimate_entropy(x).value
    assert float(moved) == pytest.approx(2 * exponent * math.log(10))


def test_nearly_dependent_columns_have_a_large_value() -> None:
    for seed in range(6):
        x = normal(300, 3, seed=seed)
        z = x[:, :1] + 3e-4 * normal(300, 1, seed=seed + 10)
        assert estimate_mutual_information(x, z).value > 3


def test_values_do_not_depend_on_the_default_dtype() -> None:
    x, z, y = normal(90, 2), normal(90, 1, seed=1), torch.arange(90) % 3
    value = estimate_mutual_information(x, z, given=y).value
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        assert estimate_mutual_information(x, z, given=y).value == value
    finally:
        torch.set_default_dtype(before)
