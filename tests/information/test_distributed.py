"""The gradients of several processes are those of one process that has all samples."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import mige_ext as mige
from mige_ext import distributed
from tests.support.accuracy import rounding
from tests.support.inputs import normal
from tests.support.process import ROOT, environment

SSGE = mige.SSGE()
LANDMARKS = mige.Landmarks(m=8, rank=4)
ESTIMATORS: dict[str, mige.ScoreEstimator] = {"all-gather": SSGE, "all-reduce": LANDMARKS}
SECONDS = 60  # the timeout of a collective

# Surrogates of inputs x (N, 4) and their codes z (N, 3).
Surrogate = Callable[..., Tensor]
SURROGATES: dict[str, Surrogate] = {
    "entropy": lambda x, z, **how: mige.entropy(z, **how),
    "negentropy": lambda x, z, estimator, **how: mige.negentropy((3 * z).exp(), **how),
    "mutual_information": lambda x, z, **how: mige.mutual_information(x, z, **how),
    "code_information": lambda x, z, **how: with_fixed_noise(x, z, **how),
    "projected": lambda x, z, **how: mige.mutual_information(
        x, z, projection=mige.RandomProjection(k=2), **how
    ),
    "both": lambda x, z, **how: mige.mutual_information(torch.sin(3 * z), z, **how),
    "category": lambda x, z, estimator, **how: mige.mutual_information(x[:, 0] > 0, z, **how),
    "category-own": lambda x, z, **how: mige.mutual_information(
        x[:, 0] > 0, z, marginal="own", **how
    ),
    "category-given": lambda x, z, estimator, **how: mige.mutual_information(
        x[:, 0] > 0, z, given=x[:, 1] > 0, **how
    ),
    "given": lambda x, z, **how: mige.mutual_information(x, z, given=x[:, 0] > 0, **how),
    "draws": lambda x, z, **how: mige.encoder_information(
        torch.stack([z, z.sin(), z.cos()], -2), **how
    ),
    "conditional": lambda x, z, **how: mige.encoder_information(
        z.unsqueeze(-2), conditional=z.square().sum(-1), **how
    ),
}


def with_fixed_noise(x: Tensor, z: Tensor, **how: Any) -> Tensor:
    """code_information whose noise is a function of the code, so it is equal for any split."""
    noise = "mige_ext.information._mutual._noise_like"
    with mock.patch(noise, lambda code, batch: torch.sin(9 * code.detach())):
        return mige.code_information(x, z, **how)


def inputs(rows: int = 26) -> Tensor:
    return normal(rows, 4)


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def gradients(network: nn.Module, loss: Tensor) -> Tensor:
    network.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


# --- what the processes run -----------------------------------------------------------------------


def trained(rank: int, world: int, *, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Gradients of the encoder, averaged by DDP, for every surrogate and estimator."""
    x = inputs().split(sizes)[rank]
    network = DistributedDataParallel(encoder())
    return {
        f"{name}-{way}": gradients(
            network, surrogate(x, network(x), estimator=estimator, group=dist.group.WORLD)
        )
        for name, surrogate in SURROGATES.items()
        for way, estimator in ESTIMATORS.items()
    }


def invalid_arguments(rank: int, world: int) -> dict[str, tuple[str, str]]:
    """The errors of arguments that are invalid on the last rank alone, or that differ by rank."""
    last = rank == world - 1
    nan = torch.full((4, 3), torch.nan if last else 1.0)
    cases: dict[str, Callable[[Any], Any]] = {
        "type": lambda g: mige.entropy("z" if last else normal(4, 3), group=g),  # type: ignore[arg-type]
        "finite": lambda g: mige.entropy(nan, group=g),
        "finite-landmarks": lambda g: mige.entropy(nan, estimator=LANDMARKS, group=g),
        "columns": lambda g: mige.entropy(normal(4, 3 + last), group=g),
        "dtype": lambda g: mige.entropy(normal(4, 3).to(DTYPES[last]), group=g),
        "gradient": lambda g: mige.mutual_information(
            normal(4, 3).requires_grad_(last), normal(4, 2).requires_grad_(), group=g
        ),
        "pairs": lambda g: mige.mutual_information(normal(4 + last, 3), normal(4, 2), group=g),
        "few": lambda g: mige.entropy(normal(rank, 3)[:1], group=g),
        "category": lambda g: mige.mutual_information(
            torch.zeros(4 + last, dtype=torch.int64), normal(4, 3), group=g
        ),
        "given": lambda g: mige.mutual_information(
            normal(4, 3), normal(4, 2), given=torch.ones(4).long() if last else None, group=g
        ),
        "landmarks": lambda g: distributed.all_reduce(
            mige.Landmarks(m=3).start_with(normal(3, 2, seed=rank)), g
        ),
        "draws": lambda g: mige.encoder_information(normal(2, 1 if last else 2, 3), group=g),
    }
    found = {}
    for name, call in cases.items():
        try:
            call(dist.group.WORLD)
        except (TypeError, ValueError) as error:
            found[name] = (type(error).__name__, str(error))
    return found


