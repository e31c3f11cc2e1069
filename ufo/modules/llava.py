"""The LightningModule of LLaVA."""

from __future__ import annotations

from ufo.backbones.llava import Llava
from ufo.modules.mllm import MLLMModule


class LlavaModule(MLLMModule):
    """Trains a UFO model whose backbone is LLaVA."""

    backbone_type = Llava
