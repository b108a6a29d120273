"""Erasers of finished codes. Each must remove the kind of dependence that it is made for."""

import pytest
import torch
from torch import Tensor, nn

from mige_ext import MigeWarning
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.training import DivergedError, train
from mige_ext.experiments.removal.dependence import hsic
from mige_ext.experiments.removal.erasure import (
    KernelEraser,
    KernelStep,
    LinearEraser,
    QuadraticEraser,
)
from mige_ext.experiments.removal.nuisances import Batch, Structural
from mige_ext.experiments.removal.training import Settings, Trainer, make_model
from tests.experiments.removal.inputs import normal

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads
SMALL = Settings(data="structural", steps=100, hidden=32, latent=4, ramp=5, codes=20_000)


def batch_of(s: Tensor, bins: Tensor | None = None, label: Tensor | None = None) -> Batch:
    nothing = torch.zeros(len(s), dtype=torch.int64)
    return Batch(
        s, nothing if label is None else label, s, (s[:, 0] > 0).long() if bins is None else bins
    )


def covariance(z: Tensor, s: Tensor) -> Tensor:
    return (z - z.mean(0)).double().mT @ (s - s.mean(0)).double() / len(z)


@pytest.mark.parametrize("columns", [1, 2])
def test_no_covariance_with_s_is_left(columns: int) -> None:
    s = normal(500, columns)
    z = normal(500, 4, seed=1) @ normal(4, 4, seed=2)
    z[:, :columns] += s
    eraser = LinearEraser(4)
    assert torch.equal(eraser(z), z)  # nothing before fit
    eraser.fit(z, batch_of(s))
    assert covariance(z, s).abs().max() > 0.3
    assert covariance(eraser(z), s).abs().max() < 1e-6
    assert torch.linalg.matrix_rank(eraser.erased, tol=1e-4) == columns
    torch.testing.assert_close(eraser(z).mean(0), z.mean(0))
    torch.testing.assert_close(eraser(eraser(z)), eraser(z), atol=1e-5, rtol=0)  # a projection


def test_erasure_changes_less_than_an_orthogonal_projection() -> None:
    s, z = normal(500, 1), normal(500, 3, seed=1) * torch.tensor([3.0, 1.0, 0.3])
    z += s * torch.tensor([1.0, 1.0, 1.0])
    eraser = LinearEraser(3)
    eraser.fit(z, batch_of(s))
    direction = covariance(z, s) / covariance(z, s).norm()
    centered = (z - z.mean(0)).double()
    projected = centered - centered @ direction @ direction.mT
    assert covariance(projected, s).abs().max() < 1e-9
    change = (eraser(z) - z).square().mean()
    assert change < 0.9 * (projected - centered).square().mean()


def test_uncorrelated_s_changes_nothing_and_dead_columns_are_no_problem() -> None:
    z = torch.cat([normal(100, 2), torch.zeros(100, 1)], 1)
    s = torch.ones(100, 1)
    eraser = LinearEraser(3)
    eraser.fit(z, batch_of(s))
    torch.testing.assert_close(eraser(z), z)
    eraser.fit(z, batch_of(z[:, :1]))
    assert covariance(eraser(z), z[:, :1]).abs().max() < 1e-6 and eraser(z).isfinite().all()


def test_a_trained_encoder_is_erased_and_its_head_trained_again() -> None:
    problem = Structural()
    plain, _ = train(Trainer, problem, Run("none", 0.0, 0), SMALL)
    trainer, rows = train(Trainer, problem, Run("leace", 0.0, 0), SMALL)
    model = trainer.model.eval()
    batch = problem.draw("train", torch.arange(20_000), torch.Generator())
    with torch.no_grad():
        z, before = (of.encoder(batch.x) for of in (model, plain.model.eval()))
        body = nn.Sequential(*list(model.encoder)[:-1])
        torch.testing.assert_close(body(batch.x), before)  # trained as without removal
    assert covariance(before / before.std(0), batch.s).norm() > 0.1
    assert covariance(z, batch.s).norm() < 0.2 * covariance(before, batch.s).norm()
    assert rows[-1].accuracy > 0.6  # of two classes
    loaded = make_model(problem, SMALL, trainer.run)
    loaded.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval().encoder(batch.x), z)


