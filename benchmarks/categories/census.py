"""The command ``python -m benchmarks census``, which removes sex and race from codes of Adult."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

import mige_ext as mige
from benchmarks.machine import machine
from benchmarks.options import Methods, Out, Save, Seeds, Threads, require_known
from benchmarks.tables import RESULTS, print_table, write_csv
from mige_ext.experiments.common.device import cpu_threads
from mige_ext.experiments.common.tables import format_mean
from mige_ext.experiments.data.tables import TableData, TablePart, load

ATTRIBUTES = ("sex", "race")
#: Number of codes of training data to which attackers are fitted.
CODES = 12_000
#: Number of steps in which the weight of the penalty grows from 0.
WARM_UP = 100

#: ``penalty(s, z)``; None trains without a penalty.
Penalty = Callable[[Tensor, Tensor], Tensor] | None


@dataclass(frozen=True)
class Method:
    """A penalty with its weights β."""

    penalty: Penalty
    betas: tuple[float, ...]
    uses_s: bool = True  #: whether the penalty depends on s; otherwise all s share one encoder


METHODS: dict[str, Method] = {
    "none": Method(None, (0.0,), uses_s=False),
    "own": Method(lambda s, z: mige.mutual_information(s, z, marginal="own"), (0.1, 0.2)),
    "gaussian": Method(
        lambda s, z: mige.mutual_information(s, z, marginal="own", estimator=mige.GaussianScore()),
        (0.1, 0.2),
    ),
    "contraction": Method(lambda s, z: -mige.negentropy(z), (0.02, 0.04), uses_s=False),
    "paired": Method(lambda s, z: mige.mutual_information(s, z), (0.3, 0.6)),
}


@dataclass(frozen=True)
class Row:
    """A method with a weight on an attribute.

    Attributes:
        attribute: Name of s.
        method: Name in ``METHODS``.
        beta: Weight of the penalty.
        seed: Seed of the encoder and the batches.
        accuracy: Accuracy of the label on the test rows, in %.
        leak: Lower bound of I(s; z) by attackers (``mige_ext.audit``), in nats.
        standard_error: Standard error of the leak over the test rows.
    """

    attribute: str
    method: str
    beta: float
    seed: int
    accuracy: float
    leak: float
    standard_error: float


def census(
    methods: Methods = None,
    seeds: Seeds = 1,
    steps: Annotated[int, typer.Option(min=1, help="Train for this many steps.")] = 700,
    threads: Threads = 1,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with UCI's files. Default: a package with them.")
    ] = None,
    out: Out = Path("runs/census"),
    save: Save = False,
) -> None:
    """Remove sex and race from codes of a census, and attack the codes.

    A seed takes about three minutes on one core. The file is written after every method.
    """
    require_known("--method", methods, METHODS)
    chosen = {name: METHODS[name] for name in methods or METHODS}
    table = load("adult", data_dir)
    folder = RESULTS if save else out
    print(f"{machine()}; threads: {threads}; {len(table.train)} training rows")
    rows: list[Row] = []
    with cpu_threads(threads):
        for seed in range(seeds):
            for name, method in chosen.items():
                rows += run(table, name, method, seed, steps)
                header = [field.name for field in fields(Row)]
                write_csv(folder / "census.csv", header, [astuple(row) for row in rows])
    report(rows)


def report(rows: Sequence[Row]) -> None:
    """Print the means over the seeds, with standard errors."""
    header = ("attribute", "method", "beta", "accuracy, %", "leak, nats")
    lines: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        lines.setdefault((row.attribute, row.method, row.beta), []).append(row)
    table = [
        [
            *line,
            format_mean([row.accuracy for row in found], 2),
            format_mean([row.leak for row in found], 3),
        ]
        for line, found in sorted(lines.items(), key=lambda each: ATTRIBUTES.index(each[0][0]))
    ]
    print_table("Removal", header, table)


def run(table: TableData, name: str, method: Method, seed: int, steps: int) -> list[Row]:
    """Train with every weight, and attack the codes."""
    return [row for beta in method.betas for row in _run(table, name, method, beta, seed, steps)]


def _run(
    table: TableData, name: str, method: Method, beta: float, seed: int, steps: int
) -> list[Row]:
    rows = []
    trained: tuple[nn.Module, nn.Module] | None = None
    for attribute in ATTRIBUTES:
        if trained is None or method.uses_s:
            trained = _trained(table.train, attribute, method.penalty, beta, seed, steps)
        encoder, head = trained
        with torch.no_grad():
            train, test = (encoder(part.x) for part in (table.train, table.test))
            found = head(test).argmax(-1)
        accuracy = 100 * float((found == table.test.labels).double().mean())
        s, held_out = (part.nuisances[attribute] for part in (table.train, table.test))
        codes = train[:CODES], s[:CODES]
        leak = mige.audit.leakage(*codes, test=(test, held_out), progress=False)
        result = accuracy, leak.nats, leak.standard_error
        rows.append(Row(attribute, name, beta, seed, *result))
    return rows


def _trained(
    data: TablePart, attribute: str, penalty: Penalty, beta: float, seed: int, steps: int
) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    encoder = nn.Sequential(
        nn.Linear(data.x.shape[1], 64), nn.ReLU(), nn.Linear(64, 8), nn.BatchNorm1d(8, affine=False)
    )
    head = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    adam = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    s = data.nuisances[attribute]
    for step in range(steps):
        batch = torch.randint(len(data), (384,))
        z = encoder(data.x[batch])
        loss = F.cross_entropy(head(z), data.labels[batch])
        if penalty is not None:
            weight = beta * min(1.0, step / WARM_UP)
            loss = loss + weight * penalty(s[batch], z)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return encoder.eval(), head.eval()
