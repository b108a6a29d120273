"""InfoMax: an encoder is trained without labels, and a linear probe predicts labels from the code.

Three tasks maximize the information of the code z about the image x: digits (8×8), 10,000 images of
MNIST, and CIFAR-10 with a small convolutional network for 2 epochs. A fourth task makes two views
of each digit by random shifts and noise, and maximizes I(z; z') of their codes z and z'. Encoders
end in BatchNorm without affine parameters.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mige_ext as mige
from benchmarks.tasks.task import CONTROL, DEFAULT, Task
from mige_ext.bounds import SeparableCritic, infonce
from mige_ext.experiments.common.methods import descend, perceptron
from mige_ext.experiments.data.images import load

#: A function of the flat data x (M, d_x) and the code z (M, d_z), whose result is minimized.
Objective = Callable[[Tensor, Tensor], Tensor]

RATE = 1e-3  # learning rate of Adam
PROBED = 10_000  # training rows of a probe, and of the encoder of MNIST
QIS, SSGE, TIKHONOV, GAUSSIAN = (
    mige.AdaptiveScore(gaussian="qis"),
    mige.SSGE(threshold=0.99),
    mige.Tikhonov(),
    mige.GaussianScore(),
)


def _code(x: Tensor, z: Tensor, **options: object) -> Tensor:
    return -mige.code_information(x, z, **options)  # type: ignore[arg-type]


def _information(x: Tensor, z: Tensor, **options: object) -> Tensor:
    return -mige.mutual_information(x, z, **options)  # type: ignore[arg-type]


#: Objectives of x and z. None keeps the random encoder. "no noise" means that I(x; z) is maximized
#: although it is infinite for a deterministic code.
ONE_VIEW: dict[str, Objective | None] = {
    DEFAULT: _code,
    "qis": partial(_code, estimator=QIS),
    "SSGE": partial(_code, estimator=SSGE),
    "Tikhonov": partial(_code, estimator=TIKHONOV),
    CONTROL: partial(_code, estimator=GAUSSIAN),
    "default, no noise": _information,
    "SSGE, no noise": partial(_information, estimator=SSGE),
    "Tikhonov, no noise": partial(_information, estimator=TIKHONOV),
    "Gaussian, no noise": partial(_information, estimator=GAUSSIAN),
    "random": None,
}
#: Objectives of the codes of two views, which have a joint density. None keeps the random encoder.
TWO_VIEWS: dict[str, Objective | None] = {
    DEFAULT: _information,
    "own": partial(_information, marginal="own"),
    "matched": partial(_information, marginal="matched"),
    "qis": partial(_information, estimator=QIS),
    "SSGE": partial(_information, estimator=SSGE),
    "Tikhonov": partial(_information, estimator=TIKHONOV),
    CONTROL: partial(_information, estimator=GAUSSIAN),
    "random": None,
}


class _Critic(nn.Module):
    """InfoNCE with a separable critic, which trains with the encoder."""

    def __init__(self, inputs: int, latent: int) -> None:
        super().__init__()
        self.critic = SeparableCritic(inputs, latent, hidden=256, embedding=128)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return -infonce(self.critic(x[:, None], z[None]))


@cache
def _data(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels; at most 10,000 images of MNIST."""
    data = load(name)
    train, test = data.all_training(), data.test
    rows = slice(None) if name != "mnist" else slice(PROBED)
    x, y = data.normalize(train.images[rows]), train.labels[rows]
    return x, y, data.normalize(test.images), test.labels


def _encoder(name: str, shape: torch.Size, latent: int) -> nn.Module:
    if name == "cifar10":
        layers = [
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in ((3, 32), (32, 64), (64, 64))
        ]
        body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, latent))
    else:
        body = nn.Sequential(nn.Flatten(), perceptron(shape.numel(), 128, latent))
    return body.append(nn.BatchNorm1d(latent, affine=False))


