"""The LightningModule of all language-model backbones."""

from __future__ import annotations

from ufo.backbones.mllm import MLLM
from ufo.modules.base import UFOModule


class MLLMModule(UFOModule):
    """Trains a UFO model whose backbone is a language model; nothing about training is special to it."""

    backbone_type = MLLM
