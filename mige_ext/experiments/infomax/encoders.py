"""What the probes of InfoMax read: layers of an encoder; or pixels, or their components."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mige_ext.experiments.data.images import ImageData

CHUNK = 1000  # images encoded at once, to bound the memory
NORMALISATIONS = {
    "batch": lambda latent: nn.BatchNorm1d(latent, affine=False),
    "tanh": lambda latent: nn.Tanh(),
    "none": lambda latent: nn.Identity(),
}


class Features(NamedTuple):
    """What the encoder makes of N images; each with a row an image."""

    conv: Tensor  # (N, 4096), h
    fc: Tensor  # (N, 1024)
    y: Tensor  # (N, 64), the representation z


class Encoder(nn.Module):
    """Three convolutions of 4×4 with stride 2, fc, and z (Hjelm et al., ICLR 2019).

    Args:
        shape: (C, H, W) of an image.
        width: channels of the first convolution; the next have twice and four times as many.
        hidden: units of fc.
        latent: dimensions of z.
        normalise: of z, a name in `NORMALISATIONS`.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        width: int = 64,
        hidden: int = 1024,
        latent: int = 64,
        normalise: str = "batch",
    ) -> None:
        super().__init__()
        channels, height, breadth = shape
        layers: list[nn.Module] = []
        for outputs in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(channels, outputs, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            channels = outputs
        self.conv_size = channels * (height // 8) * (breadth // 8)
        self.conv = nn.Sequential(*layers, nn.Flatten())
        self.fc = nn.Sequential(
            nn.Linear(self.conv_size, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()
        )
        self.linear = nn.Linear(hidden, latent)
        self.normalise = NORMALISATIONS[normalise](latent)

    def forward(self, x: Tensor) -> Features:
        """(N, C, H, W) to the features, in float32 under autocast too."""
        conv = self.conv(x)
        fc = self.fc(conv)
        return Features(conv.float(), fc.float(), self.normalise(self.linear(fc).float()))


class Pixels(nn.Module):
    """The images themselves."""

    def fit(self, x: Tensor) -> None:
        """There is nothing to learn."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) to (N, C·H·W)."""
        return {"pixels": x.flatten(1)}


class PrincipalComponents(nn.Module):
    """The leading principal components of images, of variance 1.

    Args:
        inputs: pixels of an image, of all channels.
        latent: number of components.
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, inputs: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("directions", torch.zeros(inputs, min(latent, inputs)))

    def fit(self, x: Tensor) -> None:
        """Learn them from images (N, C, H, W); takes an eigendecomposition of all their pixels."""
        flat = x.flatten(1)
        variance, vectors = torch.linalg.eigh(flat.mT.cov())
        kept = self.directions.shape[1]
        scale = variance[-kept:].clamp(min=1e-6).sqrt()
        self.mean, self.directions = flat.mean(0), vectors[:, -kept:] / scale

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) to (N, latent)."""
        return {"y": (x.flatten(1) - self.mean) @ self.directions}


def encode(
    encoder: nn.Module, images: ImageData, pixels: Tensor, *, bf16: bool = False
) -> tuple[Tensor, Features]:
    """Some uint8 images as network input, and their features.

    Args:
        encoder: the network.
        images: tells how pixels become input.
        pixels: (N, C, H, W) uint8.
        bf16: autocast of the network.
    """
    # The order that convolutions are fastest in, on a GPU and on a CPU.
    x = images.normalize(pixels).contiguous(memory_format=torch.channels_last)
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
        features: Features = encoder(x)
    return x, features


@torch.no_grad()
def frozen(
    encoder: nn.Module,
    images: ImageData,
    pixels: Tensor,
    *,
    bf16: bool = False,
    layers: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """Frozen features of many images, by layer, (N, ...); in half precision but for z.

    Args:
        encoder: a network, `Pixels` or `PrincipalComponents`.
        images: tells how pixels become input.
        pixels: (N, C, H, W) uint8.
        bf16: autocast of the network.
        layers: which; all of them if not given.

    Returns:
        The features, on the device of the pixels.
    """
    encoder.eval()
    chunks: list[dict[str, Tensor]] = []
    for chunk in pixels.split(CHUNK):
        _, told = encode(encoder, images, chunk, bf16=bf16)
        by_layer = told._asdict() if isinstance(told, Features) else told
        chunks.append(
            {
                name: by_layer[name] if name == "y" else by_layer[name].half()
                for name in layers or by_layer
            }
        )
    encoder.train()
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
