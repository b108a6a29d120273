"""Bounds on mutual information: values, gradients, stability and errors."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mige_ext.bounds import (
    JointCritic,
    donsker_varadhan,
    infonce,
    jsd,
    mine,
    mine_f,
    split_pairs,
)

PairBound = Callable[[Tensor, Tensor], Tensor]


def mine_value(joint: Tensor, marginal: Tensor) -> Tensor:
    return mine(joint, marginal)[0]


def jsd_information(joint: Tensor, marginal: Tensor) -> Tensor:
    return jsd(joint, marginal, report="information")


PAIR_BOUNDS: list[PairBound] = [donsker_varadhan, mine_value, mine_f, jsd, jsd_information]


def scores(*shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def two_point_problem(shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """The log-ratios of joint pairs from (3/4, 1/4) and of marginal pairs from (1/4, 3/4)."""
    log_ratio = torch.tensor([3.0, 1 / 3], dtype=torch.float64).log() + shift
    return log_ratio[[0, 0, 0, 1]], log_ratio[[0, 1, 1, 1]]


KL = 0.5 * math.log(3)
JENSEN_SHANNON = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


# Values


@pytest.mark.parametrize(
    ("bound", "shift", "expected"),
    [
        (donsker_varadhan, 0.0, KL),
        (donsker_varadhan, 7.0, KL),
        (mine_value, 0.0, KL),
        (mine_f, 1.0, KL),
        (jsd, 0.0, 2 * JENSEN_SHANNON - math.log(4)),
        (jsd_information, 0.0, KL),
    ],
)
def test_bound_is_tight_at_its_optimal_critic(
    bound: PairBound, shift: float, expected: float
) -> None:
    assert bound(*two_point_problem(shift)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("bound", "shift"), [(donsker_varadhan, 0.0), (mine_value, 0.0), (mine_f, 1.0), (jsd, 0.0)]
)
def test_optimal_critic_maximizes_the_bound(bound: PairBound, shift: float) -> None:
    joint, marginal = two_point_problem(shift)
    best = bound(joint, marginal)
    for step in (-0.3, 0.3):
        # Changes the critic at one of the two points, in all pairs with this point.
        assert bound(joint + step * (joint > 1), marginal + step * (marginal > 1)) < best


@pytest.mark.parametrize("bound", [donsker_varadhan, mine_value, mine_f, jsd_information])
def test_bound_at_the_log_ratio_of_gaussians_is_their_information(bound: PairBound) -> None:
    dim, rho, pairs = 2, 0.6, 20_000
    x, z, other = torch.randn(
        3, pairs, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    z = rho * x + math.sqrt(1 - rho**2) * z

    def log_ratio(x: Tensor, z: Tensor) -> Tensor:
        quadratic = (x * z * rho - (x**2 + z**2) * rho**2 / 2).sum(-1) / (1 - rho**2)
        return quadratic - dim / 2 * math.log(1 - rho**2)

    joint, marginal = log_ratio(x, z), log_ratio(x, other)
    shift = 1.0 if bound is mine_f else 0.0
    truth = -dim / 2 * math.log(1 - rho**2)
    standard_error = math.hypot(joint.std() / pairs**0.5, marginal.exp().std() / pairs**0.5)
    assert bound(joint + shift, marginal + shift).item() == pytest.approx(
        truth, abs=4 * standard_error
    )


def test_infonce_is_zero_for_a_blind_critic_and_log_batch_for_a_perfect_one() -> None:
    blind = scores(5, 1).expand(5, 5)
    assert infonce(blind).item() == pytest.approx(0, abs=1e-12)
    assert infonce(100 * torch.eye(5)).item() == pytest.approx(math.log(5), rel=1e-6)


def test_infonce_is_the_cross_entropy_of_picking_the_partner_of_each_x() -> None:
    matrix = scores(6, 6)
    loss = nn.functional.cross_entropy(matrix, torch.arange(6))
    torch.testing.assert_close(infonce(matrix), math.log(6) - loss)


def test_split_pairs_separates_the_diagonal_from_the_rest() -> None:
    matrix = scores(3, 4, 4)
    joint, marginal = split_pairs(matrix)
    off_diagonal = ~torch.eye(4, dtype=torch.bool)
    assert torch.equal(joint, torch.stack([m.diagonal() for m in matrix]))
    assert torch.equal(marginal, torch.stack([m[off_diagonal] for m in matrix]))


# The gradient of MINE


def gradients(bound: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(bound, inputs)


def test_mine_value_is_that_of_donsker_varadhan_whatever_the_average() -> None:
    joint, marginal = scores(8), scores(20)
    value, _ = mine(joint, marginal, average=torch.tensor(3.0, dtype=torch.float64))
    assert value == donsker_varadhan(joint, marginal)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_mine_bias_corrected_gradient_equals_plain_gradient_when_the_average_is_exact(
    decay: float,
) -> None:
    joint, marginal = scores(8).requires_grad_(), scores(20).requires_grad_()
    exact = marginal.detach().exp().mean().log()
    value, average = mine(joint, marginal, exact, decay)
    torch.testing.assert_close(average, exact)
    plain = gradients(donsker_varadhan(joint, marginal), joint, marginal)
    torch.testing.assert_close(gradients(value, joint, marginal), plain)


def test_mine_gradient_divides_by_the_moving_average() -> None:
    joint, marginal = scores(8).requires_grad_(), scores(20).requires_grad_()
    old, decay = 2.5, 0.9
    value, average = mine(joint, marginal, torch.tensor(old, dtype=torch.float64).log(), decay)
    partition = decay * old + (1 - decay) * marginal.detach().exp().mean()
    torch.testing.assert_close(average.exp(), partition)
    to_joint, to_marginal = gradients(value, joint, marginal)
    torch.testing.assert_close(to_joint, torch.full_like(joint, 1 / 8))
    torch.testing.assert_close(to_marginal, -marginal.detach().exp() / partition / 20)


def test_mine_gradient_is_unbiased_on_small_batches_where_the_plain_gradient_is_not() -> None:
    batches, size = 20_000, 4
    population = scores(batches, size, scale=1.5)
    slope = torch.ones(batches, dtype=torch.float64, requires_grad=True)
    joint = torch.zeros_like(population)
    # For a normal T, E e^(sT) = e^(s²σ²/2). The gradient of −log E e^(sT) in s is −σ² at s = 1.
    exact = torch.full((batches,), 1.5**2 / 2, dtype=torch.float64)
    (plain,) = gradients(donsker_varadhan(joint, slope[:, None] * population).sum(), slope)
    # With decay near 1 the batch itself has no weight in the average.
    value, _ = mine(joint, slope[:, None] * population, exact, 1 - 1e-9)
    (corrected,) = gradients(value.sum(), slope)
    error = (corrected.std() / batches**0.5).item()
    assert abs(corrected.mean().item() + 1.5**2) < 4 * error
    assert abs(plain.mean().item() + 1.5**2) > 20 * error


# Stability


@pytest.mark.parametrize("bound", PAIR_BOUNDS)
@pytest.mark.parametrize("size", [-1e4, 60.0, 1e4])
def test_bound_and_gradient_stay_finite_in_float32_for_huge_scores(
    bound: PairBound, size: float
) -> None:
    joint = (size + torch.randn(8)).requires_grad_()
    marginal = (size + torch.randn(20)).requires_grad_()
    value = bound(joint, marginal)
    value.backward()
    for tensor in (value, joint.grad, marginal.grad):
        assert tensor is not None and tensor.isfinite().all()
        assert tensor.square().isfinite().all() or tensor is value


def test_mine_gradient_weights_are_bounded_when_scores_jump() -> None:
    marginal = torch.full((10,), 500.0, requires_grad=True)
    value, _ = mine(torch.zeros(10), marginal, average=torch.tensor(0.0), decay=0.9)
    (gradient,) = gradients(value, marginal)
    assert gradient.abs().sum() <= 10 * (1 + 1e-5)


def test_mine_f_is_exact_below_the_continuation_and_continuous_at_it() -> None:
    cap = 0.5 * math.log(torch.finfo(torch.float32).max)

    def exponential(exponent: float) -> float:
        return -mine_f(torch.zeros(2), torch.full((2,), 1 + exponent)).item()

    assert exponential(40.0) == pytest.approx(math.exp(40), rel=1e-4)
    assert exponential(cap + 1e-3) == pytest.approx(exponential(cap - 1e-3), rel=3e-3)
    assert exponential(cap + 1) == pytest.approx(2 * math.exp(cap), rel=1e-4)


# Gradients and batches


@pytest.mark.parametrize("bound", [donsker_varadhan, mine_f, jsd])
def test_pair_bound_passes_gradcheck(bound: PairBound) -> None:
    inputs = scores(2, 4).requires_grad_(), scores(2, 6).requires_grad_()
    assert torch.autograd.gradcheck(bound, inputs)


def test_infonce_passes_gradcheck() -> None:
    assert torch.autograd.gradcheck(infonce, scores(2, 4, 4).requires_grad_())


def test_jsd_that_reports_information_keeps_its_own_gradient() -> None:
    joint, marginal = scores(8).requires_grad_(), scores(20).requires_grad_()
    reported = gradients(jsd_information(joint, marginal), joint, marginal)
    torch.testing.assert_close(reported, gradients(jsd(joint, marginal), joint, marginal))


@pytest.mark.parametrize("bound", PAIR_BOUNDS)
def test_pair_bound_keeps_leading_dimensions(bound: PairBound) -> None:
    joint, marginal = scores(2, 3, 8), scores(2, 3, 20)
    one_by_one = [bound(joint[i, j], marginal[i, j]) for i in range(2) for j in range(3)]
    torch.testing.assert_close(bound(joint, marginal), torch.stack(one_by_one).view(2, 3))


def test_infonce_keeps_leading_dimensions() -> None:
    matrix = scores(3, 4, 4)
    torch.testing.assert_close(infonce(matrix), torch.stack([infonce(m) for m in matrix]))


@pytest.mark.parametrize("bound", PAIR_BOUNDS)
def test_pair_bound_compiles_without_graph_breaks(bound: PairBound) -> None:
    joint, marginal = scores(8), scores(20)
    compiled = torch.compile(bound, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(joint, marginal), bound(joint, marginal))


# Training


def test_mine_learns_the_information_of_a_gaussian() -> None:
    torch.manual_seed(0)
    rho = 0.9
    critic, average, values = JointCritic(1, 1, 16), None, []
    adam = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for _ in range(250):
        x, noise = torch.randn(2, 64, 1)
        matrix = critic(x[:, None], (rho * x + math.sqrt(1 - rho**2) * noise)[None, :])
        value, average = mine(*split_pairs(matrix), average)
        adam.zero_grad()
        (-value).backward()
        adam.step()
        values.append(value.item())
    assert sum(values[-50:]) / 50 == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.1)


# Errors


@pytest.mark.parametrize("bound", PAIR_BOUNDS)
@pytest.mark.parametrize(
    ("joint", "marginal", "error", "message"),
    [
        (torch.zeros(()), torch.zeros(4), ValueError, r"joint must have shape .* got \(\)"),
        (torch.zeros(1), torch.zeros(4), ValueError, r"joint must .* B >= 2, got \(1,\)"),
        (torch.zeros(4), torch.zeros(0), ValueError, r"marginal must .* B >= 2, got \(0,\)"),
        (torch.zeros(2, 4), torch.zeros(3, 4), ValueError, r"marginal must .*\(2,\), got \(3,\)"),
        (torch.tensor([0, math.nan]), torch.zeros(4), ValueError, "joint must be finite, got 1"),
        (torch.zeros(4), torch.tensor([0, math.inf]), ValueError, "marginal must be finite, got 1"),
        (torch.zeros(4).long(), torch.zeros(4), TypeError, "joint must .* torch.int64"),
        ([0.0, 1.0], torch.zeros(4), TypeError, "joint must be a torch.Tensor, got list"),
    ],
)
def test_pair_bound_rejects_bad_scores(
    bound: PairBound, joint: Tensor, marginal: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        bound(joint, marginal)


@pytest.mark.parametrize("function", [infonce, split_pairs])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (1, 1), (0, 0)])
def test_score_matrix_must_be_square(
    function: Callable[[Tensor], object], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"scores must have shape \(\.\.\., B, B\) with B >= 2"):
        function(torch.zeros(shape))


def test_infonce_rejects_values_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="scores must be finite, got 4"):
        infonce(torch.full((2, 2), math.nan))


@pytest.mark.parametrize("decay", [-0.1, 1.0, "a", math.nan])
def test_mine_rejects_a_decay_outside_of_the_unit_interval(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay must be in \[0, 1\), got {decay!r}"):
        mine(torch.zeros(4), torch.zeros(4), decay=decay)


def test_mine_rejects_an_average_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"average must have shape \(2,\), got \(3,\)"):
        mine(torch.zeros(2, 4), torch.zeros(2, 4), average=torch.zeros(3))


def test_mine_rejects_an_average_that_is_no_finite_tensor() -> None:
    with pytest.raises(TypeError, match=r"average must be a torch.Tensor, got float"):
        mine(torch.zeros(4), torch.zeros(4), average=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="average must be finite, got 1"):
        mine(torch.zeros(4), torch.zeros(4), average=torch.tensor(math.nan))


def test_jsd_rejects_an_unknown_report() -> None:
    with pytest.raises(ValueError, match='report must be "jsd" or "information", got \'mi\''):
        jsd(torch.zeros(4), torch.zeros(4), report="mi")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_average_of_mine_moves_in_half_precision(dtype: torch.dtype) -> None:
    scores = torch.ones(8, dtype=dtype)
    average = mine(5 * scores, 5 * scores)[1]
    for _ in range(1000):
        average = mine(scores, scores, average)[1]
    assert average == pytest.approx(1, abs=0.01)
