"""The demo: every experiment once, at small size, and continuation after a stop."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mige_ext.experiments import demo as module


def test_the_demo_runs_every_experiment_and_lists_its_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, bool, bool]] = []

    def fake(name: str) -> Any:
        def experiment(*, quick: bool, out: Path, resume: bool) -> None:
            calls.append((out.name, quick, resume))
            out.mkdir(parents=True, exist_ok=True)
            (out / "config.json").touch()

        experiment.__name__ = name
        return experiment

    names = [experiment.__name__ for experiment in module.EXPERIMENTS]
    assert names == ["toy", "infomax", "bottleneck", "removal"]
    figures = {fake(name): f"{name}.png: a figure" for name in names}
    monkeypatch.setattr(module, "EXPERIMENTS", figures)
    app = typer.Typer()
    app.command()(module.demo)
    for resume in (False, True):
        calls.clear()
        result = CliRunner().invoke(app, ["--out", str(tmp_path)])
        assert result.exit_code == 0, result.output
        assert calls == [(name, True, resume) for name in names]
        lines = result.output.splitlines()[-len(names) :]
        assert lines == [f"  {tmp_path / name}/{name}.png: a figure" for name in names]


def test_a_stopped_demo_says_how_it_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def toy(**_: Any) -> None:
        raise typer.Exit(130)

    monkeypatch.setattr(module, "EXPERIMENTS", {toy: "toy.png: a figure"})
    app = typer.Typer()
    app.command()(module.demo)
    result = CliRunner().invoke(app, ["--out", str(tmp_path)])
    assert result.exit_code == 130
    assert "The demo continues if you run it again." in result.output
