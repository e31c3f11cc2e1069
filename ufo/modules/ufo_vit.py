"""The LightningModule of UFO-ViT."""

from __future__ import annotations

from ufo.backbones.ufo_vit import UFOViT
from ufo.modules.base import UFOModule


class UFOViTModule(UFOModule):
    """Trains a UFO model whose backbone is UFO-ViT; nothing about training is special to it."""

    backbone_type = UFOViT
