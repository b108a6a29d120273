"""The command line as a user calls it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mige_ext
from mige_ext import _C, _command_line
from mige_ext._installation import cuda_status
from tests.support.process import ROOT, environment


def run(*arguments: str, modules: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line with the folder ``modules`` first in the search for modules."""
    variables = environment()
    if modules is not None:
        variables["PYTHONPATH"] = os.pathsep.join([str(modules), variables["PYTHONPATH"]])
    return subprocess.run(
        [sys.executable, "-m", "mige_ext", *arguments],
        capture_output=True, text=True, cwd=ROOT, env=variables,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


@pytest.fixture
def without_extra(tmp_path: Path) -> Path:
    """A folder of modules that hides the extra ``experiments``."""
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('No module named typer')")
    return tmp_path


@pytest.mark.library
def test_info_says_what_is_built_and_what_is_used(without_extra: Path) -> None:
    result = run("info", modules=without_extra)
    assert result.returncode == 0, result.stderr
    facts = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    assert facts["mige_ext"] == mige_ext.__version__
    assert facts["torch"].startswith(torch.__version__)
    assert _C.torch_version in facts["torch"]
    assert "threads" in facts["CPU kernels"]
    assert facts["CUDA compiled"].endswith(_C.cuda_architectures or "no")
    assert facts["CUDA available"].split(":")[0] in ("yes", "no")
    assert torch.cuda.is_available() or facts["CUDA available"].startswith("no: ")


def test_info_is_the_same_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mige_ext", "info"])
    with pytest.raises(SystemExit) as stop:
        _command_line.main()
    assert not stop.value.code
    assert f"CUDA available  {cuda_status()}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("architectures", "cuda", "expected"),
    [
        ("", None, "a build without CUDA"),
        ("", "13.0", "built without nvcc"),
        ("90", None, "a build without CUDA"),
        ("90", "13.0", "no usable GPU"),
    ],
)
def test_info_says_why_there_is_no_cuda(
    monkeypatch: pytest.MonkeyPatch, architectures: str, cuda: str | None, expected: str
) -> None:
    monkeypatch.setattr(_C, "cuda_architectures", architectures)
    monkeypatch.setattr(_C, "cuda_torch_found", int(cuda is not None))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda_status().startswith("no: ")
    assert expected in cuda_status()


COMMANDS = ("demo", "toy", "infomax", "bottleneck", "removal", "data", "info")


def test_help_lists_the_commands_without_torch(tmp_path: Path) -> None:
    for heavy in ("torch", "numpy", "matplotlib", "sklearn"):
        (tmp_path / f"{heavy}.py").write_text("raise SystemError('imported for the help')")
    result = run("--help", modules=tmp_path)
    assert result.returncode == 0, result.stderr
    for command in COMMANDS:
        assert command in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mige_ext", command, "--help"])
    with pytest.raises(SystemExit) as stop:
        _command_line.main()
    assert not stop.value.code
    assert f"python -m mige_ext {command} " in capsys.readouterr().out


@pytest.mark.thorough  # because it loads torch once more
def test_python_m_prints_the_help_of_a_command() -> None:
    result = run("toy", "--help")
    assert result.returncode == 0, result.stderr
    assert "python -m mige_ext toy " in result.stdout


def test_without_the_extra_help_says_what_to_install(without_extra: Path) -> None:
    for arguments in (["--help"], ["toy"]):
        result = run(*arguments, modules=without_extra)
        assert result.returncode == 1
        assert "needs the extra `experiments` (No module named typer)" in result.stderr
        assert "pip install --no-build-isolation '.[experiments]'" in result.stderr
        assert "Traceback" not in result.stderr


def test_ctrl_c_while_torch_loads_leaves_no_traceback(tmp_path: Path) -> None:
    interrupt = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    (tmp_path / "torch.py").write_text(interrupt)
    result = run("data", "digits", modules=tmp_path)
    assert result.returncode == -signal.SIGINT
    assert result.stderr == ""


def test_an_unknown_command_is_refused() -> None:
    result = run("toys")
    assert result.returncode != 0
    assert "toys" in result.stderr