DTYPES = (torch.float64, torch.float32)


def summed(rank: int, world: int) -> Tensor:
    """A fit whose samples and batches are split over the ranks."""
    x = inputs()
    running = LANDMARKS.start(x)
    for batch in x.split(5)[rank::world]:
        running.partial_fit(batch)
    distributed.all_reduce(running, dist.distributed_c10d._get_default_group())
    return running.solve().score(x)


def within_a_subgroup(rank: int, world: int) -> Tensor | str:
    """The gradient of an entropy over a group of ranks 1 and 2. Other ranks return the error."""
    group = dist.new_group([1, 2])
    z = inputs().split((10, 9, 4, 3))[rank].requires_grad_()
    try:
        mige.entropy(z, group=group).backward()
    except TypeError as error:
        return str(error)
    assert z.grad is not None
    return z.grad


# The work by number of processes. Starting processes is slow, so each number is started only once.
WORK: dict[int, dict[str, Callable[[int, int], Any]]] = {
    2: {
        "even": partial(trained, sizes=(13, 13)),
        "empty": partial(trained, sizes=(26, 0)),
        "invalid": invalid_arguments,
        "summed": summed,
    },
    4: {"uneven": partial(trained, sizes=(7, 6, 1, 12)), "subgroup": within_a_subgroup},
}


def start(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/rendezvous", timedelta(seconds=SECONDS), world, rank
    )
    results = {name: work(rank, world) for name, work in WORK[world].items()}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


