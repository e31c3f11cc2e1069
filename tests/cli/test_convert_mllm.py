"""`ufo convert` for language models: released files, and a LoRA merged into what transformers reads."""

from __future__ import annotations

import json
import os

import pytest
import torch
from omegaconf import OmegaConf
from released_files import released_model
from tiny_mllm import (
    CLASSES,
    FAMILIES,
    LORA,
    SIDE,
    learn,
    make_mllm,
    make_tokenizer,
    outputs,
    pretrained_tokenizer,
)
from transformers import AutoModelForImageTextToText, AutoTokenizer

import ufo as package
from ufo.checkpoints import recipes
from ufo.checkpoints.load import initialise, prepare_training, save

pytestmark = pytest.mark.heavy


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


# ---------------------------------------------------------------- --merge


@pytest.fixture
def lora(family, tmp_path):
    """A trained LoRA beside its base, and what it computes."""
    model = make_mllm(family, seed=1)
    prepare_training(model, LORA)
    initialise(model, save(make_mllm(family), tmp_path / "base"))
    learn(model)
    return save(model, tmp_path / "lora"), outputs(model)


@pytest.mark.slow
def test_a_merged_model_is_transformers_own(ufo, family, lora, tmp_path):
    path, expected = lora
    out = tmp_path / "new" / "merged"
    answer = ufo("convert", "--merge", path, out)
    assert answer.code == 0, answer.err
    assert "LoRA of rank 4 merged; tasks: detection" in answer.out[-1]
    assert {p.name for p in out.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [p.name for p in out.parent.iterdir()] == ["merged"]
    ours = package.load(out)
    assert ours.backbone.lora is None and ours.backbone.base is None
    torch.testing.assert_close(outputs(ours), expected, rtol=1e-4, atol=1e-5)

    net, report = AutoModelForImageTextToText.from_pretrained(out, output_loading_info=True)
    assert type(net) is type(ours.backbone.net)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    weights = ours.backbone.net.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    words = AutoTokenizer.from_pretrained(out)
    assert len(words) == len(ours.tokenizer) == net.config.get_text_config().vocab_size
    assert (words.bos_token_id, words.eos_token_id) == (ours.tokenizer.start_id, ours.tokenizer.end_id)
    patches = {"internvl": 4, "llava": 16}[family]
    text = f"detect owl {ours.backbone.patch_token * patches} <MASK>"
    inputs = words(text, return_tensors="pt", add_special_tokens=False)
    assert inputs["input_ids"].tolist()[0] == ours.tokenizer.encode([text])[0][1:-1]
    pixels = torch.zeros(1, 3, SIDE, SIDE)
    ids = net.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        pixel_values=pixels,
        min_new_tokens=4,
        max_new_tokens=4,
    )
    assert ids.shape[1] == inputs["input_ids"].shape[1] + 4
    assert (
        isinstance(words.decode(ids[0]), str) and net.generation_config.eos_token_id == ours.tokenizer.end_id
    )


