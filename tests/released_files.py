"""The released files in miniature: a list of all of them, and an own writer of each layout.

Names, metadata, shards and tokenizer files are as released; shapes are scaled down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor
from tiny_mllm import FAMILIES, make_mllm
from tokenizer_folders import write_internvl, write_llava
from torch import Tensor

from ufo.backbones.ufo_vit import UFOViT
from ufo.checkpoints.vit_names import key_table
from ufo.tokenizer import UFOTokenizer, build_vocab

VOCAB = Path(__file__).parents[1] / "conf" / "vocab"

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


# ---------------------------------------------------------------- every released file, in miniature


@dataclass(frozen=True)
class Twin:
    """A released file or folder; `layout` says how its weights are stored, `experiment` where it is from."""

    name: str
    experiment: str
    layout: str  # mmengine, partial (LoRA over a base), zero_to_fp32, merged
    family: str = "ufo_vit"
    mask: bool = True  # of a UFO-ViT: whether the vocabulary has <MASK>
    layers: tuple[int, int] = (2, 2)  # of a UFO-ViT: SAM's and new ones


def _vit(size: str, task: str, experiment: str, **more: Any) -> Twin:
    return Twin(f"ufo-vit-{size}-{task}.pth", f"ufo_vit_{size}_{experiment}", "mmengine", **more)


def _lora(family: str, model: str, task: str, experiment: str) -> Twin:
    return Twin(f"ufo-{model}-{task}.pth", experiment, "partial", family)


_TUNED = {"instruction": "instruction", "rec": "grounding", "res": "referring", "reasonseg": "reasoning"}
TWINS = (
    _vit("b", "single-det", "detection", mask=False),
    _vit("b", "single-insseg", "instance_segmentation"),
    _vit("b", "single-semseg", "semantic_segmentation"),
    _vit("b", "single-caption", "caption", mask=False),
    _vit("b", "single-ground", "grounding", mask=False),
    _vit("b", "multi", "multi"),
    _vit("l", "multi", "multi", layers=(3, 2)),
    _vit("h", "multi", "multi", layers=(3, 3)),
    *(
        Twin(f"ufo-internvl2-8b-multi-{side}", f"internvl2_8b_multi_{side}", "zero_to_fp32", "internvl")
        for side in (448, 896, 1344)
    ),
    *(_lora("llava", "llava-1.5-7b", short, f"llava1_5_7b_{name}") for short, name in _TUNED.items()),
    *(_lora("internvl", "internvl2-8b", short, f"internvl2_8b_{name}") for short, name in _TUNED.items()),
    Twin("UFO-InternVL2-8B-instruct", "internvl2_8b_instruction", "merged", "internvl"),
    Twin("UFO-InternVL2-8B-rec-ft", "internvl2_8b_grounding", "merged", "internvl"),
)
RANK = 4
VIT = {"width": 16, "heads": 2, "patch_size": 4, "window_size": 3}
VIT_SIDE, TILE = 12, 56  # pixels of a window and of a tile, 224 and 448 (336) in the released models
WORDS = "task : ; , . class description bin to give a caption for this image detection instance segmentation"


def write_twin(twin: Twin, folder: Path, pieces: Mapping[bool, bytes]) -> tuple[Path, Path | None]:
    """The miniature of a released file below `folder`, and the folder of its base, if it needs one.

    `pieces` are small models of sentencepiece, without and with a first blank.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / twin.name
    if twin.family == "ufo_vit":
        _write_vit(twin, path)
        return path, None
    base = folder / ("InternVL2-8B" if twin.family == "internvl" else "llava-1.5-7b-hf")
    known = write_words(twin.family, base, pieces)
    # InternVL's own vocabulary has <box> and </box> already
    whole = _released(twin.family, known + (5 if twin.family == "llava" else 1))
    if twin.layout == "partial":
        write_base(twin.family, base, known)
        before = "language_model."
        trained = only_trained(with_lora(whole, RANK))
        renamed = {k.replace(before, before + "base_model.model.", 1): v for k, v in trained.items()}
        torch.save({f"backbone.{k}": v for k, v in renamed.items()}, path)
        return path, base
    path.mkdir()
    if twin.layout == "zero_to_fp32":  # names as in training, no tokenizer beside
        named = {f"backbone.{k}": v for k, v in whole.items()}
        write_shards(path, named, torch.save, "pytorch_model", ".bin")
        return path, base
    write_words(twin.family, path, pieces, mask=True)
    _write_config(path)
    write_shards(
        path, {k: v.bfloat16().contiguous() for k, v in whole.items()}, save_file, "model", ".safetensors"
    )
    return path, None


