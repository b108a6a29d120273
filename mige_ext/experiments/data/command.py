"""The command ``data``: load an image set, verify it, and print its contents."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from mige_ext.experiments.data import cache, images


def data(
    name: Annotated[str, typer.Argument(help=f"The image set: {', '.join(images.names())}.")],
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the image files, in torchvision's layout.")
    ] = None,
) -> None:
    """Load an image set, verify its checksums, and print what it holds.

    Decoded sets are kept in ~/.cache/mige_ext, or in the folder of the variable MIGE_DATA.
    """
    try:
        loaded = images.load(name, data_dir)
        cached = cache.folder_of(name)
        if cached.exists():
            cache.verify(cached)
    except (ValueError, ImportError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(f"{name}: {loaded.classes} classes, images of {'×'.join(map(str, loaded.shape))}")
    parts = {"training": loaded.train, "validation": loaded.validation, "test": loaded.test}
    for part, split in parts.items():
        means = split.images.float().mean((0, 2, 3)) / loaded.max_pixel
        counts = torch.bincount(split.labels, minlength=loaded.classes)
        typer.echo(
            f"{len(split):7} {part} images, {counts.min()} to {counts.max()} of a class, "
            f"mean pixel {', '.join(f'{mean:.4f}' for mean in means)}"
        )
    if cached.exists():
        typer.echo(f"{cached}: the checksums are right")
