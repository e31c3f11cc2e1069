"""Beam search against numbers recorded from the reference (`UFO_GOLDEN_DIR`; skipped if absent).

The reference writes 0 after the end of an answer, where ours has the end token; to the scripted
model 0 is an ordinary token as well.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from ufo.backbones.ufo_vit import UFOViT
from ufo.head.beam import beam_search
from ufo.head.decoding import Decoded, decode
from ufo.ops.grid import query_grid
from ufo.tasks.base import Task
from ufo.tasks.caption import Caption
from ufo.tasks.detection import Detection
from ufo.tasks.instance_segmentation import InstanceSegmentation
from ufo.tokenizer import UFOTokenizer

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("UFO_GOLDEN_DIR", ROOT.parent / "shared" / "golden")) / "vit"
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no recordings; set UFO_GOLDEN_DIR to the folder that holds vit/"
)
END = 2  # of the scripted model


@cache
def load(name: str) -> dict:
    return torch.load(FOLDER / f"{name}.pt", weights_only=True)


# ------------------------------------------------------------------------------- scripted model


def scripted(recording: dict, queries: int, end_bonus: float):
    """The recorded model: logits and features depend on a hash of the whole prefix."""
    prefix = 7 * torch.arange(queries)[:, None] + 1

    def step(tokens, parents):
        nonlocal prefix
        prefix = torch.cat([prefix[parents], tokens[:, None]], 1)
        code = (prefix * 3 ** torch.arange(prefix.shape[1])).sum(1) % recording["P"]
        logits = 1.5 * recording["T"][prefix.shape[1] - 2, tokens] + recording["U"][code]
        logits[:, END] += end_bonus
        return logits, recording["F"][code]

    return step


@pytest.mark.parametrize("number", range(7))
def test_scripted_model(number):
    recording = load("unit_beam_search")
    case = recording["cases"][number]
    winners = beam_search(
        scripted(recording, case["Q"], case["eos_bonus"]),
        case["Q"],
        start_id=1,
        end_id=END,
        max_length=case["max_length"],
        num_beams=case["beam"],
        temperature=case["temperature"],
        length_penalty=case["alpha"],
    )
    tokens = winners.ids != END
    length = case["decoded"].shape[1]
    assert not tokens[:, length:].any()
    inside = tokens[:, :length]
    assert torch.equal(winners.ids.where(tokens, 0)[:, :length], case["decoded"])
    torch.testing.assert_close(winners.features[:, :length], case["feats"], atol=1e-6, rtol=0)
    # at the end the recorded increment goes from the answer's log probability back to 0
    ends = inside.sum(1, keepdim=True) == torch.arange(length)
    whole = winners.scores.prod(1, keepdim=True)
    expected = torch.where(ends & (whole < 1), 1 / whole, winners.scores[:, :length])
    torch.testing.assert_close(expected, case["scores"], atol=1e-6, rtol=1e-4)
    assert (winners.scores[~tokens] == 1).all()


# ------------------------------------------------------------------------------- small UFO-ViT

NAMES = (  # recorded name of a module -> name in UFOViT
    ("backbone.", ""),
    ("patch_embed.projection", "patch_embed"),
    ("embed.word_embeddings", "embedding.word"),
    ("embed.position_embeddings", "embedding.position"),
    ("embed.LayerNorm", "embedding.norm"),
    (".ln1.", ".norm1."),
    (".ln2.", ".norm2."),
    (".attn.", "."),
    (".ffn.layers.0.0.", ".fc1."),
    (".ffn.layers.1.", ".fc2."),
)


@cache
def small_model() -> tuple[UFOViT, UFOTokenizer]:
    settings = json.loads((FOLDER / "small_model_cfg.json").read_text())["small_model_cfg"]
    settings = settings["backbone"]
    arch = settings["arch"]
    backbone = UFOViT(
        vocab_size=settings["text_cfg"]["vocab_size"],
        width=arch["embed_dims"],
        depth=arch["num_layers"],
        heads=arch["num_heads"],
        global_layers=arch["global_attn_indexes"],
        new_layers=len(settings["new_more_layers"]),
        mlp_ratio=arch["feedforward_channels"] / arch["embed_dims"],
        image_size=settings["img_size"],
    )
    recorded = {**load("small_sd_rest_fp16"), **load("small_sd_word_embeddings_fp16")}
    weights = {}
    for name, tensor in recorded.items():
        for theirs, ours in NAMES:
            name = name.replace(theirs, ours)
        if not name.endswith("position_ids"):
            weights[name] = tensor.float()
    backbone.load_state_dict(weights)
    return backbone.eval(), UFOTokenizer.from_pretrained(FOLDER / "bert_uncased_vocab.txt")


def task_of(recording: dict) -> Task:
    head = recording["head_settings"]
    settings = {
        "image_size": recording["size"],
        "max_length": head["max_length"],
        "num_beams": head["beam_num"],
        "temperature": head["temperature"],
        "length_penalty": head["alpha"],
    }
    if recording["task"] == "caption":
        return Caption(**settings)
    settings["grid_per_window"] = recording["meta"]["git_cfg"]["grid_resolution_perwin"][0]
    if recording["task"] == "detection":
        return Detection(num_bins=recording["meta"]["head_cfg"]["num_bins"], **settings)
    return InstanceSegmentation(**settings)


@cache
def decoded(name: str) -> Decoded:
    """What the small model answers to the recorded images, with the prompt of the training run."""
    recording = load(f"infer_{name}")
    backbone, tokenizer = small_model()
    task = task_of(recording)
    with np.load(FOLDER / "images_uint8_bgr.npz") as images:
        image = torch.from_numpy(images[recording["image_name"]]).flip(1)
    prompt = load(f"train_{name.rpartition('_')[0]}")["prompt"]
    prompts = [prompt] * len(image) if isinstance(prompt, str) else prompt
    windows = backbone.grid_windows(*image.shape[-2:])
    grid = query_grid(*windows, task.grid_per_window) if task.grid_per_window else None
    with torch.no_grad():
        context = backbone.encode(image, *tokenizer.encode_prompts(prompts), grid)
        return decode(backbone, context, tokenizer, task)


@pytest.mark.parametrize("name", ["caption_224_beam2", "detection_448_beam3", "insseg_448_beam3"])
def test_recorded_answers(name):
    expected = load(f"infer_{name}")["outputs_ids"].flatten(0, 1)
    ids = decoded(name).ids
    assert torch.equal(ids.where(ids != small_model()[1].end_id, 0), expected)


@pytest.mark.parametrize("name", ["detection_448_beam3", "insseg_448_beam3"])
def test_recorded_scores(name):
    expected = load(f"infer_{name}")["outputs_logits"][..., 0].flatten()
    torch.testing.assert_close(decoded(name).first_scores, expected, atol=1e-4, rtol=0)


def test_recorded_features():
    recording = load("infer_insseg_448_beam3")
    features = decoded("insseg_448_beam3").features.unflatten(0, recording["outputs_ids"].shape[:2])
    expected = recording["outputs_feats_sub"]
    torch.testing.assert_close(features[:, ::4], expected, atol=1e-4, rtol=0)
