"""The features that the probes of InfoMax read: encoder layers, pixels, principal components."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mige_ext.experiments.data.images import ImageData

CHUNK = 1000  # images in one forward pass, to bound the memory
NORMALIZATIONS = {
    "batch": lambda latent: nn.BatchNorm1d(latent, affine=False),
    "tanh": lambda latent: nn.Tanh(),
    "none": lambda latent: nn.Identity(),
}


class Features(NamedTuple):
    """The layers of the encoder for N images, with the default sizes for CIFAR."""

    conv: Tensor  # (N, 4096), the features h of MIGE II (``methods.py``)
    fc: Tensor  # (N, 1024)
    z: Tensor  # (N, 64), the code


class Encoder(nn.Module):
    """Three 4×4 convolutions with stride 2 and two linear layers (Hjelm et al., ICLR 2019).

    Args:
        shape: (C, H, W) of an image.
        width: channels of the first convolution; the second has 2·width, the third 4·width.
        hidden: units of the layer fc.
        latent: dimensions of z.
        normalize: normalization of z, a name in ``NORMALIZATIONS``.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        width: int = 64,
        hidden: int = 1024,
        latent: int = 64,
        normalize: str = "batch",
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
        self.normalize = NORMALIZATIONS[normalize](latent)

    def forward(self, x: Tensor) -> Features:
        """Compute the features of images (N, C, H, W), in float32 also under autocast."""
        conv = self.conv(x)
        fc = self.fc(conv)
        return Features(conv.float(), fc.float(), self.normalize(self.linear(fc).float()))


class Pixels(nn.Module):
    """The pixels of the images as features."""

    def fit(self, x: Tensor) -> None:
        """Do nothing, because pixels need no fit."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Flatten images (N, C, H, W) to (N, C·H·W)."""
        return {"pixels": x.flatten(1)}


class PrincipalComponents(nn.Module):
    """The leading principal components of images, scaled to variance 1.

    Args:
        inputs: number of pixels of an image, over all channels.
        latent: number of components.
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, inputs: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("directions", torch.zeros(inputs, min(latent, inputs)))

    def fit(self, x: Tensor) -> None:
        """Fit the components to images (N, C, H, W) by an eigendecomposition over all pixels."""
        flat = x.flatten(1)
        variance, vectors = torch.linalg.eigh(flat.mT.cov())
        latent = self.directions.shape[1]
        scale = variance[-latent:].clamp(min=1e-6).sqrt()
        self.mean, self.directions = flat.mean(0), vectors[:, -latent:] / scale

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Project images (N, C, H, W) to (N, latent)."""
        return {"z": (x.flatten(1) - self.mean) @ self.directions}


def encode(
    encoder: nn.Module, images: ImageData, pixels: Tensor, *, bf16: bool = False
) -> tuple[Tensor, Features]:
    """Encode uint8 images.

    Args:
        encoder: the network.
        images: the image set, which normalizes the pixels.
        pixels: (N, C, H, W) uint8.
        bf16: whether the network runs under bfloat16 autocast.

    Returns:
        The network input (N, C, H, W), and its features.
    """
    # Convolutions are fastest in this memory format, on a GPU and on a CPU.
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
    """Compute the features of many images without gradients. All features except z become float16.

    Args:
        encoder: an :class:`Encoder`, :class:`Pixels` or :class:`PrincipalComponents`.
        images: the image set, which normalizes the pixels.
        pixels: (N, C, H, W) uint8.
        bf16: whether the network runs under bfloat16 autocast.
        layers: names of the layers to keep, by default all.

    Returns:
        The features (N, ...) by layer, on the device of the pixels.
    """
    encoder.eval()
    chunks: list[dict[str, Tensor]] = []
    for chunk in pixels.split(CHUNK):
        _, features = encode(encoder, images, chunk, bf16=bf16)
        by_layer = features._asdict() if isinstance(features, Features) else features
        kept = {name: by_layer[name] for name in layers or by_layer}
        chunks.append({name: x if name == "z" else x.half() for name, x in kept.items()})
    encoder.train()
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
