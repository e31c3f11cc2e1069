"""Where passes are recorded and replayed (`cuda_graphs`, docs/speed.md): what trainer and settings allow."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy

from ufo.modules.strategies import FSDP

Graphs = bool | Literal["auto", "all"]
"""Whether predictions are recorded; `auto`: where they can be; `all`: training passes as well."""

SHARDED = (FSDP, DeepSpeedStrategy)  # they move weights


def records(graphs: Graphs, strategy: Any) -> bool:
    """Whether predictions are recorded: as told, or where they can be and no bit has to be the same.

    Raises ValueError where they shall and cannot, as weights move: a recording reads them where they were.
    """
    moves = isinstance(strategy, SHARDED)
    if graphs == "auto":
        on_gpu = not moves and strategy.root_device.type == "cuda"
        return on_gpu and not torch.are_deterministic_algorithms_enabled()
    if graphs and moves:
        raise ValueError(
            f"cuda_graphs={str(graphs).lower()} needs whole weights that stay where they are, and this "
            "strategy moves them; leave it out, or use trainer=ddp"
        )
    return bool(graphs)


def check_recording(graphs: Graphs, trainer: L.Trainer) -> None:
    """Raises ValueError where `cuda_graphs` asks for what this trainer rules out."""
    if not records(graphs, trainer.strategy) or graphs == "auto":
        return
    said, device = str(graphs).lower(), trainer.strategy.root_device
    if device.type != "cuda":
        raise ValueError(f"cuda_graphs={said} needs a CUDA device, not {device}; leave it out")


def check_recorded(compiles: bool, checkpointing: bool | int, scaled: bool) -> None:
    """Raises ValueError where a training's other settings rule out `cuda_graphs=all` (docs/speed.md).

    `scaled`: its losses are scaled before their gradients.
    """
    others = {  # what is to be written in their place
        "compile=false": compiles,
        "backbone.network.gradient_checkpointing=false": checkpointing,
        "trainer.precision=bf16-mixed": scaled,
    }
    for cure, is_set in others.items():
        if is_set:
            name = cure.partition("=")[0]
            raise ValueError(f"cuda_graphs=all does not go with this {name}; set {cure}, or cuda_graphs=auto")
