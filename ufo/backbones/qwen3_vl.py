"""Qwen3-VL as transformers has it: Qwen2.5-VL with another tower and a Qwen3 decoder.

What some layers of the tower see is added to the image tokens behind the first layers of the decoder
(DeepStack, arXiv 2406.04334). A query takes part through its local image prompt, which is what the layer
below made of the image at its place.
"""

from __future__ import annotations

from transformers import Qwen3VLForConditionalGeneration

from ufo.backbones.qwen2_5_vl import Qwen2_5_VL


class Qwen3_VL(Qwen2_5_VL):
    """A ViT with DeepStack and a Qwen3 decoder; its chat format has no system text of its own."""

    model_class = Qwen3VLForConditionalGeneration
    default_system = ""
    pixel_mean_std = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
