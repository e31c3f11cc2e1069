"""UFO (arXiv 2503.01342): one model that detects, segments, captions and grounds through language.

model = ufo.load("weights/ufo_vit_tiny_digits")
model.predict("scene.jpg", task="grounding", text="the red seven").boxes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from ufo.inference.results import Result, Results
    from ufo.model import UFO

__version__ = "0.1.0"
__all__ = ["UFO", "Result", "Results", "load"]


def load(
    path: str | Path,
    device: str | int | torch.device = "cpu",
    base: str | Path | None = None,
    experiment: str | None = None,
) -> UFO:
    """The model of a checkpoint, ready to predict.

    `path` is a model folder, a run, a Lightning `.ckpt`, a released file, or a name on the hub, "user/name"
    or "user/name@revision", of which config, tokenizer and safetensors are downloaded.
    `device` is where it goes, as in `UFO.predict`: "cpu", "cuda", 0, "mps", or "auto".
    `base` says where the base of a LoRA is, if it has moved since the training; `experiment` which one a
    released file came from, if it has another name now.
    """
    from ufo.checkpoints.load import load as load_checkpoint
    from ufo.inference.asking import usable_device

    return load_checkpoint(path, usable_device(device), base, experiment)


def __getattr__(name: str) -> Any:
    """The classes of models and answers, for type hints; `import ufo` alone is quick."""
    if name == "UFO":
        from ufo.model import UFO

        return UFO
    if name in ("Result", "Results"):
        from ufo.inference import results

        return getattr(results, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
