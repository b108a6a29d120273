"""Information removal as a command: z keeps the label and forgets a nuisance s.

An encoder minimizes the cross-entropy of the label plus β times a penalty on the information that z
has about s (``removal/methods.py``). Attackers, which are trained on the finished codes, measure
the information that remains: the leak (``mige_ext.audit``).

* β is chosen on the validation part. Among the values that cost at most half a point of accuracy,
  the value with the least leak is chosen. If every value costs more, the most accurate is chosen.
* With ``--choice blind`` the largest β that costs at most half a point is chosen. This choice needs
  no s, like the methods in ``removal/blind.py``.
* All methods have grids of the same size. ``--extend`` extends a grid if one of its ends was
  chosen.

``common/comparison.py`` describes the search, the final runs and the test.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure

from mige_ext.experiments.common import options as common
from mige_ext.experiments.common.comparison import Comparison
from mige_ext.experiments.common.experiment import command
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.statistics import spread_of, without_divergence
from mige_ext.experiments.data import images as data
from mige_ext.experiments.data import tables
from mige_ext.experiments.data.table_files import TABLES
from mige_ext.experiments.removal.methods import METHODS
from mige_ext.experiments.removal.nuisances import Images, People, Problem, Structural
from mige_ext.experiments.removal.report import Result, draw, draw_curves, format_table
from mige_ext.experiments.removal.training import (
    Epoch,
    Settings,
    Trainer,
    encode,
    make_model,
    measure,
    model_type,
)

#: Accuracy that removal may cost.
MARGIN = 0.005
QUICK_METHODS = ("none", "mige", "hsic-whitened", "adversary-classifier")
QUICK = Settings(data="structural", steps=200, codes=2000, test_codes=2000)


@dataclass(frozen=True)
class Options(common.ComparisonOptions):
    """Options that may change when the experiment is continued."""

    method: list[str] = common.method_option(METHODS, QUICK_METHODS)
    beta: list[float] = common.grid_option("β", least=0)
    seeds: int = common.seeds_option("3; --quick: 1")
    grid_seeds: int = common.option(1, "Seeds per setting in the search.", least=1)
    extend: int = common.option(0, "Times that a grid is extended beyond a chosen end.", least=0)


class Removals(Comparison):
    """Runs of information removal."""

    quick_note = "The small version: fewer methods, steps, seeds and values of β."
    measured = "Accuracy, and what z reveals about the nuisance"
    following = "docs/removing.md, the recipe for an encoder of your own"
    methods, quick_methods = METHODS, QUICK_METHODS
    setting, symbol = "beta", "β="
    stem = "{method}-{value:g}-{seed}"
    result_type, trainer_type = Result, Trainer
    quick_values, recorded = slice(2, 3), ("extend",)
    progress: ClassVar = {"accuracy": "accuracy"}
    all_wrong: Mapping[str, float] = MappingProxyType({"accuracy": 0.0, "shifted_accuracy": 0.0})
    problem: Problem

    def __init__(self, options: Options, settings: Settings) -> None:
        super().__init__(options, settings)
        for method, values in self.values.items():
            broken = [value for value in values if not value.is_integer()]
            if broken and model_type(method).integer_strength:
                raise ValueError(f"beta must be an integer for {method}, got {broken[0]:g}")

    def load_problem(self) -> Problem:
        """Load the images under the nuisance, or a table."""
        problem = self._load_data()
        problem.given_label = self.settings.given == "label"
        return problem

    def _load_data(self) -> Problem:
        name = self.settings.data
        known = sorted(["structural", *data.names(), *tables.names()])
        if name not in known:
            raise ValueError(f"--data must be one of {', '.join(known)}, got {name!r}")
        if name == "structural":
            if self.options.data_dir is not None:
                raise ValueError(
                    "--data-dir goes with images, and --data structural has no files; "
                    f"got {str(self.options.data_dir)!r}"
                )
            return Structural(self.device)
        if name in TABLES:
            table = tables.load(name, self.options.data_dir).to(self.device)
            return People(table, self.settings.nuisance)
        images = data.load(name, self.options.data_dir).to(self.device)
        return Images(images, self.settings.nuisance)

    def search(self) -> None:
        """Search, then extend each grid whose end was chosen, and search again."""
        super().search()
        for _ in range(self.options.extend):
            self.values = {
                method: longer(
                    values,
                    self.choice[method],
                    integer=model_type(method).integer_strength,
                    largest=model_type(method).largest_strength(self.settings.latent),
                )
                for method, values in self.values.items()
            }
            super().search()

    def steps_of(self, run: Run) -> int:
        """Number of steps, which is a setting."""
        return int(self.settings.steps)

    def result(self, run: Run, **columns: Any) -> Any:
        """A row of results.csv, with the data and the nuisance."""
        known = {"data": self.settings.data, "nuisance": self._nuisance(), "attacker": "–"}
        return super().result(run, **(known | columns))

    def evaluate(self, run: Run, trainer: Trainer, rows: Sequence[Epoch]) -> list[Result]:
        """Save and attack an encoder."""
        model = trainer.model.eval()
        self.save(run, model=model.state_dict())
        known: dict[str, Any] = {}
        if self.settings.choice == "blind":
            _, predicted = encode(model, self.problem, "validation", run.seed + 1)
        else:
            predicted, leak = measure(model, self.problem, "validation", self.settings, run.seed)
            known = {"val_leak_nats": leak.nats, "val_leak_score": leak.score}
            known |= {"attacker": leak.attacker}
        result = self.result(
            run,
            val_accuracy=predicted.accuracy,
            **known,
            ms_per_step=1000 * sum(row.seconds for row in rows) / self.settings.steps,
        )
        return [result]

    def choose(self) -> dict[str, float]:
        """β of each method, by the validation results."""
        # Test results are hidden: a run that diverged in the test must not change the choice when
        # the experiment is continued.
        rows = [replace(row, accuracy=math.nan) for row in self.results_of(self.search_runs)]
        blind = self.settings.choice == "blind"
        return {method: choose_beta(rows, method, blind=blind) for method in self.values}

    def test(self, run: Run, rows: Sequence[Result]) -> list[dict[str, Any]]:
        """The accuracy and the leak on the test part."""
        model = make_model(self.problem, self.settings, run)
        model.load_state_dict(self.load(run)["model"])
        predicted, leak = measure(model.eval(), self.problem, "test", self.settings, run.seed)
        tested = {
            "accuracy": predicted.accuracy,
            "shifted_accuracy": predicted.shifted_accuracy,
            "leak_nats": leak.nats,
            "leak_error": leak.standard_error,
            "leak_score": leak.score,
            "attacker": leak.attacker,
        }
        return [tested]

    def figures(self, shown: Sequence[Run]) -> dict[str, Figure]:
        """The trade-off between accuracy and leak, and learning curves."""
        return {
            "removal": draw(self.results.rows, self.tested, MARGIN),
            "curves": draw_curves(self.metrics.rows, shown),
        }

    def _nuisance(self) -> str:
        """Name of the nuisance, such as "sex" or "sex given label"."""
        given = "" if self.settings.given == "none" else f" given {self.settings.given}"
        return self.settings.nuisance + given

    def summary(self) -> str:
        """The conditions of the test, and its table."""
        chosen = "the largest" if self.settings.choice == "blind" else "the least leak"
        return (
            f"{self.settings.data}, {self._nuisance()}: test data, "
            f"{spread_of(self.options.seeds)}.\n"
            f"β is chosen on the validation data: {chosen} within "
            f"{100 * MARGIN:g} points of the accuracy\nwithout removal.\n\n"
            f"{format_table(self.tested)}"
        )


def choose_beta(rows: Sequence[Result], method: str, *, blind: bool = False) -> float:
    """The β with the least leak on the validation part, among the values that are accurate enough.

    The accuracy must be at most ``MARGIN`` below the accuracy of the method "none". If no β is
    accurate enough, the most accurate β is chosen. Of equally good values, the largest β is chosen.
    A β with a diverged run is left out (``without_divergence``).

    Args:
        rows: Results of all runs of the search.
        method: Method whose β is chosen.
        blind: Whether to choose the largest β that is accurate enough, instead of the least leak.
    """
    whole = [row.val_accuracy for row in rows if row.method == "none" and not row.diverged]
    least = np.mean(whole) - MARGIN if whole else 0.0

    def order(beta: float) -> tuple[bool, float, float]:
        accuracy = float(np.mean([row.val_accuracy for row in grid[beta]]))
        if accuracy < least:
            return True, -accuracy, -beta
        leak = 0.0 if blind else float(np.mean([row.val_leak_nats for row in grid[beta]]))
        return False, leak, -beta

    grid = without_divergence([row for row in rows if row.method == method])
    return min(grid, key=order)


def longer(
    strengths: Sequence[float], chosen: float, *, integer: bool = False, largest: float = math.inf
) -> list[float]:
    """Extend a grid of β by one value, at the ratio of the last two values, if an end was chosen.

    The grid stays unchanged if there is no ratio (next to 0, or in a grid of one value), and if the
    new value is 0, above ``largest``, or in the grid after rounding.

    Args:
        strengths: The grid.
        chosen: The value of the grid that was chosen.
        integer: Whether the new value is rounded to an integer.
        largest: The largest value that a grid may have.
    """
    betas = sorted(strengths)
    if len(betas) < 2:
        return betas
    if chosen == betas[-1] and betas[-2]:
        new = betas[-1] * (betas[-1] / betas[-2])
    elif chosen == betas[0] and betas[0]:
        new = betas[0] * (betas[0] / betas[1])
    else:
        return betas
    new = float(round(new) if integer else f"{new:.3g}")
    return sorted({*betas, new}) if 0 < new <= largest else betas


@command(Options, Settings)
def removal(options: Options, given: dict[str, Any]) -> Removals:
    """Information removal: what z still reveals about a nuisance, and what its removal costs."""
    settings = replace(QUICK if options.quick else Settings(), **given)
    if settings.data == "structural":
        if given.get("nuisance", "attribute") != "attribute":
            raise ValueError(
                "--nuisance goes with images, and --data structural has a nuisance of its own, "
                f"its attribute; got {settings.nuisance!r}"
            )
        settings = replace(settings, nuisance="attribute")
    elif settings.data in TABLES:
        known = TABLES[settings.data].nuisances
        if given.get("nuisance", known[0]) not in known:
            raise ValueError(
                f"--nuisance of {settings.data} must be one of {', '.join(known)}, "
                f"got {settings.nuisance!r}"
            )
        settings = replace(settings, nuisance=given.get("nuisance", known[0]))
    names = options.method or (QUICK_METHODS if options.quick else METHODS)
    options = replace(options, method=list(dict.fromkeys(["none", *names])))
    return Removals(common.filled(options, seeds=1 if options.quick else 3, threads=1), settings)
