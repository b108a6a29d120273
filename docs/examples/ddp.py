"""InfoMax on several processes, which train one encoder on one common batch.

    torchrun --nproc-per-node 2 docs/examples/ddp.py

Every process draws its own inputs. With ``group=``, the inputs of all processes form one batch. A
step is therefore the same as the step of a single process with the whole batch.
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import mige_ext as mige


def main() -> None:
    """Trains an encoder with 32 inputs and a code of 4 values."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20, help="Training steps.")
    parser.add_argument("--samples", type=int, default=128, help="Samples per process.")
    parser.add_argument(
        "--landmarks", type=int, help="Number of landmarks, which replace the gathered samples."
    )
    options = parser.parse_args()

    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")

    train(options, device)
    dist.barrier()  # gloo may abort if a rank leaves while another still communicates
    dist.destroy_process_group()


def train(options: argparse.Namespace, device: torch.device) -> None:
    """Maximizes the mutual information of inputs and noisy codes."""
    torch.manual_seed(0)  # the same encoder on every rank
    encoder = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
    network = DistributedDataParallel(encoder.to(device))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    estimator = mige.Landmarks(m=options.landmarks) if options.landmarks else mige.AdaptiveScore()

    torch.manual_seed(1 + dist.get_rank())  # different inputs on every rank
    for step in range(options.steps):
        x = torch.randn(options.samples, 32, device=device)
        z = network(x)
        information = mige.code_information(x, z, estimator=estimator, group=dist.group.WORLD)
        optimizer.zero_grad()
        (-information).backward()
        optimizer.step()
        if step % 5 == 0:  # every rank must call this function, because of group=
            scale = z.detach().std(0).square().mean().sqrt()
            noisy = z.detach() + 0.6 * scale * torch.randn_like(z)
            found = mige.estimate_mutual_information(x, noisy, group=dist.group.WORLD)
            if dist.get_rank() == 0:
                print(f"step {step}  {float(found.value):.2f} nats", flush=True)


if __name__ == "__main__":
    main()