def _batches(rows: int, size: int, steps: int) -> Iterator[Tensor]:
    """Row numbers of each step, without the incomplete last batch of an epoch."""
    done = 0
    while done < steps:
        for batch in torch.randperm(rows)[: rows // size * size].split(size):
            if done == steps:
                return
            yield batch
            done += 1


def _probe(encoder: nn.Module, name: str) -> Mapping[str, float]:
    """Test accuracies of classifiers on frozen codes, in %."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    x, y, test_x, test_y = _data(name)
    encoder.eval()
    with torch.no_grad():
        codes, test = (
            torch.cat([encoder(part) for part in images.split(1000)]).numpy()
            for images in (x[:PROBED], test_x)
        )
    linear = LogisticRegression(max_iter=3000).fit(codes, y[:PROBED])
    neighbors = KNeighborsClassifier(5).fit(codes, y[:PROBED])
    return {
        "linear probe, %": 100 * float(linear.score(test, test_y)),
        "5 nearest neighbors, %": 100 * float(neighbors.score(test, test_y)),
    }


def _one_view(
    name: str, latent: int, steps: int, batch: int, columns: int | None, key: str, seed: int
) -> Mapping[str, float]:
    """Train with the objective ``key``, and with x projected to ``columns`` dimensions if given."""
    torch.manual_seed(seed)
    x = _data(name)[0]
    encoder = _encoder(name, x.shape[1:], latent)
    objective = ONE_VIEW.get(key)
    if key == "InfoNCE":
        objective = _Critic(x[0].numel(), latent)
    projection = mige.RandomProjection(k=columns) if columns else nn.Identity()
    weights = [*encoder.parameters()]
    if isinstance(objective, nn.Module):
        weights += objective.parameters()
    adam = torch.optim.Adam(weights, RATE)
    for rows in _batches(len(x), batch, steps if objective else 0):
        flat = x[rows].flatten(1)
        assert objective is not None
        data = flat if isinstance(objective, nn.Module) else projection(flat)
        descend(adam, objective(data, encoder(x[rows])))
    return _probe(encoder, name)


def _view(images: Tensor) -> Tensor:
    """Shift each digit by up to a pixel, and add noise."""
    padded = F.pad(images, (1, 1, 1, 1), value=float(images.min()))
    top, left = torch.randint(3, (2, len(images), 1))
    rows, columns = top + torch.arange(8), left + torch.arange(8)
    moved = padded[torch.arange(len(images))[:, None, None], 0, rows[:, :, None], columns[:, None]]
    return moved[:, None] + 0.2 * torch.randn_like(images)


def _two_views(key: str, seed: int) -> Mapping[str, float]:
    torch.manual_seed(seed)
    x = _data("digits")[0]
    encoder = _encoder("digits", x.shape[1:], 10)
    adam = torch.optim.Adam(encoder.parameters(), RATE)
    objective = TWO_VIEWS[key]
    for rows in _batches(len(x), 240, 500 if objective else 0):
        assert objective is not None
        descend(adam, objective(encoder(_view(x[rows])), encoder(_view(x[rows]))))
    return _probe(encoder, "digits")


def _task(name: str, half: str, latent: int, steps: int, batch: int, columns: int | None) -> Task:
    methods = {
        key: partial(_one_view, name, latent, steps, batch, columns, key)
        for key in (*ONE_VIEW, "InfoNCE")
    }
    rivals = tuple(key for key in methods if not key.startswith(("default", "random", "qis")))
    return Task(f"infomax-{name}", half, "linear probe, %", True, methods, rivals)


TASKS = (
    _task("digits", "chosen", 10, 500, 240, None),
    _task("mnist", "held-out", 16, 500, 256, 64),
    _task("cifar10", "held-out", 32, 390, 256, 64),
    Task(
        "two-views-digits",
        "held-out",
        "linear probe, %",
        True,
        {key: partial(_two_views, key) for key in TWO_VIEWS},
        ("SSGE", "Tikhonov", CONTROL),
    ),
)
