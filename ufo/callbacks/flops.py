"""Floating-point operations of a training step, counted as torch runs it, and what devices can do at most.

Operations are counted once per source and image shape, forward and backward, with what checkpointing computes
again. Answers of other lengths cost a little more or less.
"""

from __future__ import annotations

import re
from collections.abc import Hashable

import torch
from torch.utils.flop_counter import FlopCounterMode

# dense half precision (bf16, or fp16 where there is no bf16) by the vendor's data sheet, TFLOP/s
PEAKS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "GH200": 989.0,
    "A100": 312.0,
    "A40": 150.0,
    "A10": 125.0,
    "A30": 165.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "T4": 65.0,
}


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of one device; None for a CPU or a device that the table does not know."""
    if device.type != "cuda":
        return None
    return named_peak(torch.cuda.get_device_name(device))


def named_peak(name: str) -> float | None:
    """FLOP/s of a device by its name; the longest part that the table knows counts, None if there is none."""
    known = [part for part in PEAKS if re.search(rf"\b{part}(?!\d)", name, re.IGNORECASE)]
    return PEAKS[max(known, key=len)] * 1e12 if known else None


class StepFlops:
    """FLOPs of a training step by source and shape; the first one of each is counted while it runs."""

    def __init__(self) -> None:
        self.known: dict[Hashable, int] = {}
        self._counter: FlopCounterMode | None = None
        self._key: Hashable = None

    def start(self, key: Hashable) -> bool:
        """Begin a step; whether it is counted, which makes it slow."""
        self.stop()
        if key in self.known:
            return False
        self._key, self._counter = key, FlopCounterMode(display=False)
        self._counter.__enter__()
        return True

    def stop(self, finished: bool = False) -> None:
        """End a step; what an exception cut off does not count."""
        if self._counter is None:
            return
        self._counter.__exit__(None, None, None)
        if finished:
            self.known[self._key] = self._counter.get_total_flops()
        self._counter = None
