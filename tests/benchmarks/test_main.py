"""``python -m benchmarks`` as a user calls it."""

from typer.testing import CliRunner

from benchmarks.__main__ import app


def test_help_lists_the_commands() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0, result.output
    for command in (
        "end-to-end",
        "operators",
        "accuracy",
        "categories",
        "census",
        "tasks",
        "values",
        "scaling",
        "recording",
        "student",
        "batch-size",
    ):
        assert command in result.output
