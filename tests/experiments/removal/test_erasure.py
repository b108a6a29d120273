"""LEACE removes exactly what is linear in s, and changes the codes as little as possible."""

import pytest
import torch
from torch import Tensor, nn

from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.training import train
from mige_ext.experiments.removal.erasure import Eraser
from mige_ext.experiments.removal.nuisances import Structural
from mige_ext.experiments.removal.training import Settings, Trainer, make_model
from tests.experiments.removal.inputs import normal

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more
SMALL = Settings(data="structural", steps=100, hidden=32, latent=4, ramp=5, codes=20_000)


def covariance(z: Tensor, s: Tensor) -> Tensor:
    return (z - z.mean(0)).double().mT @ (s - s.mean(0)).double() / len(z)


@pytest.mark.parametrize("columns", [1, 2])
def test_no_covariance_with_s_is_left(columns: int) -> None:
    s = normal(500, columns)
    z = normal(500, 4, seed=1) @ normal(4, 4, seed=2)
    z[:, :columns] += s
    eraser = Eraser(4)
    assert torch.equal(eraser(z), z)  # nothing before fit
    eraser.fit(z, s)
    assert covariance(z, s).abs().max() > 0.3
    assert covariance(eraser(z), s).abs().max() < 1e-6
    assert torch.linalg.matrix_rank(eraser.erased, tol=1e-4) == columns
    torch.testing.assert_close(eraser(z).mean(0), z.mean(0))
    torch.testing.assert_close(eraser(eraser(z)), eraser(z), atol=1e-5, rtol=0)  # a projection


def test_erasure_changes_less_than_an_orthogonal_projection() -> None:
    s, z = normal(500, 1), normal(500, 3, seed=1) * torch.tensor([3.0, 1.0, 0.3])
    z += s * torch.tensor([1.0, 1.0, 1.0])
    eraser = Eraser(3)
    eraser.fit(z, s)
    direction = covariance(z, s) / covariance(z, s).norm()
    centered = (z - z.mean(0)).double()
    projected = centered - centered @ direction @ direction.mT
    assert covariance(projected, s).abs().max() < 1e-9
    change = (eraser(z) - z).square().mean()
    assert change < 0.9 * (projected - centered).square().mean()


def test_uncorrelated_s_changes_nothing_and_dead_columns_are_no_problem() -> None:
    z = torch.cat([normal(100, 2), torch.zeros(100, 1)], 1)
    s = torch.ones(100, 1)
    eraser = Eraser(3)
    eraser.fit(z, s)
    torch.testing.assert_close(eraser(z), z)
    eraser.fit(z, z[:, :1])
    assert covariance(eraser(z), z[:, :1]).abs().max() < 1e-6 and eraser(z).isfinite().all()


def test_a_trained_encoder_is_erased_and_its_head_trained_anew() -> None:
    problem = Structural()
    plain, _ = train(Trainer, problem, Run("none", 0.0, 0), SMALL)
    trainer, rows = train(Trainer, problem, Run("leace", 0.0, 0), SMALL)
    model = trainer.model.eval()
    batch = problem.draw("train", torch.arange(20_000), torch.Generator())
    with torch.no_grad():
        z, before = (of.encoder(batch.x) for of in (model, plain.model.eval()))
        body = nn.Sequential(*list(model.encoder)[:-1])
        torch.testing.assert_close(body(batch.x), before)  # the encoder is that without removal
    assert covariance(before / before.std(0), batch.s).norm() > 0.1
    assert covariance(z, batch.s).norm() < 0.2 * covariance(before, batch.s).norm()
    assert rows[-1].accuracy > 0.6  # of two classes
    loaded = make_model(problem, SMALL, trainer.run)
    loaded.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval().encoder(batch.x), z)
