"""The command line: ``python -m mige_ext {toy,infomax,bottleneck,removal,data,bench,info}``."""

import sys

from mige_ext.report import bench, info


def main() -> None:
    """Runs the command line; needs the extra ``experiments``."""
    try:
        import typer

        from mige_ext.experiments.bottleneck.command import bottleneck
        from mige_ext.experiments.data.images import data
        from mige_ext.experiments.infomax.command import infomax
        from mige_ext.experiments.removal.command import removal
        from mige_ext.experiments.toy.command import toy
    except ImportError as error:
        if sys.argv[1:] == ["info"]:  # what one runs to find out what is missing
            info()
            return
        if sys.argv[1:2] == ["bench"] and len(sys.argv) > 2:  # operators need torch alone
            bench(sys.argv[2:])
            return
        sys.exit(
            f"The command line needs the extra `experiments` ({error}). In the source tree: "
            "pip install --no-build-isolation '.[experiments]'"
        )

    app = typer.Typer(help="MIGE: mutual information gradients.", no_args_is_help=True)
    for command in (toy, infomax, bottleneck, removal, data, info):
        app.command()(command)

    # The benchmarks have their own parser, because each of them is a script as well.
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

    @app.command("bench", context_settings=passed_on)
    def _(context: typer.Context) -> None:
        """Measures: end to end, or with a name, one operator (bench --help lists them)."""
        bench(context.args)

    app(prog_name="python -m mige_ext")


if __name__ == "__main__":
    main()
