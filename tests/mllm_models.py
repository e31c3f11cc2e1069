"""Small random models of each language-model family, with tokenizers of their special tokens."""

from __future__ import annotations

from pathlib import Path

import torch

from ufo.backbones.internvl import InternVL
from ufo.backbones.llava import Llava
from ufo.backbones.mllm import MLLM
from ufo.backbones.qwen2_5_vl import Qwen2_5_VL
from ufo.hf_tokenizer import HFTokenizer, build_tokenizer

VOCAB = Path(__file__).parents[1] / "conf" / "vocab"
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS = {
    InternVL: {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {**VISION, "image_size": [16, 16], "patch_size": [4, 4], "attention_bias": True},
        "tie_word_embeddings": False,
    },
    Llava: {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {"model_type": "clip_vision_model", **VISION, "image_size": 16, "patch_size": 8},
        "vision_feature_layer": -1,
    },
    Qwen2_5_VL: {
        "text_config": {**TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
        "vision_config": {
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 4,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
    },
}
FAMILIES = tuple(CONFIGS)


def make_tokenizer(family: type[MLLM]) -> HFTokenizer:
    if family is InternVL:
        return HFTokenizer.from_pretrained(VOCAB / "internvl_digits", end="<|im_end|>")
    if family is Llava:
        return HFTokenizer.from_pretrained(VOCAB / "llava_digits", pad="<pad>")
    words = ["system", "user", "assistant", "what", "is", "red", "three", "yes", ",", "."]
    special = ["<unk>", "<|endoftext|>", *family.tokens, family.patch_token, "<MASK>"]
    return HFTokenizer(
        build_tokenizer(words, special),
        start="<|endoftext|>",
        end="<|im_end|>",
        pad="<|endoftext|>",
        start_prompts=False,
    )


def make_backbone(family: type[MLLM], **more) -> tuple[MLLM, HFTokenizer]:
    """A model in `eval` mode; its weights are larger than usual so that every path shows in the result."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(family)
    backbone = family(vocab_size=len(tokenizer), config=CONFIGS[family], **{"system": "", **more})
    backbone.attach(tokenizer)
    with torch.no_grad():
        for parameter in backbone.decoder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return backbone.eval(), tokenizer
