"""The command line: ``python -m mige_ext {toy,bottleneck,bench,info}``."""

import sys


def main() -> None:
    """Runs the command line; needs the extra ``experiments``."""
    try:
        import typer
    except ImportError:
        sys.exit("The command line needs typer: pip install 'mige_ext[experiments]'")
    from mige_ext.experiments.bottleneck import bottleneck
    from mige_ext.experiments.toy import toy
    from mige_ext.report import bench, info

    app = typer.Typer(help="MIGE: mutual information gradients.", no_args_is_help=True)
    for command in (toy, bottleneck, bench, info):
        app.command()(command)
    app(prog_name="python -m mige_ext")


if __name__ == "__main__":
    main()
