"""The LightningModule of InternVL."""

from __future__ import annotations

from ufo.backbones.internvl import InternVL
from ufo.modules.mllm import MLLMModule


class InternVLModule(MLLMModule):
    """Trains a UFO model whose backbone is InternVL."""

    backbone_type = InternVL
