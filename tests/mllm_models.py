"""Small random models of each language-model family, with tokenizers of their special tokens, and inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ufo.backbones.context import Context
from ufo.backbones.internvl import InternVL
from ufo.backbones.llava import Llava
from ufo.backbones.mllm import MLLM
from ufo.backbones.qwen2_5_vl import Qwen2_5_VL
from ufo.backbones.qwen3_vl import Qwen3_VL
from ufo.hf_tokenizer import HFTokenizer
from ufo.ops.grid import Queries, query_grid

VOCAB = Path(__file__).parents[1] / "conf" / "vocab"
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
INTERNVIT = {**VISION, "image_size": [16, 16], "patch_size": [4, 4], "attention_bias": True}
# heads that are wider than their part of the hidden states, as in Qwen3
QWEN3 = {"model_type": "qwen3", **TEXT, "head_dim": 16}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6}
TOWER = {"depth": 3, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32}
MROPE = {"rope_type": "default", "mrope_section": [2, 1, 1]}
# as each is published: the class of its backbone, and a config of transformers with the same choices
MODELS: dict[str, tuple[type[MLLM], dict[str, Any]]] = {
    "internvl": (
        InternVL,
        {
            "text_config": {"model_type": "llama", **TEXT},
            "vision_config": INTERNVIT,
            "tie_word_embeddings": False,
        },
    ),
    "internvl3": (
        InternVL,
        {
            "text_config": {"model_type": "qwen2", **TEXT, "rope_parameters": DYNAMIC},
            "vision_config": INTERNVIT,
            "tie_word_embeddings": False,
        },
    ),
    "internvl3_5": (
        InternVL,
        {"text_config": QWEN3, "vision_config": INTERNVIT, "tie_word_embeddings": False},
    ),
    "llava": (
        Llava,
        {
            "text_config": {"model_type": "llama", **TEXT},
            "vision_config": {
                "model_type": "clip_vision_model", **VISION, "image_size": 16, "patch_size": 8
            },
            "vision_feature_layer": -1,
        },
    ),
    "llava_qwen": (
        Llava,
        {
            "text_config": {"model_type": "qwen2", **TEXT},
            "vision_config": {
                "model_type": "siglip_vision_model", **VISION, "image_size": 18, "patch_size": 8
            },
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
    ),
    "qwen2_5_vl": (
        Qwen2_5_VL,
        {
            "text_config": {**TEXT, "rope_parameters": MROPE},
            "vision_config": {**TOWER, "patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1]},
        },
    ),
    "qwen3_vl": (
        Qwen3_VL,
        {
            "text_config": {**TEXT, "head_dim": 8, "rope_parameters": {**MROPE, "rope_theta": 5e6}},
            "vision_config": {
                **TOWER, "patch_size": 4, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]
            },
            "tie_word_embeddings": True,
        },
    ),
}  # fmt: skip
FAMILIES = tuple(MODELS)
PROMPTS = ["what is red", "what"]


def make_tokenizer(name: str) -> HFTokenizer:
    """A tokenizer with the special tokens of the family, all of them in its file."""
    family = MODELS[name][0]
    if family is Llava:
        return HFTokenizer.from_pretrained(VOCAB / "llava_digits", pad="<pad>")
    settings: dict[str, Any] = {"end": "<|im_end|>"}
    if name != "internvl":  # Qwen's tokenizers start and pad with the same token, and prompts with none
        settings |= {"start": "<|endoftext|>", "pad": "<|endoftext|>", "start_prompts": False}
        settings |= {"added": ("<MASK>", "<|endoftext|>", *family.tokens, family.patch_token)}
    grown = HFTokenizer.from_pretrained(VOCAB / "internvl_digits", **settings)
    return HFTokenizer.from_content(grown.content, **settings)


def make_backbone(name: str, **more: Any) -> tuple[MLLM, HFTokenizer]:
    """A model in `eval` mode; its weights are larger than usual so that every path shows in the result."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(name)
    family, config = MODELS[name]
    backbone = family(**{"vocab_size": len(tokenizer), "config": config, "system": "", **more})
    backbone.attach(tokenizer)
    with torch.no_grad():
        for parameter in backbone.decoder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return backbone.eval(), tokenizer


def images(count: int = 2, height: int = 16, width: int = 16) -> Tensor:
    return torch.randint(256, (count, 3, height, width), generator=torch.Generator().manual_seed(1)).byte()


def answers(rows: int, length: int = 5, seed: int = 2) -> Tensor:
    return torch.randint(9, 16, (rows, length), generator=torch.Generator().manual_seed(seed))


def encode(
    backbone: MLLM,
    tokenizer: HFTokenizer,
    prompts: list[str] = PROMPTS,
    size: tuple[int, int] = (16, 16),
    grid: Queries | None = None,
    **more: Any,
) -> Context:
    ids, mask = tokenizer.encode_prompts([backbone.chat(p) for p in prompts])
    return backbone.encode(images(len(prompts), *size), ids, mask, grid, **more)


def tall(backbone: MLLM) -> tuple[int, int]:
    """The height and width of an image that is twice as high as wide: two tiles, or 4 x 2 tokens."""
    side = 16 if isinstance(backbone, Qwen2_5_VL) else backbone.tile
    return 2 * side, side


def dense(
    name: str, per_window: int = 2, causal: bool = False, **more: Any
) -> tuple[MLLM, HFTokenizer, Context, Queries]:
    """A model, its tokenizer, two encoded `tall` images with `per_window`^2 queries in each half."""
    backbone, tokenizer = make_backbone(name, **more)
    size, grid = tall(backbone), query_grid(2, 1, per_window)
    return backbone, tokenizer, encode(backbone, tokenizer, size=size, grid=grid, causal=causal), grid
