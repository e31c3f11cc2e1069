"""The base of metrics that need every image at once (AP ranks detections, CIDEr counts
documents)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torchmetrics import Metric


class ExampleMetric(Metric):
    """Keeps one hashable Python object per image in `examples` and computes at the end.

    It never synchronises by itself: torchmetrics gathers list states element by element, which
    stops or hangs as soon as two processes hold different numbers of images. Gather the examples
    first and update one metric with their union, as `ufo.metrics.base.MetricCallback` does.
    """

    full_state_update = False
    higher_is_better = True
    examples: list[Any]

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False, dist_sync_on_step=False)
        self.add_state("examples", default=[], dist_reduce_fx=None)

    def _apply(self, fn: Callable, exclude_state: Any = ()) -> nn.Module:
        return super()._apply(fn, exclude_state=("examples",))