def _write_vit(twin: Twin, path: Path) -> None:
    depth, new = twin.layers
    words = vit_words(twin, path.parent)
    side = (672 if "semseg" in twin.name else 1120) * VIT_SIDE // 224
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        made = {"depth": depth, "new_layers": new, "global_layers": [depth - 1], "image_size": side}
        backbone = UFOViT(vocab_size=len(words), **VIT, **made)
        for parameter in backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    state = {**vit_state(backbone), "backbone.embed.position_ids": torch.arange(512)[None]}
    torch.save({"meta": {"epoch": 0, "iter": 9}, "state_dict": state, "message_hub": {}}, path)


def vit_words(twin: Twin, folder: Path) -> UFOTokenizer:
    """The small vocabulary of a UFO-ViT, beside its file."""
    names = (VOCAB / "coco_classes.txt").read_text() + (VOCAB / "ade20k_classes.txt").read_text()
    vocab = build_vocab([*WORDS.split(), "background", *names.replace(",", " ").split()], 2240)
    words = UFOTokenizer(vocab, mask_token=twin.mask)
    words.save(folder)
    return words


def vit_state(backbone: UFOViT) -> dict[str, Tensor]:
    """A UFO-ViT's weights by their released names."""
    ours = backbone.state_dict()
    return {theirs: ours[name] for theirs, name in key_table(len(backbone.layers)).items() if name}


def write_words(family: str, folder: Path, pieces: Mapping[bool, bytes], mask: bool = False) -> int:
    """The tokenizer's files; returns how many tokens a base has without those that UFO appends."""
    if family == "llava":
        write_llava(folder, pieces[True])
        return len(SentencePieceProcessor(model_proto=pieces[True])) + 2  # <image> and <pad>
    _, ids = write_internvl(folder, pieces[False], mask)
    return max(ids.values()) + 1 - mask


def _released(family: str, rows: int, layers: int = 2) -> dict[str, Tensor]:
    """A whole model with so many token rows, by its released names without `backbone.`."""
    return WRITERS[family](_net(family, rows, layers).state_dict())


def _net(family: str, rows: int, layers: int) -> Any:
    """The model of transformers under a UFO, with random weights that all matter."""
    kind, config = FAMILIES[family]
    text = {**config["text_config"], "num_hidden_layers": layers}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        net = kind(vocab_size=rows, config={**config, "text_config": text}).net
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net


def write_base(family: str, folder: Path, known: int, layers: int = 2) -> None:
    """The model under a LoRA as its authors published it, in bfloat16; LLaVA's has rows that nobody uses."""
    rows = known if family == "internvl" else known + 57
    if family == "internvl":
        _write_config(folder)
        weights = {k: v.bfloat16().contiguous() for k, v in _released(family, rows, layers).items()}
        write_shards(folder, weights, save_file, "model", ".safetensors")
        return
    _net(family, rows, layers).bfloat16().save_pretrained(folder)


def _write_config(folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps({"model_type": "internvl_chat", "template": "internlm2-chat"})
    )


def write_shards(folder: Path, weights: dict[str, Tensor], save: Any, stem: str, suffix: str) -> None:
    """Three files and their index."""
    names, listed = list(weights), {}
    for i in range(3):
        file = f"{stem}-{i + 1:05}-of-00003{suffix}"
        part = names[i::3]
        save({name: weights[name] for name in part}, folder / file)
        listed |= dict.fromkeys(part, file)
    size = sum(value.nbytes for value in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": listed}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))


def shrink(twin: Twin, cfg: DictConfig, words: Path) -> DictConfig:
    """The config of a twin's experiment with the miniature's sizes; `words` is where its tokenizer is."""
    unit = (VIT_SIDE, 224) if twin.family == "ufo_vit" else (TILE, 336 if twin.family == "llava" else 448)
    network = cfg.backbone.network
    with open_dict(cfg):
        for task in cfg.resolution:
            if task != "bins":
                cfg.resolution[task] = int(cfg.resolution[task]) * unit[0] // unit[1]
        cfg.backbone.tokenizer.name_or_path = str(words)
        if twin.family == "ufo_vit":
            depth, new = twin.layers
            network.update(
                {**VIT, "depth": depth, "new_layers": new, "global_layers": [depth - 1], "mlp_ratio": 4.0}
            )
            network.update({"mean_layers": None, "image_size": int(cfg.resolution.detection)})
            if "semseg" in twin.name:
                network.image_size = int(cfg.resolution.semantic_segmentation)
            return cfg
        network.config = OmegaConf.merge(network.config, FAMILIES[twin.family][1])
        if "r" in cfg.lora:
            cfg.lora.r, cfg.lora.alpha = RANK, 2 * RANK
    return cfg
