"""Tiny random models of the real transformers classes, with their tokenizer and a few tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from ufo.backbones.internvl import InternVL
from ufo.backbones.llava import Llava
from ufo.checkpoints.load import prepare_training
from ufo.hf_tokenizer import HFTokenizer, build_tokenizer
from ufo.model import UFO
from ufo.tasks import make_task
from ufo.tokenizer import build_vocab
from ufo.types import Batch

SIDE = 56  # pixels of a tile: 4 x 4 patches
CLASSES = ("cat", "owl")
WORDS = (
    "detect objects in the image that belong to following categories coordinate range is background cat owl"
)
TEXT = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
VISION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
INTERNVL: dict[str, Any] = {
    "text_config": {**TEXT, "num_key_value_heads": 2},
    "vision_config": {**VISION, "attention_bias": True, "image_size": [SIDE] * 2, "patch_size": [14, 14]},
    "image_token_id": 5,
    "vision_feature_layer": -1,
    "tie_word_embeddings": False,
}
LLAVA: dict[str, Any] = {
    "text_config": {**TEXT, "num_key_value_heads": 4},
    "vision_config": {**VISION, "model_type": "clip_vision_model", "image_size": SIDE, "patch_size": 14},
    "image_token_index": 4,
    "vision_feature_layer": -1,
    "tie_word_embeddings": False,
}
FAMILIES = {"internvl": (InternVL, INTERNVL), "llava": (Llava, LLAVA)}
SETTINGS = {
    "detection": {"num_bins": 20, "grid_per_window": 2, "samples_per_window": 2, "repeat": 1},
    "grounding": {"num_bins": 20},
}
SPECIAL = {
    "internvl": ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>"),
    "llava": ("<unk>", "<s>", "</s>", "<pad>", "<image>"),
}
ADDED = {
    "internvl": ("<box>", "</box>", "<MASK>"),
    "llava": ("<MASK>", "<box>", "</box>", "<im_start>", "<im_end>"),
}


@cache
def pretrained_tokenizer(family: str) -> str:
    """The tokenizer without UFO's tokens, as text."""
    return build_tokenizer(build_vocab(WORDS.split(), 20), SPECIAL[family]).to_str()


def make_tokenizer(family: str, **changes) -> HFTokenizer:
    end = "<|im_end|>" if family == "internvl" else "</s>"
    settings = {"end": end, "added": ADDED[family], **changes}
    return HFTokenizer.from_content(pretrained_tokenizer(family), **settings)


def make_mllm(
    family: str = "internvl", seed: int = 0, tasks: Sequence[str] = ("detection",), **changes
) -> UFO:
    """A model in `eval` mode whose every parameter matters; `changes` go to the backbone."""
    tokenizer = make_tokenizer(family)
    kind, config = FAMILIES[family]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        backbone = kind(**{"vocab_size": len(tokenizer), "config": config, **changes})
        for parameter in backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    made = {name: make_task(name, image_size=SIDE, **SETTINGS.get(name, {})) for name in tasks}
    return UFO(backbone, tokenizer, made, dict.fromkeys(tasks, CLASSES), mask_points=16).eval()


def prepared(family: str = "internvl", seed: int = 1, **changes) -> UFO:
    """A model as training builds it, with adapters; `changes` go to the LoRA."""
    model = make_mllm(family, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        prepare_training(model, {**LORA, **changes})
    return model


def plain(family: str = "internvl", seed: int = 1, **lora) -> UFO:
    """A model as training builds it, without adapters."""
    model = make_mllm(family, seed)
    prepare_training(model, lora)
    return model


def outputs(model: UFO) -> torch.Tensor:
    """Hidden states of two answers about a fixed picture."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (1, 3, SIDE, SIDE), generator=generator).to(torch.uint8)
    task = model.task("detection")
    grid = model.grid(task, SIDE, SIDE)
    with torch.no_grad():
        context = model.encode(images, ["Detect cat"], grid)
        ids = torch.tensor([[model.tokenizer.start_id, 9, 12, 13]]).expand(context.num_rows, -1)
        return model.backbone.answer(context, ids) @ model.backbone.output_embedding.float().T


def training_batch() -> Batch:
    """Two pictures with an object each, to be detected."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(256, (2, 3, SIDE, SIDE), generator=generator).to(torch.uint8)
    boxes = [torch.tensor([[4.0, 4.0, 30.0, 30.0]]), torch.tensor([[20.0, 10.0, 50.0, 40.0]])]
    labels = [torch.tensor([0]), torch.tensor([1])]
    shared = {"task": "detection", "source": "tiny", "classes": CLASSES, "texts": ["", ""], "seed": 3}
    return Batch(images=images, boxes=boxes, labels=labels, sizes=[(SIDE, SIDE)] * 2, **shared)


LORA = {
    "r": 4,
    "alpha": 8,
    "dropout": 0.0,
    "targets": r".*language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
    "train_vision": False,
    "train_projector": False,
    "train_lm": False,
}


def learn(model: UFO, amount: float = 0.05) -> UFO:
    """Change every weight that trains, as some steps of training would."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += amount * torch.randn(parameter.shape, generator=generator)
    return model
