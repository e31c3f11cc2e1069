"""UFO (arXiv 2503.01342): one model that detects, segments, captions and grounds through language.

model = ufo.load("weights/ufo_vit_tiny_digits")
model.predict("scene.jpg", task="grounding", text="the red seven").boxes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ufo.model import UFO

__version__ = "0.1.0"
__all__ = ["load"]


def load(
    path: str | Path, device: str = "cpu", base: str | Path | None = None, experiment: str | None = None
) -> UFO:
    """The model of a checkpoint, ready to predict.

    `path` is a model folder, a run, a Lightning `.ckpt`, a released file, or a name on the hub, "user/name"
    or "user/name@revision", of which config, tokenizer and safetensors are downloaded.
    `base` says where the base of a LoRA is, if it has moved since the training; `experiment` which one a
    released file came from, if it has another name now.
    """
    from ufo.checkpoints.load import load as load_checkpoint

    return load_checkpoint(path, device, base, experiment)
