"""The Information Bottleneck on digits: a stochastic code that predicts the class.

The network and the training are from the experiment ``python -m mige_ext bottleneck``. For each
method, the weight β with the best accuracy on the validation images is chosen from three.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from operator import itemgetter
from typing import Any

from benchmarks.tasks.task import CONTROL, DEFAULT, Task
from mige_ext.experiments.bottleneck.methods import Settings
from mige_ext.experiments.bottleneck.training import Trainer, measure
from mige_ext.experiments.common.runs import Run
from mige_ext.experiments.common.training import train
from mige_ext.experiments.data.images import ImageData, load

BETAS = (1e-3, 1e-2, 3e-2)
SETTINGS = Settings(epochs=40)

#: Name of the method in this benchmark -> name in the experiment, and settings.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    DEFAULT: ("mige", {"estimator": "adaptive"}),
    "SSGE": ("mige", {"estimator": "ssge", "threshold": 0.99, "calibrate": True}),
    "Tikhonov": ("mige", {"estimator": "tikhonov"}),
    CONTROL: ("mige", {"estimator": "gaussian"}),
    "VIB": ("vib", {}),
    "no penalty": ("baseline", {}),
}


@cache
def _digits() -> ImageData:
    return load("digits")


def _run(key: str, seed: int) -> Mapping[str, float]:
    method, options = METHODS[key]
    settings = replace(SETTINGS, **options)
    images = _digits()
    found: list[tuple[float, float]] = []
    for beta in BETAS if method != "baseline" else (0.0,):
        trainer, _ = train(Trainer, images, Run(method, beta, seed, len(images.train)), settings)
        validation, test = (
            measure(trainer.model, images, part).error for part in (images.validation, images.test)
        )
        found.append((validation, test))
    return {"accuracy, %": 100 * (1 - min(found, key=itemgetter(0))[1])}


TASKS = (
    Task(
        "bottleneck-digits",
        "held-out",
        "accuracy, %",
        True,
        {key: partial(_run, key) for key in METHODS},
        ("SSGE", "Tikhonov", CONTROL),
    ),
)
