"""A process of an experiment that is stopped or killed, and resumed to the same bits."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from mige_ext.experiments.bottleneck.command import bottleneck
from mige_ext.experiments.infomax.command import infomax
from mige_ext.experiments.removal.command import removal
from tests.support.process import ROOT, environment

pytestmark = pytest.mark.usefixtures("one_thread")  # the networks are too small for more threads

#: Each command has at least two runs. The last run, of MIGE, is long enough to be stopped before
#: its end.
COMMANDS = {
    "bottleneck": "--method mine --method mige --beta 0.01 --epochs 50 --draws 2 --latent 4 "
    "--hidden 32",
    "infomax": "--data digits --method infonce+pm --method mige --learning-rate 5e-4 --epochs 12 "
    "--batch 64 --latent 4 --width 4 --hidden 16 --projection 6 --probe-epochs 2",
    "removal": "--data digits --method mige --beta 0.1 --steps 400 --batch 64 "
    "--codes 200 --test-codes 300",
}
MEASURED = {"seconds", "overhead", "ms_per_step"}


def options(command: str, out: Path) -> list[str]:
    return [command, *COMMANDS[command].split(), *f"--seeds 1 --threads 1 --out {out}".split()]


def run(command: str, out: Path, *more: str) -> None:
    app = typer.Typer()
    for function in (bottleneck, infomax, removal):
        app.command()(function)
    result = CliRunner().invoke(app, [*options(command, out), *more])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of runs that were not stopped, by command."""
    folders: dict[str, Path] = {}

    def folder(command: str) -> Path:
        if command not in folders:
            folders[command] = tmp_path_factory.mktemp(command) / "out"
            run(command, folders[command])
        return folders[command]

    return folder


def numbers(path: Path) -> list[dict[str, str]]:
    """A table without the columns that differ from run to run."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [{name: cell for name, cell in row.items() if name not in MEASURED} for row in rows]


def tensors(state: Any) -> dict[str, torch.Tensor]:
    """All tensors of nested dictionaries."""
    if isinstance(state, torch.Tensor):
        return {"": state}
    parts = state.items() if isinstance(state, dict) else ()
    return {
        f"{name}.{rest}": value for name, part in parts for rest, value in tensors(part).items()
    }


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("command", "sign"),
    [
        ("bottleneck", signal.SIGKILL),
        ("infomax", signal.SIGKILL),
        ("removal", signal.SIGKILL),
        ("bottleneck", signal.SIGINT),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_killed_process_resumes_to_the_same_bits(
    command: str, sign: signal.Signals, straight: Any, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", straight(command)
    process = subprocess.Popen(
        [sys.executable, "-m", "mige_ext", *options(command, out)],
        cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        # A shell that runs the tests in the background lets them ignore SIGINT, and processes
        # inherit this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    metrics = out / "metrics.csv"
    while process.poll() is None:  # until the last run has begun
        if metrics.exists() and metrics.read_text().count("mige") > 1:
            os.kill(process.pid, sign)
            break
        time.sleep(0.01)
    _, errors = process.communicate()
    assert process.returncode == (130 if sign == signal.SIGINT else -sign), errors
    before, after = (
        sum(row["method"] == "mige" for row in numbers(path))
        for path in (metrics, whole / "metrics.csv")
    )
    assert 1 < before < after
    if sign == signal.SIGINT:  # the folder is usable without resuming
        assert "--resume continues" in errors
        assert (out / f"{command}.png").stat().st_size > 10_000
        assert json.loads((out / "config.json").read_text())["settings"]["epochs"] == 50
        (stopped,) = (out / "models").glob("mige-*")
        assert tensors(torch.load(stopped)["model"])

    run(command, out, "--resume")
    for name in ("results.csv", "metrics.csv"):
        assert numbers(out / name) == numbers(whole / name)
    models = sorted(path.name for path in (whole / "models").iterdir())
    assert models == sorted(path.name for path in (out / "models").iterdir())
    for name in models:
        mine, theirs = (tensors(torch.load(of / "models" / name)) for of in (out, whole))
        assert mine.keys() == theirs.keys() and mine
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
