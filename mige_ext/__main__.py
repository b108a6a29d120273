"""The command line: ``python -m mige_ext {toy,bottleneck,bench,info}``."""

import sys

from mige_ext.report import bench, info


def main() -> None:
    """Runs the command line; needs the extra ``experiments``."""
    try:
        import typer
    except ImportError:
        if sys.argv[1:] == ["info"]:
            return info()
        sys.exit("The command line needs the extra `experiments`: typer, matplotlib, tqdm, sklearn")
    from mige_ext.experiments.bottleneck import bottleneck
    from mige_ext.experiments.toy import toy

    app = typer.Typer(help="MIGE: mutual information gradients.", no_args_is_help=True)
    for command in (toy, bottleneck, bench, info):
        app.command()(command)
    app(prog_name="python -m mige_ext")


if __name__ == "__main__":
    main()
