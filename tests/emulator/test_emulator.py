"""The emulator reports every fault of ``faults.cu`` and accepts the kernels without faults."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.emulated import SCHEDULES, VARIANTS, CrashError, Emulator
from tests.support.process import ROOT

MODULE = "mige_emulator_faults"
X = np.arange(1, 65, dtype=np.float32)

# The results of the kernels of faults.cu without their faults.
_PARTNER = X[np.arange(64) ^ 1]
_NEIGHBOR = np.append(X[1:], X[-1:])
_LOWER = np.arange(64) % 32 < 16
EXPECTED = {
    "write_then_read": X[::-1],
    "read_then_write": 2 * _NEIGHBOR,
    "between_rounds": 6 * _NEIGHBOR,
    "plain_addition": np.full(64, X.sum()),
    "within_a_warp": _PARTNER,
    "two_barriers": X,
    "barrier_and_syncwarp": X,
    "early_return": X,
    "mask_names_a_lane_that_returned": np.where(_LOWER, _PARTNER, X),
    "mask_without_the_caller": _PARTNER,
    "reads_a_lane_outside_the_mask": np.where(_LOWER, np.repeat(X[[3, 35]], 32), X),
    "masks_that_differ": X,
    "global_overrun": np.roll(X, -1),
    "dynamic_overrun": X,
    "static_overrun": X,
    "uninitialized_static": X,
    "uninitialized_dynamic": X,
    "unwritten_output": X,
}

# The schedules in which a fault gives a wrong result, and the faults that leave NaN in the result.
WRONG = {
    "write_then_read": SCHEDULES,
    "read_then_write": ("descending", "shuffled"),
    "between_rounds": ("descending", "shuffled"),
    "within_a_warp": SCHEDULES,
}
NAN = (
    "write_then_read",
    "within_a_warp",
    "uninitialized_static",
    "uninitialized_dynamic",
    "unwritten_output",
)

# The text of the error, after the primitive and its line.
ERRORS = {
    "two_barriers": r"is reached while thread \(\d+, 0, 0\) waits at __syncthreads",
    "barrier_and_syncwarp": r"names lane 0, which waits at __syncthreads \(faults.cu:\d+\)",
    "early_return": r"waits forever: thread \(5, 0, 0\) has returned",
    "mask_names_a_lane_that_returned": r"its mask 0xffffffff names lane 16, which has returned",
    "mask_without_the_caller": r"its mask 0x0000ffff does not name the calling lane \d+",
    "reads_a_lane_outside_the_mask": r"reads lane 20, which its mask 0x0000ffff does not name",
    "masks_that_differ": r"with mask 0xffffffff waits forever",
}
OVERRUNS = {
    "global_overrun": "heap-buffer-overflow",
    "dynamic_overrun": "heap-buffer-overflow",
    "static_overrun": "global-buffer-overflow",
}
RACES = ("write_then_read", "read_then_write", "between_rounds", "plain_addition", "within_a_warp")

for_each_schedule = pytest.mark.parametrize("schedule", SCHEDULES)
for_each_variant = pytest.mark.parametrize("variant", VARIANTS)


def line_of(name: str) -> int:
    """The line of the fault in faults.cu."""
    lines = (ROOT / "tests" / "emulator" / "faults.cu").read_text().splitlines()
    (number,) = (n for n, text in enumerate(lines, 1) if text.endswith(f"// here: {name}"))
    return number


def kernels(variant: str, schedule: str = "ascending") -> Emulator:
    return Emulator(variant, MODULE, schedule)


@pytest.fixture(scope="module")
def plain() -> Iterator[Emulator]:
    with kernels("plain") as emulator:
        yield emulator


def run(emulator: Emulator, schedule: str, name: str, mended: bool) -> Any:
    emulator.call("set_schedule", schedule)
    return emulator.call("run", name, mended, X)


# --- without fault --------------------------------------------------------------------------------


@for_each_variant
def test_nothing_is_found_in_kernels_without_fault(variant: str) -> None:
    with kernels(variant) as emulator:
        assert set(emulator.call("names")) == set(EXPECTED)
        for name, expected in EXPECTED.items():
            for schedule in SCHEDULES:
                got = run(emulator, schedule, name, True)
                np.testing.assert_array_equal(got, expected, err_msg=f"{name}, {schedule}")


@for_each_schedule
@for_each_variant
def test_primitives_do_what_cuda_says(variant: str, schedule: str) -> None:
    with kernels(variant, schedule) as emulator:
        got = emulator.call("primitives", X)
    lane, warp = np.arange(64) % 32, np.arange(64) // 32
    at = X.reshape(2, 32)
    ones = np.ones(64)
    expected = [
        at[warp, 5],
        at[warp, lane // 8 * 8 + 11 % 8],
        at[warp, np.where(lane % 16 < 3, lane, lane - 3)],
        at[warp, np.where(lane + 3 < 32, lane + 3, lane)],
        at[warp, lane ^ 9],
        11 * ones,  # multiples of 3 in 0 … 31, and as many in 32 … 63
        np.where(warp == 0, 1, 10),
        910 * ones,
        128 * ones,
        63 * ones,
        X.sum() * ones,
        8 * ones,
    ]
    np.testing.assert_array_equal(got, np.stack(expected))


# --- wrong results --------------------------------------------------------------------------------


@for_each_schedule
@pytest.mark.parametrize("name", WRONG)
def test_a_missing_barrier_shows_under_some_schedule(
    plain: Emulator, name: str, schedule: str
) -> None:
    right = np.array_equal(run(plain, schedule, name, False), EXPECTED[name])
    assert right == (schedule not in WRONG[name])


@for_each_schedule
@pytest.mark.parametrize("name", NAN)
def test_values_that_were_never_written_are_nan(plain: Emulator, name: str, schedule: str) -> None:
    got = run(plain, schedule, name, False)
    assert np.isnan(got).any()
    if name.startswith("uninitialized"):
        assert np.isnan(got).all()  # also where an earlier block has written


def test_the_environment_chooses_the_schedule() -> None:
    def of(schedule: str) -> Any:
        with kernels("plain", schedule) as emulator:
            return emulator.call("run", "between_rounds", False, X)

    results = [of(schedule) for schedule in SCHEDULES]
    assert not np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert not np.array_equal(results[1], results[2])


@for_each_schedule
def test_schedules_are_the_same_from_run_to_run(plain: Emulator, schedule: str) -> None:
    results = [run(plain, schedule, "between_rounds", False) for _ in range(3)]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


# --- errors ---------------------------------------------------------------------------------------


@for_each_variant
def test_threads_that_wait_at_different_places_are_errors(variant: str) -> None:
    with kernels(variant) as emulator:
        for name, message in ERRORS.items():
            for schedule in SCHEDULES:
                with pytest.raises(RuntimeError, match=message) as raised:
                    run(emulator, schedule, name, False)
                text = str(raised.value)
                assert f"(faults.cu:{line_of(name)})" in text
                assert re.search(r"; block \(0, 0, 0\), thread \(\d+, 0, 0\)$", text), text
                # The next launch is not affected.
                np.testing.assert_array_equal(run(emulator, schedule, name, True), EXPECTED[name])


# --- reports of the sanitizers --------------------------------------------------------------------


@pytest.mark.parametrize("name", OVERRUNS)
def test_overruns_are_reported_with_their_line(name: str) -> None:
    with kernels("asan") as emulator, pytest.raises(CrashError) as raised:
        run(emulator, "ascending", name, False)
    report = str(raised.value)
    assert f"AddressSanitizer: {OVERRUNS[name]}" in report
    assert re.search(rf"#0 .*faults\.cu:{line_of(name)}\b", report), report


@for_each_schedule
@pytest.mark.parametrize("name", RACES)
def test_races_are_reported_with_their_line_under_any_schedule(name: str, schedule: str) -> None:
    with kernels("tsan") as emulator, pytest.raises(CrashError) as raised:
        run(emulator, schedule, name, False)
    report = str(raised.value)
    assert "ThreadSanitizer: data race" in report
    assert re.search(rf"#0 .*faults\.cu:{line_of(name)}\b", report), report


def test_no_schedule_shows_an_addition_that_is_not_atomic(plain: Emulator) -> None:
    """Only ThreadSanitizer finds this fault."""
    for schedule in SCHEDULES:
        got = run(plain, schedule, "plain_addition", False)
        np.testing.assert_array_equal(got, EXPECTED["plain_addition"])


# --- launches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid_x", "grid_y", "block", "message"),
    [
        (1, 1, 0, "invalid configuration"),
        (1, 1, 1025, "invalid configuration"),
        (0, 1, 32, "invalid configuration"),
        (2**31, 1, 32, "invalid configuration"),
        (1, 65536, 32, "invalid configuration"),
    ],
)
def test_launches_that_a_gpu_refuses_are_errors(
    plain: Emulator, grid_x: int, grid_y: int, block: int, message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        plain.call("launch", grid_x, grid_y, block, 0)
    plain.call("launch", 1, 1, 1024, 0)  # the next launch is not affected


@pytest.mark.parametrize("limit", [99, 163, 227])
def test_shared_memory_is_limited_by_the_emulated_device(limit: int) -> None:
    with kernels("plain") as emulator:
        emulator.call("set_device", limit * 1024)
        emulator.call("launch", 1, 1, 32, limit * 1024)
        with pytest.raises(RuntimeError, match="invalid argument"):
            emulator.call("launch", 1, 1, 32, limit * 1024 + 1)


def test_an_unknown_schedule_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="schedule must be ascending"), kernels("plain") as e:
        e.call("set_schedule", "sideways")


# --- approximate instructions ---------------------------------------------------------------------

ARGUMENTS = np.exp(np.linspace(-40, 40, 301)).astype(np.float32)


def approximations(emulator: Emulator, noise: int) -> tuple[Any, Any]:
    """Approximations of 1 / √v and 1 / v, and their errors in units of the last place."""
    emulator.call("set_noise", noise)
    got, errors = [], []
    for name, exact in [
        ("approximate_rsqrt", 1 / np.sqrt(ARGUMENTS)),
        ("approximate_reciprocal", 1 / ARGUMENTS),
    ]:
        values = [emulator.call(name, float(v)) for v in ARGUMENTS]
        got.append(np.array(values, dtype=np.float32))
        errors.append(got[-1].view(np.int32) - exact.view(np.int32))
    return np.stack(got), np.stack(errors)


def test_noise_moves_approximations_by_up_to_two_units(plain: Emulator) -> None:
    got, errors = approximations(plain, 0)
    assert abs(errors).max() <= 1  # numpy rounds √v before the division too
    for noise in (1, 2):
        noisy, errors = approximations(plain, noise)
        moved = noisy.view(np.int32) - got.view(np.int32)
        assert set(moved.ravel()) == {-2, -1, 0, 1, 2}
        np.testing.assert_array_equal(approximations(plain, noise)[0], noisy)
    assert not np.array_equal(approximations(plain, 1)[0], noisy)
    plain.call("set_noise", 0)


def test_approximations_take_denormal_numbers_as_zero(plain: Emulator) -> None:
    assert plain.call("approximate_rsqrt", 1e-39) == np.inf
    assert plain.call("approximate_reciprocal", -1e-39) == -np.inf
    assert plain.call("approximate_reciprocal", 3e38) == 0


def test_the_environment_chooses_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(noise: str) -> list[float]:
        monkeypatch.setenv("MIGE_EMULATOR_NOISE", noise)
        with kernels("plain") as emulator:
            return [emulator.call("approximate_rsqrt", float(v)) for v in ARGUMENTS[:50]]

    assert of("") == of("0")
    assert of("1") != of("0")
    with pytest.raises(RuntimeError, match="MIGE_EMULATOR_NOISE must be an integer"):
        of("two")
