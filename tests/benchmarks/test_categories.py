"""The benchmark of categories: exact fields, baselines, and the command."""

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.categories import command
from benchmarks.categories.families import DIMENSIONS, FAMILIES, NO_DEPENDENCE, Mixture, mixture
from benchmarks.categories.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore::mige_ext.MigeWarning")


def log_posterior(source: Mixture, s: Tensor, z: Tensor) -> Tensor:
    """``log p(s | z)`` from the densities of torch.distributions."""
    normals = torch.distributions.MultivariateNormal(source.means, scale_tril=source.factors.tril())
    logits = source.probabilities.log() + normals.log_prob(z.unsqueeze(1))
    own = logits.masked_fill(source.classes != s.unsqueeze(1), -torch.inf)
    return own.logsumexp(1) - logits.logsumexp(1)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"rare"}))  # its factor is no triangle
def test_the_field_is_the_gradient_of_the_log_posterior(family: str) -> None:
    source = mixture(family, 3)
    s, z = source.draw(40, 0)
    z.requires_grad_()
    (expected,) = torch.autograd.grad(log_posterior(source, s, z).sum(), z)
    torch.testing.assert_close(source.field(s, z.detach()), expected)


def test_a_family_without_dependence_has_no_field() -> None:
    for d in DIMENSIONS:
        source = mixture(NO_DEPENDENCE, d)
        assert source.field(*source.draw(40, 0)).abs().max() < 1e-12


@pytest.mark.parametrize("name", METHODS)
def test_every_method_points_along_the_exact_field(name: str) -> None:
    source = mixture("shift", 2)
    s, z = source.draw(128, 0)
    torch.manual_seed(0)
    field, exact = METHODS[name](s, z), source.field(s, z)
    assert field.shape == z.shape
    assert torch.nn.functional.cosine_similarity(field.flatten(), exact.flatten(), 0) > 0.5


def test_the_command_writes_a_row_for_each_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "FAMILIES", {k: FAMILIES[k] for k in ("shift", NO_DEPENDENCE)})
    monkeypatch.setattr(command, "DIMENSIONS", (2,))
    options = ["--seeds=1", "--samples=64", f"--out={tmp_path}"]
    result = CliRunner().invoke(app, ["categories", *options])
    assert result.exit_code in (0, 1), result.output  # 64 samples may miss a bound
    assert "Cosine with the exact field" in result.output
    rows = list(csv.DictReader((tmp_path / "categories.csv").read_text().splitlines()))
    assert len(rows) == 2 * len(METHODS)
    assert all(-1 <= float(row["cosine"]) <= 1 for row in rows if row["family"] == "shift")
    assert all(float(row["norm"]) >= 0 for row in rows)
