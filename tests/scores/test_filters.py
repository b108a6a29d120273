"""The spectral filters: what they compute, how they relate, and what their fits can do."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import mige_ext as mige
from mige_ext import (
    IMQ,
    RBF,
    SSGE,
    Landweber,
    NuMethod,
    SpectralFilter,
    Stein,
    Tikhonov,
    _checks,
    reference,
)
from mige_ext.scores.kernel.gram import CurlFreeGram, gram_of
from mige_ext.scores.kernel.solvers import (
    conjugate_gradient_steps,
    conjugate_gradients,
    solve_shifted,
)
from tests.support.accuracy import assert_accurate, rounding, same_bits
from tests.support.inputs import for_each_dtype, normal

M, D = 30, 3
LAM, ETA = 1e-2, 0.1


@dataclass(frozen=True)
class Filter:
    """An estimator as a function of its keywords, and its g_λ(μ) for an (ascending) spectrum."""

    make: Callable[..., SpectralFilter]
    function: Callable[[Tensor], Tensor]
    cut_off: bool = False


FILTERS = {
    "cut-off": Filter(
        lambda **k: SSGE(rank=12, **k),
        lambda mu: torch.where(torch.arange(len(mu)) >= len(mu) - 12, 1 / mu, 0.0),
        cut_off=True,
    ),
    "tikhonov": Filter(lambda **k: Tikhonov(LAM, **k), lambda mu: 1 / (mu + LAM)),
    "stein": Filter(lambda **k: Stein(ETA, **k), lambda mu: 1 / (mu + ETA / M)),
    "landweber": Filter(
        lambda **k: Landweber(40, 0.7, **k), lambda mu: reference.landweber_filter(mu, 40, 0.7)
    ),
    "nu": Filter(lambda **k: NuMethod(6, 1.5, **k), lambda mu: reference.nu_filter(mu, 6, 1.5)),
}
for_each_filter = pytest.mark.parametrize("kind", FILTERS.values(), ids=FILTERS.keys())
for_each_kernel = pytest.mark.parametrize("kernel", [RBF(), IMQ()], ids=["RBF", "IMQ"])
for_each_value = pytest.mark.parametrize("curl_free", [False, True], ids=["diagonal", "curl-free"])


def from_matrices(kind: Filter, kernel: Any, curl_free: bool, x: Tensor, q: Any) -> Tensor:
    """The score from the matrices as written, in the dtype of x."""
    function = kind.function
    if kind.cut_off and not curl_free:  # K = φ I has each eigenvalue D times

        def function(mu: Tensor) -> Tensor:
            return torch.where(torch.arange(len(mu)) >= len(mu) - 12 * D, 1 / mu, 0.0)

    return reference.filtered(
        function, x, q, kernel=type(kernel).__name__, curl_free=curl_free,
        bandwidth=reference.distance_quantile(x), cut_off=kind.cut_off,
    )  # fmt: skip


def spectrum(kernel: Any, curl_free: bool, x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of L, (Md,) ascending, and ζ, (M, d)."""
    sigma = reference.distance_quantile(x)
    k, divergence = reference.matrix_kernel(type(kernel).__name__, curl_free, x, x, sigma)
    n = x.numel()
    return torch.linalg.eigvalsh(k.transpose(1, 2).reshape(n, n) / len(x)), divergence.mean(1)


def relative(error: Tensor, size: Tensor) -> float:
    return (error.norm() / size.norm()).item()


