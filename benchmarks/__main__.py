"""``python -m benchmarks``, with one command for each benchmark."""

import sys
import warnings

from mige_ext import MigeWarning

try:
    import typer

    from benchmarks.accuracy.command import accuracy
    from benchmarks.batch_size import batch_size
    from benchmarks.categories.census import census
    from benchmarks.categories.command import categories
    from benchmarks.end_to_end import end_to_end
    from benchmarks.operators.command import operators
    from benchmarks.recording import recording
    from benchmarks.scaling.command import scaling
    from benchmarks.student import student
    from benchmarks.tasks.command import tasks
    from benchmarks.values.command import values
except ImportError as error:
    sys.exit(
        f"The benchmarks need the extra `experiments` ({error}): "
        "pip install --no-build-isolation '.[experiments]'"
    )

app = typer.Typer(
    help="Benchmarks of mige_ext. Results are in benchmarks/README.md.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (
    end_to_end,
    operators,
    accuracy,
    categories,
    census,
    tasks,
    values,
    scaling,
    recording,
    student,
    batch_size,
):
    app.command()(command)

if __name__ == "__main__":
    # Benchmarks also measure few samples in many dimensions, and more than 10,000 samples.
    warnings.filterwarnings("ignore", r"M = \d+ ", MigeWarning)
    app(prog_name="python -m benchmarks")