# --- quadratic LEACE ------------------------------------------------------------------------------


def quadratic_r2(z: Tensor, s: Tensor) -> float:
    """R² of the best prediction of s that is quadratic in z."""
    z, s = z.double(), s.double() - s.double().mean(0)
    i, j = torch.triu_indices(z.shape[1], z.shape[1])
    features = torch.cat([z, z[:, i] * z[:, j], torch.ones(len(z), 1)], 1)
    # Directions that were erased have only rounding errors, which the tolerance leaves out.
    prediction = features @ (torch.linalg.pinv(features, rtol=1e-5) @ s)
    return (prediction.square().sum() / s.square().sum()).item()


def scaled(s: Tensor) -> Tensor:
    """Codes of 6 columns, in which s scales two directions that are no columns."""
    u = normal(len(s), 6, seed=1)
    u[:, :2] *= (0.7 * s).exp()
    return u @ normal(6, 6, seed=2)


@pytest.mark.parametrize("kind", ["continuous", "category"])
def test_quadratic_leace_removes_a_nuisance_that_only_scales_directions(kind: str) -> None:
    s = normal(4000, 1)
    s = s if kind == "continuous" else s.sign()
    z = scaled(s)
    plain, quadratic = LinearEraser(6), QuadraticEraser(6, 2.0)
    for eraser in (plain, quadratic):
        eraser.fit(z[:2000], batch_of(s[:2000]))
    z, s = z[2000:], s[2000:]
    assert quadratic_r2(z, s) > 0.2
    assert quadratic_r2(plain(z), s) > 0.1  # the mean of z is the same for every s
    removed = {"continuous": 4, "category": 3}[kind]  # the means of s, and of s² if it varies
    assert torch.linalg.matrix_rank(quadratic.erased, tol=1e-4) == removed
    assert quadratic_r2(quadratic(z), s) < 0.02  # by chance about .005 for 9 features


def test_each_strength_removes_one_more_direction_and_one_remains() -> None:
    s = normal(1000, 1).sign()
    z = scaled(s) + s
    found = []
    for strength in (0.0, 1.0, 2.4, 9.0):  # rounded
        eraser = QuadraticEraser(6, strength)
        eraser.fit(z, batch_of(s))
        assert covariance(eraser(z), s).abs().max() < 1e-5
        found.append(int(torch.linalg.matrix_rank(eraser.erased, tol=1e-4)))
    assert found == [1, 2, 3, 5]


@pytest.mark.parametrize("kind", [LinearEraser, QuadraticEraser])
def test_an_eraser_warns_if_nothing_of_z_remains(kind: type[LinearEraser]) -> None:
    bins = torch.arange(900) % 9
    s = torch.nn.functional.one_hot(bins).float()
    z, eraser = normal(900, 8) + s[:, :8], kind(8, 1.0)
    with pytest.warns(MigeWarning, match="all 8 directions in which z varies, because s has"):
        eraser.fit(z, batch_of(s, bins))
    assert (eraser(z) - z.mean(0)).abs().max() < 1e-4
    wider = torch.cat([z, normal(900, 1, seed=1)], 1)  # one direction remains, without a warning
    eraser = kind(9, 1.0)
    eraser.fit(wider, batch_of(s, bins))
    assert torch.linalg.matrix_rank(eraser.erased, tol=1e-4) == 8


def test_products_of_the_columns_of_s_are_erased_too() -> None:
    s = normal(2000, 2)
    z = normal(2000, 6, seed=1)  # one column more than s and its products
    z[:, 0] += s[:, 0] * s[:, 1]
    z[:, 1] += s[:, 0].square()
    z[:, 2:4] += s  # LEACE for s removes these, so the first two columns stay almost as they are
    plain, quadratic = LinearEraser(6), QuadraticEraser(6, 0.0)
    for eraser in (plain, quadratic):
        eraser.fit(z, batch_of(s))
    product = (s[:, 0] * s[:, 1])[:, None]
    for target in (product, s[:, :1].square()):
        assert covariance(plain(z), target).abs().max() > 0.3
        assert covariance(quadratic(z), target).abs().max() < 1e-5


