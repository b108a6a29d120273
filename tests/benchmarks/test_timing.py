"""The clock of the benchmarks."""

import pytest
import torch

from benchmarks import timing


def test_on_cuda_events_enclose_the_second_call(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            done.append("event")

        def elapsed_time(self, end: object) -> float:
            assert end is not self
            return 4.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("fence"))
    assert timing.time_call(lambda: done.append("call"), "cuda") == pytest.approx(4e-3)
    assert done == ["fence", "call", "event", "call", "event", "fence"]


def test_calls_are_interleaved_and_every_second_one_counts() -> None:
    calls: list[str] = []
    times = timing.time_each(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=0.0, least=2
    )
    assert calls == ["a", "a", "b", "b"] * 2
    assert set(times) == {"a", "b"}
    assert timing.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
