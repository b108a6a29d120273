"""The benchmarks of categories: exact fields, baselines, the census, and the commands."""

import csv
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import mige_ext as mige
from benchmarks.__main__ import app
from benchmarks.categories import census, command
from benchmarks.categories.families import DIMENSIONS, FAMILIES, NO_DEPENDENCE, Mixture, mixture
from benchmarks.categories.methods import METHODS
from mige_ext.experiments.data.tables import TableData, TablePart

pytestmark = pytest.mark.filterwarnings("ignore::mige_ext.MigeWarning")


def log_posterior(source: Mixture, s: Tensor, z: Tensor) -> Tensor:
    """``log p(s | z)`` from the densities of torch.distributions."""
    normals = torch.distributions.MultivariateNormal(source.means, scale_tril=source.factors.tril())
    logits = source.probabilities.log() + normals.log_prob(z.unsqueeze(1))
    own = logits.masked_fill(source.classes != s.unsqueeze(1), -torch.inf)
    return own.logsumexp(1) - logits.logsumexp(1)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"rare"}))  # its factor is not triangular
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


# --- census ---------------------------------------------------------------------------------------


def people(rows: int, seed: int) -> TablePart:
    """Rows whose inputs reveal sex and race, and whose label depends on another input."""
    generator = torch.Generator().manual_seed(seed)
    sex, race = (torch.randint(n, (rows,), generator=generator) for n in (2, 3))
    noise = torch.randn(rows, generator=generator)
    x = torch.stack((sex.float(), race.float(), noise), 1)
    return TablePart(x, (noise > 0).long(), {"sex": sex, "race": race})


@pytest.mark.thorough
def test_the_census_is_attacked_with_and_without_a_penalty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = people(600, 0), people(200, 1), people(300, 2)
    table = TableData("adult", *parts, inputs=("sex", "race", "noise"), categories={})
    monkeypatch.setattr(census, "load", lambda name, folder: table)
    # One attacker is enough to see that the codes of the right rows are attacked.
    one = partial(mige.audit.leakage, attackers=("neighbors",))
    monkeypatch.setattr(mige.audit, "leakage", one)
    methods = ["--method=none", "--method=own"]
    options = ["census", "--steps=80", f"--out={tmp_path}", *methods]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "census.csv").read_text().splitlines()))
    columns = ("attribute", "method", "beta")
    leak = {tuple(row[column] for column in columns): float(row["leak"]) for row in rows}
    runs = (("none", "0"), ("own", "0.1"), ("own", "0.2"))
    assert set(leak) == {(attribute, *run) for attribute in ("sex", "race") for run in runs}
    assert max(leak["sex", "own", "0.1"], leak["sex", "own", "0.2"]) < leak["sex", "none", "0"]
    assert all(float(row["accuracy"]) > 80 for row in rows)


def test_an_unknown_method_of_the_census_is_refused() -> None:
    result = CliRunner().invoke(app, ["census", "--method=mine"])
    assert result.exit_code == 2
    assert "there is no mine" in result.output
