"""The progress bar of an experiment."""

import time
from collections.abc import Mapping

from torch import Tensor
from tqdm import tqdm


class Progress(tqdm):  # type: ignore[misc]
    """A bar over the steps of all runs, with the name of the run and its latest metrics.

    Args:
        steps: Number of steps of all runs.
    """

    n: int

    def __init__(self, steps: int) -> None:
        super().__init__(total=steps, unit="step", smoothing=0.05)
        self.shown = 0.0
        self.metrics: dict[str, float] = {}

    def step(self, scalars: Mapping[str, Tensor]) -> None:
        """Count a step, and show the scalars twice a second, because a read waits for the GPU."""
        self.update()
        if time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            self.show(**{name: value.item() for name, value in scalars.items()})

    def show(self, **metrics: float) -> None:
        """Show metrics beside the bar. Metrics that are not given keep their values."""
        self.metrics |= metrics
        self.set_postfix({k: f"{v:.4g}" for k, v in self.metrics.items()}, refresh=False)

    def begin(self, name: str) -> None:
        """Start the next run."""
        self.metrics = {}
        self.set_description(name)

    def reach(self, steps: int) -> None:
        """Set the bar to a number of steps, of which some were not counted.

        A run that resumes does not repeat its first steps, and a run that diverged has no last
        steps.
        """
        missing = max(0, steps - self.n)
        self.n += missing
        if not self.disable:  # the speed does not count these steps
            self.initial += missing
            self.last_print_n += missing

    def end(self) -> None:
        """Fill the bar after the last run."""
        self.n = self.total
        self.refresh()
