"""What the parts of gpu.py share: the device, and all numbers of one row from one function."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode

from ufo.modules.precision import computes_bfloat16
from ufo.ops.launches import Launches

LONGEST = 25  # kernels of a row that its JSON names


@dataclass
class Row:
    """One line of the table."""

    part: str
    name: str
    values: dict[str, float]
    note: str = ""
    longest: list[tuple[str, int, float]] = field(default_factory=list)  # see `Bench.longest`

    @property
    def key(self) -> str:
        return f"{self.part}: {self.name}"


@dataclass
class Bench:
    """A device, and the rate of a matrix product on it in FLOP/s."""

    device: torch.device
    miniature: bool
    name: str
    rate: float = 0.0
    longest: list[tuple[str, int, float]] = field(default_factory=list)
    """Kernels of the last row that took the device longest: name, calls, milliseconds of all calls."""

    @classmethod
    def here(cls, miniature: bool) -> Bench:
        cuda = torch.cuda.is_available()
        device = torch.device("cuda" if cuda else "cpu")
        name = torch.cuda.get_device_name(device) if cuda else "CPU"
        bench = cls(device, miniature or not cuda, name + (", miniature" if miniature or not cuda else ""))
        size = 256 if bench.miniature else 8192
        with bench.half():
            x = torch.randn(size, size, device=device, dtype=torch.bfloat16 if cuda else torch.float32)
            bench.rate = 2 * size**3 / (bench.milliseconds(lambda: x @ x, 3) / 1e3)
        return bench

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def half(self) -> AbstractContextManager[object]:
        """As `trainer.precision=auto`: bfloat16 under autocast where the device computes in it."""
        fast = computes_bfloat16(self.device.type) and self.cuda
        return torch.autocast(self.device.type, torch.bfloat16) if fast else nullcontext()

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def forget(self) -> None:
        """Give back what no row needs any more."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def milliseconds(self, function: Callable[[], object], repeats: int) -> float:
        function()
        self.wait()
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        self.wait()
        return 1e3 * (time.perf_counter() - start) / repeats

    def first(self, function: Callable[[], object]) -> float:
        """Seconds of the first call, in which something is compiled or recorded."""
        self.wait()
        start = time.perf_counter()
        function()
        self.wait()
        return time.perf_counter() - start

    def measure(
        self, function: Callable[[], object], images: int = 0, repeats: int = 3, products: bool = True
    ) -> dict[str, float]:
        """All columns of a row; the function runs six times, twice in miniature.

        `products`: also count what matrix products compute, which would compile a compiled function again.
        """
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        values = {"ms": self.milliseconds(function, 1 if self.miniature else repeats)}
        if self.cuda:
            values["GB"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        if images:
            values["images/s"] = 1e3 * images / values["ms"]
        if not products:
            return values | (self.profiled(function) if self.cuda else {})
        with FlopCounterMode(display=False) as flops:
            if self.cuda:
                function()
            else:
                with Launches() as launches:
                    function()
                values["kernels"] = launches.total
        values["TFLOP"] = flops.get_total_flops() / 1e12
        values["of rate"] = values["TFLOP"] * 1e12 / (values["ms"] / 1e3) / self.rate
        return values | (self.profiled(function) if self.cuda else {})

    def profiled(self, function: Callable[[], object]) -> dict[str, float]:
        """Kernels, and how long the device was busy with them; keeps the longest."""
        kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=kinds) as profile:
            function()
            self.wait()
        events = [e for e in profile.events() if e.device_type == DeviceType.CUDA]
        kernels = [e for e in events if not e.is_user_annotation]
        took: dict[str, list[float]] = defaultdict(list)
        for kernel in kernels:
            took[kernel.name].append(kernel.device_time_total / 1e3)
        by_time = sorted(took.items(), key=lambda item: -sum(item[1]))
        self.longest = [(name, len(times), sum(times)) for name, times in by_time[:LONGEST]]
        return {"kernels": len(kernels), "busy ms": sum(e.device_time_total for e in kernels) / 1e3}
