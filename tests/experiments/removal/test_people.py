"""Tables of people as problems of removal, and the leak of a nuisance that is a category."""

import csv
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import mige_ext as mige
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.training import DivergedError, train
from mige_ext.experiments.data import table_files, tables
from mige_ext.experiments.data.table_files import TABLES
from mige_ext.experiments.removal.command import removal
from mige_ext.experiments.removal.methods import METHODS
from mige_ext.experiments.removal.nuisances import PARTS, People
from mige_ext.experiments.removal.training import (
    Codes,
    Settings,
    Trainer,
    attack,
    measure,
    within_labels,
)
from tests.support import table_files as tiny

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads
FILES = tiny.adult_files(600, 200)
WHEEL = tiny.adult_wheel_file(TABLES["adult"].official[0].header)
ADULT = tiny.with_checksums(TABLES["adult"], FILES, WHEEL)
SMALL = Settings(data="adult", nuisance="sex", steps=30, hidden=32, latent=4, ramp=5)


@pytest.fixture(scope="module")
def table() -> tables.TableData:
    rows = [
        table_files.read_file(file, FILES[file.name], ADULT.columns, "here")
        for file in ADULT.official
    ]
    return tables.encode(ADULT, rows)


def everything(problem: People, part: str = "train"):  # type: ignore[no-untyped-def]
    return problem.draw(part, torch.arange(problem.count(part)), torch.Generator())


def test_an_age_is_continuous_and_has_bins_between_quantiles(table: tables.TableData) -> None:
    problem = People(table, "age")
    assert not problem.categorical and problem.nuisance_dim == 1 and problem.bins == 16
    batch = everything(problem)
    assert batch.s.shape == (480, 1) and batch.x.shape == (480, problem.inputs)
    assert abs(batch.s.mean()) < 1e-5 and abs(batch.s.std(unbiased=False) - 1) < 1e-5
    counts = torch.bincount(batch.bin, minlength=16)
    assert counts.min() > 15 and counts.max() < 50  # ages repeat
    assert (batch.s[batch.bin == 3].max() < batch.s[batch.bin == 4].min()).all()
    for part in PARTS:
        assert everything(problem, part).bin.max() < problem.bins


@pytest.mark.parametrize(("name", "classes"), [("sex", 2), ("race", 3)])
def test_a_category_has_its_classes_as_bins(
    name: str, classes: int, table: tables.TableData
) -> None:
    problem = People(table, name)
    assert problem.categorical and problem.bins == classes
    batch = everything(problem)
    assert torch.equal(batch.bin, table.train.nuisances[name])
    assert batch.s.shape == (480, classes - 1) and abs(batch.s.mean()) < 1e-5
    assert batch.s.unique(dim=0).shape[0] == classes
    assert ((batch.s.std(0, unbiased=False) - 1).abs() < 1e-5).all()


def test_an_unknown_column_is_refused(table: tables.TableData) -> None:
    with pytest.raises(ValueError, match=r"nuisance of adult must be one of \['age'.* got 'name'"):
        People(table, "name")


@pytest.mark.parametrize("nuisance", ["sex", "race", "age"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_with_every_nuisance(
    method: str, nuisance: str, table: tables.TableData
) -> None:
    settings = Settings(data="adult", nuisance=nuisance, steps=3, hidden=32, latent=4, ramp=2)
    run = Run(method, METHODS[method].strengths[0], 0)
    _, rows = train(Trainer, People(table, nuisance), run, settings)
    assert rows[-1].step == 3


def test_the_leak_of_a_category_is_that_of_its_classes(table: tables.TableData) -> None:
    problem = People(table, "sex")
    trainer, _ = train(Trainer, problem, Run("none", 0.0, 0), SMALL)
    _, leak = measure(trainer.model.eval(), problem, "validation", SMALL, 0)
    assert leak.entropy == pytest.approx(0.69, abs=0.01) and leak.r2 is None
    assert leak.test_rows == 120 and len(leak.attacks) == 6
    assert 0.1 < leak.nats <= leak.entropy  # sex is an input, and tells the label


def test_the_leak_within_labels_excludes_what_the_label_reveals() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(2):
        label = torch.randint(0, 2, (4000,), generator=generator)
        s = (torch.rand(4000, generator=generator) < 0.2 + 0.6 * label).long()
        u = torch.randn(4000, 2, generator=generator)
        parts.append(Codes(torch.stack([label + 0.1 * u[:, 0], u[:, 1]], 1), s, label))
    whole, within = (of(parts[0], parts[1], SMALL, 0) for of in (attack, within_labels))
    assert whole.nats > 0.15  # the information of the label and s is .19 nats
    assert abs(within.nats) <= 4 * within.standard_error + 1e-3
    assert within.entropy == pytest.approx(0.5, abs=0.02) and within.test_rows == 4000
    shown = [part._replace(z=part.z + 3 * part.s[:, None]) for part in parts]
    assert within_labels(shown[0], shown[1], SMALL, 0).nats > 0.4


def test_mige_takes_the_label_as_given(table: tables.TableData) -> None:
    problem, gradients = People(table, "sex"), list[torch.Tensor]()
    batch = problem.draw("train", torch.arange(200), torch.Generator())
    z = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for problem.given_label in (False, True):
        penalty = METHODS["mige"].make(problem, 3)  # type: ignore[misc]
        gradients += torch.autograd.grad(penalty(z, batch), z)
    expected = mige.mutual_information(batch.bin, z, marginal="own", given=batch.label)
    assert torch.equal(gradients[1], torch.autograd.grad(expected, z)[0])
    assert not torch.equal(*gradients)


def test_codes_that_are_not_finite_are_a_diverged_run(table: tables.TableData) -> None:
    problem = People(table, "sex")
    trainer, _ = train(Trainer, problem, Run("none", 0.0, 0), SMALL)
    with torch.no_grad():
        next(trainer.model.encoder.parameters()).fill_(torch.inf)
    with pytest.raises(DivergedError, match="codes of the validation part are not finite"):
        measure(trainer.model.eval(), problem, "validation", SMALL, 0)


def test_the_command_removes_a_category_from_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLES, "adult", ADULT)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    app = typer.Typer()
    app.command()(removal)
    options = ["--data", "adult", "--nuisance", "sex", "--data-dir", str(tmp_path), "--steps", "8"]
    options += ["--method", "mige", "--beta", "0.1", "--seeds", "1", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    assert "adult, sex: test data" in result.output and "acc. − chance" in result.output
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["none", "mige"]
    assert all(float(row["leak_error"]) > 0 for row in rows)
