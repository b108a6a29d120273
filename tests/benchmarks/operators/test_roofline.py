"""The roofline: its ceilings and its figure."""

from pathlib import Path

import pytest
import torch

from benchmarks.operators import roofline
from tests.benchmarks.operators.inputs import CEILINGS, record
from tests.support.inputs import for_each_dtype


def test_the_roof_is_the_lower_of_two_ceilings() -> None:
    assert CEILINGS.attainable(flop=2.0, size=1.0) == 20.0  # below the ridge at 10 flop per byte
    assert CEILINGS.attainable(flop=10.0, size=1.0) == 100.0
    assert CEILINGS.attainable(flop=1000.0, size=1.0) == 100.0
    # 2e9 flop on 1e9 bytes take 0.1 s at best
    assert CEILINGS.percent(flop=2e9, size=1e9, seconds=0.1) == pytest.approx(100.0)
    assert CEILINGS.percent(flop=2e9, size=1e9, seconds=0.4) == pytest.approx(25.0)
    assert CEILINGS.percent(flop=1e12, size=1e9, seconds=20.0) == pytest.approx(50.0)


@for_each_dtype
def test_ceilings_come_from_times(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setitem(roofline.MATMUL, "cpu", 64)
    monkeypatch.setitem(roofline.COPY, "cpu", 1 << 20)
    monkeypatch.setattr(roofline, "_fastest", lambda function, device: function() is None or 1e-3)
    ceilings = roofline.measure_ceilings("cpu", dtype)
    convolution = 2 * 8 * 256 * 32 * 32 * 256 * 9  # more than 2 · 64³, in the same time
    assert ceilings.gflops == pytest.approx(convolution * 4 / dtype.itemsize / 1e-3 / 1e9)
    assert ceilings.gbs == pytest.approx(2 * 2**20 / 1e-3 / 1e9)


def test_the_roofline_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "made" / "roofline.png"
    roofline.draw(path, [record(), record(operator="eigh", size="n=9", gflops=1.0)], CEILINGS)
    assert path.read_bytes()[:4] == b"\x89PNG"
