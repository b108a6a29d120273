"""The command line: ``python -m mige_ext {demo,toy,infomax,bottleneck,removal,data,info}``.

The module of a command is imported only when the command runs, so that the help does not wait for
torch, matplotlib and scikit-learn, which take seconds to load.
"""

import signal
import sys
from importlib import import_module
from typing import Any

#: For each command, the module of its function and its line in ``--help``.
COMMANDS = {
    "demo": ("experiments.demo", "Run the four experiments with small settings."),
    "toy": ("experiments.toy.command", "Correlated Gaussians: the paper's Figure 1."),
    "infomax": ("experiments.infomax.command", "Unsupervised InfoMax: the paper's Table 1."),
    "bottleneck": (
        "experiments.bottleneck.command",
        "Information Bottleneck: the paper's Table 2.",
    ),
    "removal": ("experiments.removal.command", "Removal of a nuisance from a representation."),
    "data": ("experiments.data.command", "Load and verify a data set, and print a summary."),
    "info": ("_installation", "Print versions, back ends, and whether CUDA is available."),
}


def before_torch_loads() -> None:
    """Print the help if no command is given. Otherwise let Ctrl-C end the process at once.

    The package calls this function before it imports torch.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1:2] not in [[name] for name in COMMANDS]:
        main()  # exits after the help or an error


def main() -> None:
    """Run the command in ``sys.argv``; all except ``info`` need the extra ``experiments``."""
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        import typer

        function: Any = _load(asked) if asked in COMMANDS else None
    except ModuleNotFoundError as error:
        if asked == "info":
            _load("info")()
            return
        sys.exit(
            f"The command line needs the extra `experiments` ({error}). In the source tree: "
            "pip install --no-build-isolation '.[experiments]'\n"
            "The command `info` works without this extra."
        )
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    app = typer.Typer(
        help="MIGE: mutual information gradients.", no_args_is_help=True, add_completion=False
    )
    for name, (_, summary) in COMMANDS.items():
        if name == asked:
            app.command(name)(function)
        else:
            app.command(name, help=summary)(lambda: None)
    app(prog_name="python -m mige_ext")


def _load(name: str) -> Any:
    module, _ = COMMANDS[name]
    return getattr(import_module(f"mige_ext.{module}"), name)
