"""The command line: ``python -m mige_ext {toy,bottleneck,bench,info}``."""

import sys

from mige_ext.report import bench, info


def main() -> None:
    """Runs the command line; needs the extra ``experiments``."""
    try:
        import typer

        from mige_ext.experiments.bottleneck import bottleneck
        from mige_ext.experiments.toy import toy
    except ImportError as error:
        if sys.argv[1:] == ["info"]:  # what one runs to find out what is missing
            info()
            return
        sys.exit(
            f"The command line needs the extra `experiments` ({error}). In the source tree: "
            "pip install --no-build-isolation '.[experiments]'"
        )

    app = typer.Typer(help="MIGE: mutual information gradients.", no_args_is_help=True)
    for command in (toy, bottleneck, bench, info):
        app.command()(command)
    app(prog_name="python -m mige_ext")


if __name__ == "__main__":
    main()
