"""The command ``data``: load and verify an image set or a table, and print a summary."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer

from mige_ext.experiments.data import cache, images, tables

NAMES = [*images.names(), *tables.names()]


def data(
    name: Annotated[str, typer.Argument(help=f"The set: {', '.join(NAMES)}.")],
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the files; images in torchvision's layout.")
    ] = None,
) -> None:
    """Load an image set or a table, verify its checksums, and print a summary.

    Decoded sets are kept in ~/.cache/mige_ext, or in the folder that the variable MIGE_DATA names.
    """
    try:
        if name not in NAMES:
            raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
        loaded = (tables if name in tables.names() else images).load(name, data_dir)
        cached = cache.folder_of(name)
        if cached.exists():
            cache.verify(cached)
    except (ValueError, ImportError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    lines = describe_table if isinstance(loaded, tables.TableData) else describe_images
    for line in lines(loaded):
        typer.echo(line)
    if cached.exists():
        typer.echo(f"{cached}: the checksums are right")


def describe_images(loaded: images.ImageData) -> Iterator[str]:
    """Lines about an image set, its training, validation and test images."""
    yield f"{loaded.name}: {loaded.classes} classes, images of {'×'.join(map(str, loaded.shape))}"
    parts = {"training": loaded.train, "validation": loaded.validation, "test": loaded.test}
    for part, split in parts.items():
        means = split.images.float().mean((0, 2, 3)) / loaded.max_pixel
        counts = torch.bincount(split.labels, minlength=loaded.classes)
        yield (
            f"{len(split):7} {part} images, {counts.min()} to {counts.max()} of a class, "
            f"mean pixel {', '.join(f'{mean:.4f}' for mean in means)}"
        )


def describe_table(loaded: tables.TableData) -> Iterator[str]:
    """Lines about a table, its training, validation and test rows, and its nuisances."""
    yield f"{loaded.name}: {loaded.classes} classes, {len(loaded.inputs)} input columns"
    parts = {"training": loaded.train, "validation": loaded.validation, "test": loaded.test}
    for part, rows in parts.items():
        percent = 100 * rows.labels.double().mean()
        yield f"{len(rows):7} {part} rows, {percent:.2f} % of class 1"
    for name in loaded.train.nuisances:
        if name not in loaded.categories:
            yield f"nuisance {name}: continuous"
            continue
        values = loaded.categories[name]
        counts = torch.bincount(loaded.train.nuisances[name], minlength=len(values)).tolist()
        listed = ", ".join(f"{v} ({c:,})" for v, c in zip(values, counts, strict=True))
        yield f"nuisance {name}: {listed} training rows"
