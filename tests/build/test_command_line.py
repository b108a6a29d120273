"""The command line as a user calls it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mige_ext
from mige_ext import _C, report
from tests.support.process import ROOT, environment


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mige_ext", *arguments],
        capture_output=True, text=True, cwd=ROOT, env=environment(),
    )  # fmt: skip


def test_info_says_what_is_built_and_what_is_used() -> None:
    result = run("info")
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


@pytest.mark.parametrize(
    ("architectures", "cuda", "expected"),
    [
        ("", None, "built without nvcc"),
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
    assert report.cuda_status().startswith("no: ")
    assert expected in report.cuda_status()


def test_help_lists_the_commands() -> None:
    result = run("--help")
    assert result.returncode == 0
    for command in ("toy", "infomax", "bottleneck", "removal", "data", "bench", "info"):
        assert command in result.stdout


def test_an_unknown_command_is_refused() -> None:
    result = run("toys")
    assert result.returncode != 0
    assert "toys" in result.stderr


def test_bench_outside_the_source_tree_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mige_ext, "__file__", str(tmp_path / "mige_ext" / "__init__.py"))
    with pytest.raises(SystemExit, match="source tree"):
        report.bench()
