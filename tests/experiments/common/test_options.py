"""Options that are declared once: their ranges, and their names on the command line."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mige_ext.experiments.common.experiment import command
from mige_ext.experiments.common.options import Checked, Options, filled, fixed, option


@dataclass(frozen=True)
class Settings(Checked):
    size: int = option(2, "Size.", least=1, shown="2; quick 1")
    rate: float = option(0.5, "Rate.", positive=True)
    decay: float = option(0.0, "Decay.", least=0, below=1)
    kind: str = option("a", "Kind.", choices=("a", "b"))
    betas: list[float] | None = option(None, "Values of β.", least=0)
    smooth: bool = option(True, "Smooth.")
    hidden: int = fixed(3, "Units.", least=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"rate": 0.0}, "rate must be finite and positive, got 0.0"),
        ({"rate": math.inf}, "rate must be finite and positive, got inf"),
        ({"decay": 1.0}, "decay must be finite and at least 0 and below 1, got 1.0"),
        ({"kind": "c"}, r"kind must be one of \['a', 'b'\], got 'c'"),
        ({"betas": [0.1, math.nan]}, "betas must be finite and at least 0, got nan"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
    ],
)
def test_a_value_out_of_range_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**values)


def test_filled_changes_only_what_is_not_given() -> None:
    assert filled(Options(threads=3), threads=1).threads == 3
    assert filled(Options(), threads=1).threads == 1


def test_a_command_has_an_option_for_each_field() -> None:
    seen: list[Any] = []

    @command(Options, Settings)
    def example(options: Options, given: dict[str, Any]) -> Any:
        """An example."""
        seen.append((options, given))
        raise ValueError("enough")

    app = typer.Typer()
    app.command()(example)
    runner = CliRunner(env={"COLUMNS": "120"})
    shown = runner.invoke(app, ["--help"]).output
    for part in ("An example.", "--size", "2; quick 1", "--no-smooth", "Kind: a, b.", "--out"):
        assert part in shown
    assert "--hidden" not in shown
    result = runner.invoke(
        app, ["--size", "4", "--no-smooth", "--betas", "0.1", "--betas", "2", "--quick"]
    )
    assert result.exit_code == 2 and "enough" in result.output
    ((parsed, given),) = seen
    assert parsed.quick and not parsed.resume and str(parsed.out) == "runs/example"
    assert given == {"size": 4, "smooth": False, "betas": [0.1, 2.0]}
