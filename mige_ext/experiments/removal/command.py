"""Information removal: a representation z that tells the label, and not a nuisance s.

An encoder minimises the cross-entropy of the label plus β times a penalty on what z tells about s:
the gradient of I(z; s) by scores (MIGE), or one of the ways that are in use (`removal_methods`).
What is left is measured by attackers that learn on the frozen z (`attacker`).

β is chosen on the validation part: of those with at most half a point less accuracy than without
removal, the one that leaks least; where there is none, the most accurate. All methods have grids of
the same size; with ``--extend`` a grid whose end was chosen grows there, by one rule for all. The
test part is read at the end, for the chosen β alone, with all seeds.

For an encoder of your own, the recipe is in `mige_ext.information`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import typer

from mige_ext.experiments.common import plots
from mige_ext.experiments.common.comparison import Comparison, OnStep
from mige_ext.experiments.common.runs import cpu_threads, device_of, open_folder, sound_settings
from mige_ext.experiments.data import images as data
from mige_ext.experiments.removal.attacker import Leak
from mige_ext.experiments.removal.methods import METHODS
from mige_ext.experiments.removal.nuisances import NUISANCES, Images, Problem, Structural
from mige_ext.experiments.removal.report import Result, draw, draw_curves, format_table
from mige_ext.experiments.removal.training import Epoch, Model, Run, Settings, measure, train

#: Accuracy that removal may cost.
MARGIN = 0.005
QUICK_METHODS = ("none", "mige", "hsic-whitened", "adversary-classifier")


class Removals(Comparison[Run, Epoch, Result]):
    """Runs of information removal: trained, attacked, chosen, tested.

    Args:
        folder: see `Comparison`.
        problem: what to train on.
        settings: of every run.
    """

    run_type, epoch_type, result_type = Run, Epoch, Result
    progress: ClassVar = {"accuracy": "accuracy"}

    def __init__(self, folder: Path, problem: Problem, settings: Settings) -> None:
        super().__init__(folder, settings)
        self.problem = problem

    def name_of(self, run: Run) -> str:
        """What the progress bar calls it."""
        return f"{METHODS[run.method].label} β={run.beta:g} seed {run.seed}"

    def steps_of(self, run: Run, epochs: int) -> int:
        """The number of its steps, which is a setting."""
        steps: int = self.settings.steps
        return steps

    def train(
        self, run: Run, epochs: int, on_epoch: Callable[[Epoch], object], on_step: OnStep
    ) -> list[Result]:
        """Train, save and attack an encoder."""
        model, rows = train(
            self.problem,
            run,
            self.settings,
            checkpoint=self.checkpoint,
            on_epoch=on_epoch,
            on_step=on_step,
        )
        self.save(run, model=model.state_dict())
        accuracy, leak = self._measure(model, "validation", run)
        seconds = sum(row.seconds for row in rows)
        return [self._result(run, accuracy, leak, 1000 * seconds / self.settings.steps)]

    def diverged(self, run: Run, epochs: int) -> list[Result]:
        """No figures."""
        nan = math.nan
        return [self._result(run, nan, Leak(nan, nan, "–"), nan)]

    def _result(self, run: Run, accuracy: float, leak: Leak, milliseconds: float) -> Result:
        return Result(
            self.settings.data,
            self.settings.nuisance,
            *run,
            val_accuracy=accuracy,
            val_leak_nats=leak.nats,
            val_leak_r2=leak.r2,
            accuracy=math.nan,
            leak_nats=math.nan,
            leak_r2=math.nan,
            attacker=leak.attacker,
            ms_per_step=milliseconds,
        )

    def choose_betas(self, grid: Sequence[Run]) -> dict[str, float]:
        """β of each method, by the validation figures of the runs of the grid."""
        rows = self.results_of(grid)
        return {
            method: choose_beta(rows, method)
            for method in dict.fromkeys(run.method for run in grid)
        }

    def read_test(self, chosen: Sequence[Run]) -> list[Result]:
        """Put the test figures of these runs into the results, where they are not there yet."""

        def tested(row: Result) -> Result:
            run = self.run_of(row)
            if run not in chosen or not math.isnan(row.accuracy):
                return row
            if row.diverged:  # never right
                return replace(row, accuracy=0.0)
            model = Model(self.problem, self.settings).to(self.problem.device)
            model.load_state_dict(self.load(run)["model"])
            accuracy, leak = self._measure(model.eval(), "test", run)
            return replace(
                row,
                accuracy=accuracy,
                leak_nats=leak.nats,
                leak_r2=leak.r2,
                attacker=leak.attacker,
            )

        for i, row in enumerate(self.results.rows):  # a row at a time: a stop loses one
            new = tested(row)
            if new is not row:
                rows = self.results.rows
                self.results.replace([*rows[:i], new, *rows[i + 1 :]])
        return self.results_of(chosen)

    def save_figures(self, chosen: Sequence[Run]) -> tuple[Path, Path]:
        """Draw what there is; gives the trade-off."""
        begun = list(dict.fromkeys(map(self.run_of, self.metrics.rows)))
        last = list({run.method: run for run in begun}.values())
        curves = draw_curves(self.metrics.rows, self.sound(chosen or last))
        plots.save(curves, self.folder / "curves")
        return plots.save(draw(self.results.rows, chosen, MARGIN), self.folder / "removal")

    def _measure(self, model: Model, part: str, run: Run) -> tuple[float, Leak]:
        return measure(model, self.problem, part, self.settings, run.seed)


def choose_beta(rows: Sequence[Result], method: str) -> float:
    """The β that leaks least at `MARGIN` below the accuracy of "none" or above; validation figures.

    Where none is so accurate, the most accurate; of equal ones, the largest. A β with a run that
    diverged is left out, see `sound_settings`.
    """
    whole = [row.val_accuracy for row in rows if row.method == "none" and not row.diverged]
    least = np.mean(whole) - MARGIN if whole else 0.0

    def figures(beta: float) -> tuple[bool, float, float]:
        of = [row for row in rows if (row.method, row.beta) == (method, beta)]
        accuracy = float(np.mean([row.val_accuracy for row in of]))
        if accuracy < least:
            return True, -accuracy, -beta
        return False, float(np.mean([row.val_leak_nats for row in of])), -beta

    return min(sound_settings([row for row in rows if row.method == method], "beta"), key=figures)


def longer(strengths: Sequence[float], chosen: float) -> list[float]:
    """A grid of β, with another value beyond the end where that was chosen, at the same ratio.

    Where there is no ratio, beside 0 or of one value, it stays.
    """
    betas = sorted(strengths)
    if len(betas) < 2:
        return betas
    if chosen == betas[-1] and betas[-2]:
        return [*betas, float(f"{betas[-1] * (betas[-1] / betas[-2]):.3g}")]
    if chosen == betas[0] and betas[0]:
        return [float(f"{betas[0] * (betas[0] / betas[1]):.3g}"), *betas]
    return betas


# The command


def removal(
    dataset: Annotated[
        str | None,
        typer.Option(
            "--data",
            help=f"Images: {', '.join(data.names())}; or structural (mnist).",
        ),
    ] = None,
    nuisance: Annotated[
        str, typer.Option(help=f"Of images: {', '.join(NUISANCES)}.")
    ] = Settings.nuisance,
    method: Annotated[
        list[str] | None, typer.Option(help=f"Repeatable; by default all: {', '.join(METHODS)}.")
    ] = None,
    beta: Annotated[
        list[float] | None,
        typer.Option(min=0, help="Repeatable; the grid of β, instead of that of each method."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Of the chosen β (3; quick 1).")] = None,
    grid_seeds: Annotated[int, typer.Option(min=1, help="Of every β.")] = 1,
    extend: Annotated[
        int, typer.Option(min=0, help="Times that a grid grows beyond the end that was chosen.")
    ] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help=f"Of training ({Settings.steps}; quick 300).")
    ] = None,
    batch: Annotated[int, typer.Option(min=8, help="Rows in a step.")] = Settings.batch,
    latent: Annotated[int, typer.Option(min=1, help="Dimension of z.")] = Settings.latent,
    codes: Annotated[
        int | None, typer.Option(min=50, help="For attackers, to choose β (20000; quick 5000).")
    ] = None,
    test_codes: Annotated[
        int | None, typer.Option(min=50, help="For attackers of the test part (50000; quick 5000).")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small version, below a minute on 2 cores.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue in --out, with the same settings.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1, ...")] = "auto",
    threads: Annotated[
        int, typer.Option(min=1, help="Of the CPU; small networks are fastest with one.")
    ] = 1,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/removal"),
) -> None:
    """Information removal: what z still tells about a nuisance, and what its removal costs."""
    dataset = dataset or ("structural" if quick else Settings.data)
    seeds = seeds or (1 if quick else 3)
    methods = list(dict.fromkeys(["none", *(method or (QUICK_METHODS if quick else METHODS))]))
    try:
        settings = Settings(
            data=dataset,
            nuisance="attribute" if dataset == "structural" else nuisance,
            steps=steps or (300 if quick else Settings.steps),
            batch=batch,
            latent=latent,
            codes=codes or (5000 if quick else Settings.codes),
            test_codes=test_codes or (5000 if quick else Settings.test_codes),
        )
        betas = {name: _betas(name, beta, quick) for name in methods}
        where = device_of(device)
        problem: Problem = (
            Structural(where)
            if dataset == "structural"
            else Images(data.load(dataset, data_dir).to(where), nuisance)
        )
        about = {
            "methods": methods,
            "betas": betas,
            "seeds": seeds,
            "grid_seeds": grid_seeds,
            "extend": extend,
            "device": str(where),
        }
        agreed = {**asdict(settings), "threads": threads, "checksum": problem.checksum()}
        open_folder(out, agreed, about, resume=resume)
        runs = Removals(out, problem, settings)
    except (ValueError, ImportError, OSError, RuntimeError) as error:
        raise typer.BadParameter(str(error)) from None
    if quick:
        typer.echo("The small version: fewer methods, steps, seeds and values of β.")
    with cpu_threads(threads):
        try:
            epochs = dict.fromkeys(methods, settings.epochs)
            for _ in range(extend + 1):
                grid = [
                    Run(name, strength, seed)
                    for seed in range(min(grid_seeds, seeds))
                    for name in methods
                    for strength in betas[name]
                ]
                runs.run_missing(grid, epochs)
                beta_of = runs.choose_betas(grid)
                betas = {name: longer(betas[name], beta_of[name]) for name in methods}
            chosen = [Run(name, beta_of[name], seed) for seed in range(seeds) for name in methods]
            runs.run_missing(chosen, epochs)
            tested = runs.read_test(chosen)
        except KeyboardInterrupt:
            runs.save_unfinished("model")
            runs.save_figures([])
            typer.echo(
                f"Stopped. {out} holds all finished runs, whole epochs of the last, and their "
                "figures; --resume continues.",
                err=True,
            )
            raise typer.Exit(130) from None
    png, pdf = runs.save_figures(chosen)
    seeds_told = f"means over {seeds} seeds ± standard error" if seeds > 1 else "one seed"
    typer.echo(
        f"\n{settings.data}, {settings.nuisance}: test data, {seeds_told}; β chosen on the "
        f"validation data: the least leak within {100 * MARGIN:g} points of the accuracy without "
        f"removal.\n\n{format_table(tested)}\n\n{runs.results.path}\n{png}\n{pdf}"
    )


def _betas(method: str, given: Sequence[float] | None, quick: bool) -> list[float]:
    """The grid of a method."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {list(METHODS)}, got {method!r}")
    strengths = METHODS[method].strengths
    if strengths == (0.0,):
        return [0.0]
    return sorted(set(given or (strengths[2:3] if quick else strengths)))