def skewed(m: int = M, d: int = D, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Samples with unequal variances, away from 0, and no normal distribution."""
    x = normal(m, d, seed=seed) * torch.linspace(0.5, 2, d, dtype=torch.float64)
    return (x + 0.3 * x.square() + 1).to(dtype)


# --- what they compute ----------------------------------------------------------------------------


@for_each_filter
@for_each_kernel
@for_each_value
@for_each_dtype
def test_every_filter_is_that_of_the_matrices_as_written(
    kind: Filter, kernel: Any, curl_free: bool, dtype: torch.dtype
) -> None:
    x, q = skewed(dtype=dtype), 2 * normal(11, D, dtype=dtype, seed=1) + 1
    estimator = kind.make(kernel=kernel, curl_free=curl_free)
    fitted = estimator.fit(x)
    # What is added up: ζ times the largest g_λ, or, for a cut, which turns by rounding / gap,
    # times the inverse of the gap at the cut.
    mu, zeta = spectrum(kernel, curl_free, x.double())
    j = M * D - (12 if curl_free else 12 * D)
    gain = 1 / (mu[j] - mu[j - 1]) if kind.cut_off else kind.function(mu).max()
    for query, got in ((None, estimator.score(x)), (None, fitted.score()), (q, fitted.score(q))):
        wide = None if query is None else query.double()
        assert_accurate(
            got,
            from_matrices(kind, kernel, curl_free, x, query),
            from_matrices(kind, kernel, curl_free, x.double(), wide),
            terms=M * D,
            magnitude=zeta * gain,
        )


@for_each_kernel
@for_each_value
def test_stein_is_tikhonov_with_the_samples_counted(kernel: Any, curl_free: bool) -> None:
    x, q = skewed(), skewed(7, seed=1)
    options: Any = {"kernel": kernel, "curl_free": curl_free}
    stein, tikhonov = Stein(ETA, **options).fit(x), Tikhonov(ETA / M, **options).fit(x)
    assert torch.equal(stein.score(q), tikhonov.score(q))
    assert torch.equal(Stein(ETA, **options).score(x), Tikhonov(ETA / M, **options).score(x))


@for_each_value
def test_filters_of_one_strength_agree_and_none_is_the_pseudo_inverse(curl_free: bool) -> None:
    # λ -> 0, t -> ∞ and J -> rank all lead to −K⁺H; a wide kernel has little that is not reached.
    x = skewed(12)
    options: Any = {"kernel": IMQ(), "curl_free": curl_free, "bandwidth": 0.5}
    limit = SSGE(threshold=1.0, **options).score(x)
    weak: list[list[SpectralFilter]] = [
        [Tikhonov(lam, **options) for lam in (1e-2, 1e-4, 1e-6)],
        [Landweber(steps, **options) for steps in (10, 100, 2000)],
        [NuMethod(steps, **options) for steps in (3, 10, 100)],
    ]
    for filters in weak:
        errors = [relative(f.score(x) - limit, limit) for f in filters]
        assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 10


@for_each_value
def test_scores_converge_to_that_of_the_density(curl_free: bool) -> None:
    for make in (Tikhonov, Landweber, NuMethod, lambda **k: Stein(0.1, **k)):
        errors = []
        for m in (32, 256):
            x = normal(m, 2, seed=m)
            score = make(curl_free=curl_free).score(x)
            errors.append(relative(score + x, x))
        assert errors[1] < errors[0] / 1.5, errors


def test_ssge_with_the_default_kernel_is_the_native_operator_and_the_same_as_in_torch() -> None:
    x, q = skewed(), skewed(7, seed=1)

    class Gaussian(RBF):
        """The same φ, which the native path does not know."""

    native, plain = SSGE(rank=8), SSGE(rank=8, kernel=Gaussian())
    mu, zeta = spectrum(RBF(), False, x)
    bound = rounding(x.dtype, M) * zeta.norm() / mu[-8 * D] / (mu[-8 * D] - mu[-8 * D - 1])
    assert (native.score(x) - plain.score(x)).norm() <= bound
    assert (native.fit(x).score(q) - plain.fit(x).score(q)).norm() <= bound
    threshold = SSGE(threshold=0.95), SSGE(threshold=0.95, kernel=Gaussian())
    assert threshold[0].diagnose(x).rank == threshold[1].diagnose(x).rank


# --- energies -------------------------------------------------------------------------------------


@for_each_filter
@for_each_kernel
def test_the_score_is_the_gradient_of_the_energy(kind: Filter, kernel: Any) -> None:
    x, q = skewed(), skewed(7, seed=1)
    fitted = kind.make(kernel=kernel, curl_free=True, calibrate="stein").fit(x)
    h = torch.finfo(x.dtype).eps ** (1 / 3)  # where truncation and rounding of a difference meet
    slopes = [
        (fitted.energy(q + h * e) - fitted.energy(q - h * e)) / (2 * h)
        for e in torch.eye(D, dtype=x.dtype)
    ]
    error = (torch.stack(slopes, -1) - fitted.score(q)).abs().max()
    size = max(fitted.score(q).abs().max().item(), fitted.energy(q).abs().max().item())
    assert error <= 100 * h**2 * size


def test_the_energy_of_scaled_samples_is_the_same() -> None:
    x, q = skewed(), skewed(7, seed=1)
    fit = Tikhonov(curl_free=True).fit
    assert torch.equal(fit(x * 2.0**40).energy(q * 2.0**40), fit(x).energy(q))


def test_a_diagonal_kernel_has_no_energy() -> None:
    with pytest.raises(ValueError, match="energy needs a fit with curl_free=True"):
        Tikhonov().fit(skewed()).energy()


# --- kernels on points ----------------------------------------------------------------------------


@for_each_kernel
@for_each_value
def test_products_are_those_of_the_dense_matrix(kernel: Any, curl_free: bool) -> None:
    x, q, w = skewed(), skewed(7, seed=1), normal(2, M, D, seed=2)
    x, q = x.expand(2, M, D), q.expand(2, 7, D)
    gram = gram_of(kernel, curl_free, torch.tensor([1.0, 2.0]).double(), x, q)
    dense = gram.dense()
    expected = (dense @ w.flatten(1).unsqueeze(-1)).reshape(2, 7, D) if curl_free else dense @ w
    magnitude = dense.abs().sum(-1).max() * w.abs().max()
    error = (gram.product(w) - expected).abs().max()
    assert error <= rounding(x.dtype, M * D) * magnitude * (x.abs().max() ** 2)


@for_each_kernel
@for_each_value
def test_the_kernel_on_samples_has_norm_at_most_m(kernel: Any, curl_free: bool) -> None:
    # What makes λ and step sizes free of units, and a step of 1 safe.
    mu, _ = spectrum(kernel, curl_free, skewed())
    assert mu[0] >= -rounding(mu.dtype, M * D) and mu[-1] <= 1 + rounding(mu.dtype, M * D)


# --- solvers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1e-1, 1e-3, 1e-5])
@for_each_kernel
@for_each_dtype
def test_conjugate_gradients_solve_as_accurately_as_they_say(
    dtype: torch.dtype, kernel: Any, shift: float
) -> None:
    x = torch.stack((skewed(dtype=dtype), 3 * skewed(dtype=dtype, seed=1)))
    gram = CurlFreeGram(kernel, torch.tensor([1.5, 4.0], dtype=dtype), x)
    rhs = gram.source()
    got = conjugate_gradients(gram, shift, rhs)
    eye = torch.eye(M * D, dtype=torch.float64)
    matrix = gram.dense().double() / M + shift * eye
    expected = torch.linalg.solve(matrix, rhs.double().flatten(1).unsqueeze(-1)).reshape(rhs.shape)
    bound = torch.finfo(dtype).eps ** 0.75 + rounding(dtype, M * D) / shift
    assert relative(got.double() - expected, expected) <= bound
    if dtype == torch.float64:
        assert bound < 1e-9


def test_a_group_that_is_solved_stays_while_another_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    easy, hard = torch.zeros(M, D, dtype=torch.float64), skewed()
    sigma = torch.ones(2, dtype=torch.float64)
    gram = CurlFreeGram(RBF(), sigma, torch.stack((easy, hard)))
    early = conjugate_gradients(gram, 1e-2, gram.source())
    # Where looking at values would stall, all steps are taken.
    monkeypatch.setattr(_checks, "looking_is_free", lambda tensor: False)
    assert torch.equal(conjugate_gradients(gram, 1e-2, gram.source()), early)
    assert not early[0].any() and early.isfinite().all()


def test_steps_of_conjugate_gradients_grow_as_the_root_of_the_condition() -> None:
    few, many = (conjugate_gradient_steps(s, torch.float64) for s in (1e-2, 1e-4))
    assert 8 < many / few < 13  # 10, and the logarithm


def test_factorised_and_iterated_solutions_agree() -> None:
    x = skewed(24, 12)  # iterated for λ = 0.1, by a count of operations
    gram = CurlFreeGram(IMQ(), torch.tensor(5.0).double(), x)
    calls: list[int] = []

    class Counted(CurlFreeGram):
        def dense(self) -> Tensor:
            calls.append(1)
            return super().dense()

    counted = Counted(IMQ(), torch.tensor(5.0).double(), x)
    for shift, dense in ((0.5, 0), (1e-4, 1)):
        calls.clear()
        got = solve_shifted(counted, shift, gram.source())
        assert len(calls) == dense
        expected = conjugate_gradients(gram, shift, gram.source())
        assert relative(got - expected, expected) <= 2 * torch.finfo(x.dtype).eps ** 0.75


def test_a_lambda_below_rounding_is_refused_with_its_value() -> None:
    x = torch.cat((skewed(dtype=torch.float32),) * 4)
    with pytest.raises(ValueError, match=r"^lam .* must exceed .*float32, got 1e-12"):
        Tikhonov(1e-12, bandwidth=1e3).score(x)


# --- properties -----------------------------------------------------------------------------------


@for_each_filter
@for_each_kernel
@for_each_value
def test_scores_move_turn_scale_and_permute_with_the_samples(
    kind: Filter, kernel: Any, curl_free: bool
) -> None:
    x = skewed()
    estimator = kind.make(kernel=kernel, curl_free=curl_free, calibrate="stein")
    expected = estimator.score(x)
    mu, zeta = spectrum(kernel, curl_free, x)
    j = M * D - (12 if curl_free else 12 * D)
    gain = 1 / (mu[j] - mu[j - 1]) / mu[j] if kind.cut_off else kind.function(mu).max()
    bound = 10 * rounding(x.dtype, M * D) * float(gain * zeta.norm())  # at |x| up to 10 σ
    rotation, _ = torch.linalg.qr(normal(D, D, seed=7))
    order = torch.randperm(M)
    assert (estimator.score(x - 5) - expected).norm() <= bound
    assert (estimator.score(x @ rotation) - expected @ rotation).norm() <= bound
    assert (3 * estimator.score(3 * x) - expected).norm() <= bound
    assert (estimator.score(x[order]) - expected[order]).norm() <= bound
    assert (estimator.score(x.flip(1)) - expected.flip(1)).norm() <= bound
    for scale in (2.0**-100, 2.0**100):
        assert torch.equal(estimator.score(x * scale), expected / scale)
        small = x.float()
        assert torch.equal(estimator.score(small * scale), estimator.score(small) / scale)


@pytest.mark.parametrize("batch", [(3,), (2, 2), (0,), (2, 0)], ids=str)
@for_each_filter
@for_each_value
def test_leading_dimensions_are_groups(
    batch: tuple[int, ...], kind: Filter, curl_free: bool
) -> None:
    x = normal(*batch, M, D) * (1 + torch.arange(D))
    q = normal(*batch, 7, D, seed=1)
    estimator = kind.make(kernel=IMQ(), curl_free=curl_free, calibrate="stein")
    scores, fitted = estimator.score(x), estimator.fit(x)
    elsewhere, diagnostics = fitted.score(q), estimator.diagnose(x)
    assert scores.shape == x.shape and elsewhere.shape == q.shape
    for value in vars(diagnostics).values():
        assert value.shape == batch
    for index in torch.cartesian_prod(*(torch.arange(n) for n in batch)).reshape(-1, len(batch)):
        i = tuple(index.tolist())
        mu, zeta = spectrum(IMQ(), curl_free, x[i])
        j = M * D - (12 if curl_free else 12 * D)
        gain = 1 / (mu[j] - mu[j - 1]) / mu[j] if kind.cut_off else kind.function(mu).max()
        bound = rounding(x.dtype, M * D) * float(gain * zeta.norm())
        assert (scores[i] - estimator.score(x[i])).norm() <= bound
        assert (elsewhere[i] - estimator.fit(x[i]).score(q[i])).norm() <= bound


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
@for_each_filter
@for_each_value
@for_each_dtype
def test_equal_samples_have_score_zero_here_and_elsewhere(
    kind: Filter, curl_free: bool, value: float, dtype: torch.dtype
) -> None:
    x = torch.full((2, 13, D), value, dtype=dtype)
    x[1] = normal(13, D, dtype=dtype)
    for calibrate in (None, "stein"):
        estimator = kind.make(kernel=IMQ(), curl_free=curl_free, calibrate=calibrate)
        scores, fitted = estimator.score(x), estimator.fit(x)
        assert not scores[0].any() and scores[1].any()
        assert not fitted.score(normal(2, 5, D, dtype=dtype))[0].any()
        for diagnostic in vars(fitted.diagnostics).values():
            assert diagnostic[0] == 0 and diagnostic[1] > 0


@for_each_filter
@for_each_value
def test_an_offset_costs_no_accuracy(kind: Filter, curl_free: bool) -> None:
    shift = 2.0**20
    x = (skewed(dtype=torch.float32) + shift) - shift  # what is left of the digits
    estimator = kind.make(curl_free=curl_free, kernel=IMQ(), calibrate="stein")
    assert torch.equal(estimator.score(x + shift), estimator.score(x))
    q = x.narrow(0, 0, 5) + 0.25
    assert torch.equal(estimator.fit(x + shift).score(q + shift), estimator.fit(x).score(q))


@for_each_filter
@for_each_value
def test_stein_calibration_makes_the_identity_exact(kind: Filter, curl_free: bool) -> None:
    x = skewed()
    plain, calibrated = (kind.make(curl_free=curl_free, calibrate=c) for c in (None, "stein"))
    factor = plain.diagnose(x).calibration
    for a, b in ((plain.score(x), calibrated.score(x)),
                 (plain.fit(x).score(x + 1), calibrated.fit(x).score(x + 1))):  # fmt: skip
        assert relative(b * factor - a, a) <= rounding(x.dtype, x.numel()) / LAM


# --- settings and fits ----------------------------------------------------------------------------


@for_each_filter
def test_settings_are_values(kind: Filter) -> None:
    a, b = kind.make(kernel=IMQ()), kind.make(kernel=IMQ())
    assert a == b and hash(a) == hash(b) and a != kind.make()
    assert pickle.loads(pickle.dumps(a)) == a
    with pytest.raises(FrozenInstanceError):
        a.curl_free = True  # type: ignore[misc]


def test_strengths_are_given_by_position_or_name_and_the_rest_by_name() -> None:
    assert Tikhonov(0.1) == Tikhonov(lam=0.1) and Stein(0.1) == Stein(eta=0.1)
    assert Landweber(3, 0.5) == Landweber(steps=3, step_size=0.5)
    assert NuMethod(3, 2.0) == NuMethod(steps=3, nu=2.0)
    with pytest.raises(TypeError):
        Tikhonov(0.1, "median")  # type: ignore[call-arg]


@pytest.mark.parametrize("duplicate", [
    copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f)),
    lambda f: type(f).from_state_dict(f.state_dict()),
], ids=["copy", "pickle", "state_dict"])  # fmt: skip
@for_each_filter
@for_each_kernel
@for_each_value
def test_fits_can_be_copied_pickled_and_taken_apart(
    kind: Filter, kernel: Any, curl_free: bool, duplicate: Any
) -> None:
    x, q = normal(2, M, D), normal(2, 5, D, seed=1)
    fitted = kind.make(kernel=kernel, curl_free=curl_free).fit(x)
    twin = duplicate(fitted)
    assert type(twin) is type(fitted)
    assert (twin.kernel, twin.curl_free) == (kernel, curl_free)
    assert torch.equal(twin.score(q), fitted.score(q))
    assert same_bits(tuple(vars(twin.diagnostics).values()),
                     tuple(vars(fitted.diagnostics).values()))  # fmt: skip


def test_a_state_is_tensors_that_can_be_loaded_as_weights(tmp_path: Any) -> None:
    fitted = Tikhonov(kernel=IMQ(), curl_free=True).fit(skewed())
    state = fitted.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    torch.save(state, tmp_path / "fit.pt")
    loaded = torch.load(tmp_path / "fit.pt", weights_only=True)
    assert torch.equal(mige.FittedFilter.from_state_dict(loaded).energy(), fitted.energy())
    del loaded["bandwidth"]
    with pytest.raises(KeyError, match="bandwidth"):
        mige.FittedFilter.from_state_dict(loaded)
    state["kernel"] = torch.tensor(list(b"Matern"), dtype=torch.uint8)
    with pytest.raises(ValueError, match="kernel must be a known Kernel, got 'Matern'"):
        mige.FittedFilter.from_state_dict(state)


@for_each_filter
@for_each_value
def test_scores_need_no_grad_mode_and_no_autocast(kind: Filter, curl_free: bool) -> None:
    x = skewed(dtype=torch.float32).requires_grad_()
    estimator = kind.make(kernel=IMQ(), curl_free=curl_free)
    expected = estimator.score(x.detach()), estimator.fit(x.detach()).score(x.detach() + 1)
    for mode in (torch.no_grad, torch.inference_mode,
                 lambda: torch.autocast("cpu", torch.bfloat16)):  # fmt: skip
        with mode():
            got = estimator.score(x), estimator.fit(x).score(x + 1)
        assert same_bits(got, expected) and not any(t.requires_grad for t in got)


@for_each_filter
def test_every_filter_is_an_estimator(kind: Filter) -> None:
    z = skewed().requires_grad_()
    estimator = kind.make()
    assert isinstance(estimator, mige.ScoreEstimator)
    (gradient,) = torch.autograd.grad(mige.entropy(z, estimator=estimator), z)
    assert relative(gradient + estimator.score(z) / M, gradient) <= rounding(z.dtype)
