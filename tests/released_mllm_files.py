"""Tiny models in the layouts of the released MLLM weights: an own writer of what the converter reads."""

from __future__ import annotations

import torch
from tiny_mllm import make_mllm
from torch import Tensor

RENAME_LM = {
    "embed_tokens": "tok_embeddings",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
RENAME_VISION = {
    "embeddings.cls_token": "embeddings.class_embedding",
    "embeddings.position_embeddings": "embeddings.position_embedding",
    "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
    "encoder.layer.": "encoder.layers.",
    "attention.projection_layer": "attn.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "lambda_": "ls",
}


def fuse_wqkv(q: Tensor, k: Tensor, v: Tensor, kv_heads: int) -> Tensor:
    """For each key/value head its query heads, then itself, then its value; head by head, row by row."""
    rows = []
    per_kv, head = len(q) // kv_heads, len(k) // kv_heads
    for i in range(kv_heads):
        rows += [q[i * per_kv : (i + 1) * per_kv], k[i * head : (i + 1) * head], v[i * head : (i + 1) * head]]
    return torch.cat(rows)


def as_internvl(state: dict[str, Tensor], kv_heads: int = 2) -> dict[str, Tensor]:
    """Native names -> the names of InternVL2.5's own code."""
    written = {}
    for name, value in state.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            parts = [state[name.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            if "vision_tower" in name:
                name, value = name.replace("attention.q_proj", "attn.qkv"), torch.cat(parts)
            else:
                name, value = name.replace("self_attn.q_proj", "attention.wqkv"), fuse_wqkv(*parts, kv_heads)
        if name.startswith("lm_head"):
            name = name.replace("lm_head", "language_model.output")
        elif name.startswith("model.language_model."):
            name = name.replace("model.language_model.", "language_model.model.")
            for ours, theirs in RENAME_LM.items():
                name = name.replace(f".{ours}.", f".{theirs}.")
        elif name.startswith("model.vision_tower."):
            name = name.replace("model.vision_tower.", "vision_model.")
            for ours, theirs in RENAME_VISION.items():
                name = name.replace(ours, theirs)
        else:
            for ours, number in (("layer_norm", 0), ("linear_1", 1), ("linear_2", 3)):
                name = name.replace(f"model.multi_modal_projector.{ours}", f"mlp1.{number}")
        written[name] = value
    return written


def as_llava(state: dict[str, Tensor]) -> dict[str, Tensor]:
    pairs = (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    )
    written = {}
    for name, value in state.items():
        ours, theirs = next(pair for pair in pairs if name.startswith(pair[0]))
        written[theirs + name.removeprefix(ours)] = value
    return written


WRITERS = {"internvl": as_internvl, "llava": as_llava}


def released_model(family: str, lora: bool = False, prefix: str = "backbone.") -> tuple[dict, dict]:
    """A tiny model as its released file has it, and the native weights that it must become (without LoRA)."""
    native = make_mllm(family).backbone.net.state_dict()
    released = WRITERS[family](native)
    if lora:
        released = with_lora(released)
        before, inner = "language_model.", "language_model.base_model.model."
        released = {k.replace(before, inner, 1): v for k, v in released.items()}
    return {prefix + k: v for k, v in released.items()}, dict(native)


def with_lora(released: dict[str, Tensor], rank: int = 4) -> dict[str, Tensor]:
    """Factors on every linear layer of the language model, as the fused layer has them."""
    generator = torch.Generator().manual_seed(5)
    out = dict(released)
    for name, value in released.items():
        if name.startswith("language_model.model.layers.") and value.ndim == 2:
            stem = name.removesuffix(".weight")
            out[f"{stem}.lora_A.default.weight"] = torch.randn(rank, value.shape[1], generator=generator)
            out[f"{stem}.lora_B.default.weight"] = torch.randn(value.shape[0], rank, generator=generator) / 9
    return out


TRAINED = (
    ".lora_",
    "embeddings.weight",
    "embed_tokens.weight",
    "output.weight",
    "lm_head.weight",
    "model.norm.",
)


def only_trained(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a LoRA's training changed, as some released files hold nothing else."""
    return {name: value for name, value in released.items() if any(part in name for part in TRAINED)}