# --- kernel erasure -------------------------------------------------------------------------------


def test_kernel_erasure_removes_a_nonlinear_dependence_and_keeps_the_label() -> None:
    s, z = normal(3000, 1), normal(3000, 4, seed=1)
    label = (z[:, 2] > 0).long()
    z[:, 0] = 0.3 * z[:, 0] + s[:, 0].square() - 1
    z[:, 1] *= s[:, 0]
    z = z @ torch.linalg.qr(normal(4, 4, seed=2)).Q
    bins = torch.bucketize(s[:, 0], s[:, 0].quantile(torch.arange(1, 16) / 16))
    batch = batch_of(s, bins, label)
    kernel = KernelEraser(4, 2.0)
    assert {name.split(".")[0] for name in kernel.state_dict()} == {"_extra_state", "steps"}
    assert torch.equal(kernel(z), z)  # nothing before fit
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kernel.fit(z[:2000], Batch(*(column[:2000] for column in batch)))
    rest = Batch(*(column[2000:] for column in batch))
    with torch.no_grad():
        before, after = (hsic(x[2000:], rest).item() for x in (z, kernel(z)))
        independent = hsic(normal(1000, 4, seed=5), rest).item()
    assert before > 0.1
    assert after < 0.1 * before and after < 4 * independent
    erased = torch.cat([kernel(z).detach(), torch.ones(3000, 1)], 1)
    guess = erased[2000:] @ (torch.linalg.pinv(erased[:2000]) @ (2.0 * label[:2000] - 1))
    assert ((guess > 0) == label[2000:].bool()).double().mean() > 0.8


def test_a_step_of_kernel_erasure_leaves_no_covariance_with_the_bins() -> None:
    bins = torch.arange(600) % 3
    z = normal(600, 3) + torch.nn.functional.one_hot(bins).float()
    step = KernelStep(3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        step.fit(z, batch_of(z[:, :1], bins, (z[:, 2] > 0).long()))
    with torch.no_grad():
        erased = step(z)
    for index in range(3):
        assert (erased[bins == index].mean(0) - erased.mean(0)).abs().max() < 1e-4
    torch.testing.assert_close(erased.std(0), torch.ones(3), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("method", "strength"), [("kernel-erasure", 2.0), ("leace-quadratic", 1.0)]
)
def test_a_loaded_eraser_gives_the_same_codes(method: str, strength: float) -> None:
    settings = Settings(data="structural", steps=20, hidden=32, latent=4, ramp=5, codes=500)
    problem = Structural()
    trainer, _ = train(Trainer, problem, Run(method, strength, 0), settings)
    loaded = make_model(problem, settings, Run(method, strength, 0))
    loaded.load_state_dict(trainer.model.state_dict())
    x = problem.draw("test", torch.arange(100), torch.Generator()).x
    with torch.no_grad():
        z, same = (of.eval().encoder(x) for of in (trainer.model, loaded))
        body = nn.Sequential(*list(loaded.encoder)[:-1])
        assert not torch.allclose(body(x), z, atol=1e-2)
    assert torch.equal(z, same)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_collapsed_code_is_a_diverged_run_of_kernel_erasure(value: float) -> None:
    s = normal(600, 1)
    with torch.random.fork_rng(), pytest.raises(DivergedError, match="got a collapsed code"):
        torch.manual_seed(0)
        KernelStep(3).fit(torch.full((600, 3), value), batch_of(s))


@pytest.mark.parametrize("kind", [LinearEraser, QuadraticEraser])
def test_leace_changes_nothing_in_a_collapsed_code(kind: type[LinearEraser]) -> None:
    z, eraser = torch.full((100, 3), 0.5), kind(3, 1.0)
    eraser.fit(z, batch_of(normal(100, 1)))
    assert torch.equal(eraser(z), z)