@pytest.mark.slow
def test_merging_a_lora_whose_base_moved_or_is_another(ufo, family, lora, tmp_path):
    (tmp_path / "base").rename(tmp_path / "moved")
    answer = ufo("convert", "--merge", tmp_path / "lora", tmp_path / "out")
    assert answer.code == 1 and "its base" in answer.err[-1] and not (tmp_path / "out").exists()
    save(make_mllm(family, seed=9), tmp_path / "other")
    answer = ufo("convert", "--merge", tmp_path / "lora", tmp_path / "out", "--base", tmp_path / "other")
    assert answer.code == 1 and "is for another base" in answer.err[-1] and not (tmp_path / "out").exists()
    answer = ufo("convert", "--merge", tmp_path / "lora", tmp_path / "out", "--base", tmp_path / "moved")
    assert answer.code == 0, answer.err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--merge", "base", "out"), "has no LoRA and no base"),
        (("--merge", "lora", "base"), "base exists"),
        (("--merge", "nowhere", "out"), "no checkpoint at 'nowhere'"),
        (("--merge", "lora", "out", "experiment=x"), "--merge takes the model as it is"),
        (("lora", "out"), "add --merge"),
        (("lora", "out", "--base", "base"), "add --merge"),
    ],
)
def test_wrong_arguments(ufo, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    model = make_mllm(seed=1)
    prepare_training(model, LORA)
    initialise(model, save(make_mllm(), tmp_path / "base"))
    save(model, tmp_path / "lora")
    before = sorted(tmp_path.rglob("*"))
    answer = ufo("convert", *arguments)
    assert answer.code == 1 and said in answer.err[-1] and answer.err[-1].startswith("error: ")
    assert sorted(tmp_path.rglob("*")) == before


# ---------------------------------------------------------------- released files


@pytest.fixture
def recipe(monkeypatch, family):
    """A config as an experiment of the tiny family would compose it."""
    kind = {"internvl": "ufo.backbones.internvl.InternVL", "llava": "ufo.backbones.llava.Llava"}[family]
    settings = make_tokenizer(family).settings
    task = {"image_size": SIDE, "num_bins": 20, "grid_per_window": 2, "samples_per_window": 2, "repeat": 1}
    cfg = {
        "backbone": {
            "network": {"_target_": kind, "config": FAMILIES[family][1], "max_tiles": 4},
            "tokenizer": {"_target_": "x", "name_or_path": "nowhere/nothing", **settings},
        },
        "tasks": {"detection": {"_target_": "ufo.tasks.detection.Detection", **task}},
        "loss_weights": {"token": 1.0},
        "mask_points": 16,
    }
    monkeypatch.setattr(recipes, "compose", lambda overrides: OmegaConf.create(cfg))
    return cfg


@pytest.fixture
def released(family, tmp_path, recipe):
    """A released LoRA with its tokenizer beside it."""
    path = tmp_path / "released.pth"
    state, _ = released_model(family, lora=True)
    torch.save({"meta": {}, "state_dict": state, "message_hub": {}}, path)
    (tmp_path / "tokenizer.json").write_text(pretrained_tokenizer(family))
    return path


def convert(ufo, path, *options):
    return ufo("convert", path, path.parent / "out", "experiment=x", "--classes", ",".join(CLASSES), *options)


def test_a_released_lora_becomes_a_model(ufo, family, released, monkeypatch):
    answer = convert(ufo, released)
    assert answer.code == 0, answer.err
    assert "LoRA of rank 4, merged" in answer.out[-1] and "tasks: detection" in answer.out[-1]
    model = package.load(released.parent / "out")
    assert model.classes == {"detection": CLASSES} and model.backbone.max_tiles == 4
    expected = make_mllm(family, seed=2)
    prepare_training(expected, {})
    initialise(expected, released)
    assert torch.equal(outputs(model), outputs(expected))
    head = model.backbone.output_embedding
    assert not torch.allclose(head[-1], head[-2])  # rows of UFO's tokens are those of the file
    AutoModelForImageTextToText.from_pretrained(released.parent / "out")


class Attack:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "how, said",
    [
        ("truncated", "cut short"),
        ("code", "mkdir"),
        ("missing", "1 missing keys"),
        ("unmapped", "1 unmapped keys"),
        ("vocabulary", "tokens and the tokenizer"),
        ("no tokenizer", "no tokenizer 'nowhere/nothing'"),
        ("special", "the tokenizer lacks|the tokenizer has no token|no tokenizer for this model"),
        ("backbone", "the experiment is for another backbone"),
        ("no experiment", "does not tell its recipe"),
        ("task", "the experiment has no task 'depth'"),
    ],
)
@pytest.mark.parametrize("family", ["internvl"])
def test_a_bad_file_leaves_one_sentence_and_nothing_else(ufo, released, recipe, how, said):
    content = torch.load(released)
    words = released.parent / "tokenizer.json"
    key = next(k for k in content["state_dict"] if k.endswith("ffn_norm.weight"))
    if how == "truncated":
        released.write_bytes(released.read_bytes()[:3000])
    elif how == "code":
        content["message_hub"] = Attack(released.parent / "executed")
    elif how in ("missing", "unmapped"):
        value = content["state_dict"].pop(key)
        content["state_dict"] |= {key: value, "backbone.head.weight": value} if how == "unmapped" else {}
    elif how == "vocabulary":
        words.write_text(json.dumps(make_longer(json.loads(words.read_text()))))
    elif how == "no tokenizer":
        words.unlink()
    elif how == "special":
        words.write_text(words.read_text().replace("<img>", "<pic>"))
    elif how == "backbone":
        recipe["backbone"]["network"]["_target_"] = "ufo.backbones.ufo_vit.UFOViT"
    if how in ("code", "missing", "unmapped"):
        torch.save(content, released)
    before = sorted(released.parent.rglob("*"))
    options = ("--tasks", "depth") if how == "task" else ()
    arguments = (released, released.parent / "out") if how == "no experiment" else ()
    answer = ufo("convert", *arguments) if arguments else convert(ufo, released, *options)
    assert answer.code == 1 and not answer.out
    assert [line for line in answer.err if line.startswith("error: ")] == answer.err[-1:]
    assert any(part in answer.err[-1] for part in said.split("|"))
    assert sorted(released.parent.rglob("*")) == before


def make_longer(tokenizer: dict) -> dict:
    tokenizer["model"]["vocab"]["zebra"] = len(tokenizer["model"]["vocab"])
    return tokenizer