Results = dict[str, list[Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The result of each piece of work on each rank."""
    found: Results = {}
    for world, work in WORK.items():
        folder = tmp_path_factory.mktemp(f"{world}-processes")
        spawn(start, (world, str(folder)), nprocs=world)
        ranks = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]
        found |= {name: [rank[name] for rank in ranks] for name in work}
    return found


# --- tests ----------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("split", ["even", "empty", "uneven"])
def test_gradients_of_several_processes_are_those_of_one(results: Results, split: str) -> None:
    x, network = inputs(), encoder()
    for name, surrogate in SURROGATES.items():
        for way, estimator in ESTIMATORS.items():
            exact = gradients(network, surrogate(x, network(x), estimator=estimator))
            for rank, found in enumerate(results[split]):
                error = (found[f"{name}-{way}"] - exact).norm() / exact.norm()
                # Several ranks add terms in another order, and the sums are then divided by
                # eigenvalues. These eigenvalues are not small.
                assert error <= 100 * rounding(x.dtype, len(x)), (name, way, rank, error)


@pytest.mark.thorough
def test_an_invalid_argument_raises_on_every_rank(results: Results) -> None:
    first, last = results["invalid"]
    assert last["type"] == ("TypeError", "z must be a torch.Tensor, got str")
    assert first["type"] == (
        "ValueError",
        "invalid argument on rank 1 of group: " + last["type"][1],
    )
    for case, words in {
        "finite": "z must be finite",
        "finite-landmarks": "z must be finite",
        "pairs": "x and z must agree in all but the last dimension",
        "draws": "z must have shape (..., N, K, d)",
        "category": "x must have the leading dimensions and the samples of z, shape (4,)",
        "columns": "z must differ between the ranks of group only in the number of samples M, got "
        "torch.float64 (M, 3) without gradient on rank 0 and torch.float64 (M, 4) without",
        "dtype": "torch.float64 (M, 3) without gradient on rank 0 and torch.float32 (M, 3)",
        "gradient": "x must differ between the ranks of group only in the number of samples M",
        "few": "z must have at least 2 samples on all ranks of group together, got 1",
        "given": "given must be passed on all ranks of group or on none, got 2 tensors on rank 0",
        "landmarks": "statistics must have the same landmarks on all ranks of group",
    }.items():
        assert words in first[case][1], case
        assert words in last[case][1], case


@pytest.mark.thorough
def test_statistics_of_several_processes_are_summed(results: Results) -> None:
    x = inputs()
    exact = LANDMARKS.score(x)
    for found in results["summed"]:
        assert (found - exact).norm() <= 100 * rounding(x.dtype, len(x)) * exact.norm()


@pytest.mark.thorough
def test_a_group_may_contain_some_of_the_processes(results: Results) -> None:
    outside, *inside, _ = results["subgroup"]
    assert "group must be" in outside
    z = inputs()[10:23].requires_grad_()
    mige.entropy(z).backward()
    assert z.grad is not None
    exact = 2 * z.grad  # doubled, because DDP then divides by the number of ranks
    assert (torch.cat(inside) - exact).norm() <= rounding(z.dtype, len(z)) * exact.norm()


@pytest.mark.parametrize(("rank", "offset", "weight"), [(0, 0, 2 / 3), (1, 4, 4 / 3)])
def test_ranks_are_weighted_by_their_numbers_of_samples(
    rank: int, offset: int, weight: float
) -> None:
    class Ones:
        def score_distributed(self, samples: Tensor, **place: Any) -> Tensor:
            assert (place["offset"], place["total"]) == (offset, 12)
            return torch.ones_like(samples)

    ones: Any = Ones()
    group: Any = None
    batch = distributed.GlobalBatch(group, (4, 8), rank)
    scores = distributed._GlobalEstimator(ones, batch).score(torch.zeros(batch.sizes[rank], 2))
    torch.testing.assert_close(scores, torch.full_like(scores, weight))


def test_another_object_as_a_group_raises() -> None:
    with pytest.raises(TypeError, match=r"group must be a torch.distributed.ProcessGroup or None"):
        mige.entropy(normal(8, 2), group="gloo")  # type: ignore[arg-type]
    sums = mige.Landmarks(m=4).start_with(normal(4, 2))
    with pytest.raises(
        TypeError, match=r"group must be a torch.distributed.ProcessGroup, got None"
    ):
        distributed.all_reduce(sums, None)  # type: ignore[arg-type]


def test_matched_marginals_with_a_group_raise() -> None:
    x = torch.zeros(4, 2)
    with pytest.raises(
        ValueError, match=r'marginal must be "paired" or "own" with a group.*got "matched"'
    ):
        mige.mutual_information(x, x, marginal="matched", group=object())  # type: ignore[arg-type]


def unequal_steps(rank: int, folder: str) -> None:
    """One step on rank 0 and two on rank 1, inside ``join``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", timedelta(seconds=5), 2, rank)
    ddp = DistributedDataParallel(nn.Linear(4, 2))
    message = ""
    try:
        with ddp.join():
            for _ in range(1 + rank):
                x = normal(8, 4, dtype=torch.float32)
                mige.mutual_information(x, ddp(x), group=dist.group.WORLD).backward()
    except RuntimeError as error:
        message = str(error)
    torch.save(message, f"{folder}/{rank}.pt")


@pytest.mark.thorough
def test_a_rank_that_calls_more_often_gets_an_error_that_names_the_group(tmp_path: Path) -> None:
    spawn(unequal_steps, (str(tmp_path),), nprocs=2)
    message = torch.load(tmp_path / "1.pt")
    assert "not every rank of group called the function" in message
    assert "join" in message


@pytest.mark.thorough
def test_the_example_trains_under_torchrun() -> None:
    # Without --local-addr, torchrun looks up the machine's name, which may take until a timeout.
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command = [sys.executable, *launch, "--nproc-per-node=2",
               str(ROOT / "docs/examples/ddp.py"), "--steps=11", "--samples=64"]  # fmt: skip
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=120,
        env=environment(OMP_NUM_THREADS="1"), cwd=os.fspath(ROOT),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr  # has the errors of all processes
    lines = [line for line in result.stdout.splitlines() if line.startswith("step ")]
    assert len(lines) == 3
