"""`trainer.precision=auto`: bfloat16 under autocast where the device computes in it, else float32.

The published models train in bf16-mixed. A CPU without AVX-512 and a GPU older than Ampere have no bfloat16
arithmetic: they emulate it, a CPU at a seventieth of its speed in float32.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

AUTO = "auto"
MIXED, FULL = "bf16-mixed", "32-true"

NAMES = {"cpu": "CPU", "cuda": "GPU"}

log = logging.getLogger(__name__)


def chosen_precision(precision: Any, accelerator: str = "auto") -> Any:
    """The precision for the trainer: `auto` resolved, any other as it is, with a warning if it is slow."""
    device = _device(str(accelerator))
    fast = computes_bfloat16(device)
    if precision == AUTO:
        if not fast:
            log.info("precision: %s, this %s has no bfloat16 arithmetic", FULL, NAMES[device])
        return MIXED if fast else FULL
    if not fast and str(precision).startswith("bf16"):
        log.warning(
            "trainer.precision=%s: this %s only emulates bfloat16, which may be many times slower; "
            "trainer.precision=auto takes %s here.",
            *(precision, NAMES[device], FULL),
        )
    return precision


def _device(accelerator: str) -> str:
    """What Lightning takes: the type of device that an accelerator's name stands for."""
    if accelerator not in ("auto", "gpu"):
        return accelerator
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found else "cpu"


def computes_bfloat16(device: str) -> bool:
    """Whether matrix products in bfloat16 are at least about as fast as in float32 on this machine."""
    if device == "cpu":
        return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return True
