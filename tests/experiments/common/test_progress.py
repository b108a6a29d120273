"""The progress bar."""

import pytest
import torch

from mige_ext.experiments.common.progress import (
    Progress,
)


def test_progress_shows_the_run_and_its_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2) as progress:
        progress.begin("MIGE β=0.1 seed 0")
        progress.show(val_error=0.25)
        progress.step({"loss": torch.tensor(1.5)})
        progress.step({"loss": torch.tensor(2.5)})
    shown = capsys.readouterr().err
    for part in ("MIGE β=0.1 seed 0", "2/2", "val_error=0.25", "loss=1.5"):
        assert part in shown


def test_progress_counts_the_steps_of_runs_that_were_cut_short(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress(6) as progress:
        progress.begin("a")
        progress.step({"loss": torch.tensor(1.5)})  # step 1 of 3, then the run diverges
        progress.reach(3)
        progress.begin("b")
        progress.reach(5)  # 2 steps are restored from a checkpoint
        # Four steps do not count for the average speed, nor for the speed since the last print.
        assert progress.initial == 4 and progress.n - progress.last_print_n <= 1
        progress.step({"loss": torch.tensor(1.5)})
        progress.reach(1)  # never backwards
    assert "6/6" in capsys.readouterr().err.split("\r")[-1]


def test_progress_may_be_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with Progress(6) as progress:
        progress.reach(3)
        progress.end()
