"""Newer checkpoints of the same families, as their folders lie on the hub, start models of ours, and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mllm_models import FAMILIES, MODELS, answers, encode, make_backbone, make_tokenizer
from transformers import AutoModelForImageTextToText

from ufo.backbones.mllm import MLLM
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.load import initialise, load, save
from ufo.hf_tokenizer import HFTokenizer
from ufo.model import UFO

pytestmark = pytest.mark.heavy

EMBED, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"


def as_published(folder: Path) -> dict:
    """Rewrite a config.json in the words of the library that wrote the published ones (4.52 to 4.57)."""
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    rope = dict(text.pop("rope_parameters"))
    text["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    scaling = {"type": "mrope" if "mrope_section" in rope else kind, **rope}
    text["rope_scaling"] = scaling if rope else None
    if config["model_type"] == "qwen3_vl":
        text["rope_scaling"] = {"mrope_interleaved": True, "rope_type": "default", **rope}
        config["vision_config"]["model_type"] = "qwen3_vl"
    if config["model_type"] == "internvl":
        del config["tie_word_embeddings"]  # whatever the weights do
    if config["model_type"] == "qwen2_5_vl":
        inner = config.pop("text_config")
        config = {**inner, **config, "vision_config": {**config["vision_config"], "model_type": "qwen2_5_vl"}}
    (folder / "config.json").write_text(json.dumps(config))
    return config


def publish(name: str, folder: Path, tied: bool | None = None) -> MLLM:
    """A random model of the family as a folder of transformers with a config of its time."""
    backbone, tokenizer = make_backbone(name)
    if tied is not None:
        config = {**MODELS[name][1], "tie_word_embeddings": tied}
        backbone = MODELS[name][0](vocab_size=len(tokenizer), config=config, system="").eval()
        backbone.attach(tokenizer)
    backbone.net.config.image_token_id = backbone.patch_id
    backbone.net.save_pretrained(folder)
    as_published(folder)
    return backbone


def empty(name: str, tokenizer: HFTokenizer | None = None, **changes) -> UFO:
    """A model with other random weights, to be initialised."""
    torch.manual_seed(7)
    tokenizer = tokenizer or make_tokenizer(name)
    config = {**MODELS[name][1], **changes}
    return UFO(MODELS[name][0](vocab_size=len(tokenizer), config=config, system=""), tokenizer, {}).eval()


@torch.no_grad()
def logits(backbone: MLLM, name: str) -> torch.Tensor:
    context = encode(backbone, make_tokenizer(name))
    return backbone.answer(context, answers(2)) @ backbone.output_embedding.T


@pytest.mark.parametrize("name", FAMILIES)
def test_a_published_folder_starts_a_model(name, tmp_path):
    """`init=FOLDER` and `network.pretrained=FOLDER` give what the folder's model computes."""
    theirs = publish(name, tmp_path / "hub")
    expected = logits(theirs, name)
    model = empty(name)
    assert (logits(model.backbone, name) - expected).abs().max() > 0.1
    initialise(model, tmp_path / "hub")
    torch.testing.assert_close(logits(model.backbone, name), expected)
    tokenizer = make_tokenizer(name)
    again = MODELS[name][0](vocab_size=len(tokenizer), pretrained=str(tmp_path / "hub"), system="").eval()
    again.attach(tokenizer)
    torch.testing.assert_close(logits(again, name), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_is_one_of_transformers(name, tmp_path):
    backbone, tokenizer = make_backbone(name)
    path = save(UFO(backbone, tokenizer, {}), tmp_path / "model")
    net = AutoModelForImageTextToText.from_pretrained(path)
    ours = backbone.net.state_dict()
    assert type(net) is type(backbone.net) and net.config.image_token_id == backbone.patch_id
    assert net.state_dict().keys() == ours.keys()
    assert all(torch.equal(value, ours[key]) for key, value in net.state_dict().items())
    torch.testing.assert_close(logits(load(path).backbone, name), logits(backbone, name))


# ---------------------------------------------------------------- heads and embeddings


def test_a_head_of_its_own_stays_one_whatever_the_config_says(tmp_path):
    """InternVL3's config does not say that its head is a matrix of its own, and the default denies it."""
    net = publish("internvl3", tmp_path / "hub").net
    head, embedding = net.lm_head.weight, net.get_input_embeddings().weight
    assert not torch.equal(head, embedding)
    known = len(head)
    more = MODELS["internvl3"][0](vocab_size=known + 2, pretrained=str(tmp_path / "hub"), system="")
    assert torch.equal(more.net.lm_head.weight[:known], head)
    assert torch.equal(more.net.get_input_embeddings().weight[:known], embedding)
    assert more.config["config"]["tie_word_embeddings"] is False  # so that a saved one is built alike


def test_a_shared_head_starts_one_of_its_own(tmp_path):
    theirs = publish("internvl3", tmp_path / "hub", tied=True)
    model = empty("internvl3", tie_word_embeddings=False)
    initialise(model, tmp_path / "hub")
    net = model.backbone.net
    assert net.lm_head.weight is not net.get_input_embeddings().weight
    torch.testing.assert_close(logits(model.backbone, "internvl3"), logits(theirs, "internvl3"))


def test_a_head_of_its_own_does_not_vanish_in_a_shared_one(tmp_path):
    publish("internvl3", tmp_path / "hub", tied=False)
    with pytest.raises(CheckpointError, match=r"an output head of its own; set .*tie_word_embeddings=false"):
        initialise(empty("internvl3", tie_word_embeddings=True), tmp_path / "hub")


# ---------------------------------------------------------------- tokenizers


def with_more_tokens(name: str, *more: str) -> HFTokenizer:
    """The family's tokenizer with further tokens in its file, behind its own."""
    tokenizer = make_tokenizer(name)
    tokenizer._backend.add_special_tokens(list(more))
    return HFTokenizer.from_content(tokenizer.content, **{**tokenizer.settings, "added": ["<MASK>", "<new>"]})


def test_a_token_that_the_model_has_no_row_for(tmp_path):
    """InternVL3's tokenizer has one token more (`<video>`) than its embedding has rows."""
    theirs = publish("internvl3", tmp_path / "hub")
    tokenizer = with_more_tokens("internvl3", "<video>")
    assert tokenizer.appended == 1 and len(tokenizer) == len(make_tokenizer("internvl3")) + 2
    model = empty("internvl3", tokenizer)
    fresh = model.backbone.net.get_input_embeddings().weight[-2:].detach().clone()
    initialise(model, tmp_path / "hub")
    found = model.backbone.net.state_dict()
    rows = theirs.net.state_dict()
    assert torch.equal(found[EMBED][:-2], rows[EMBED]) and torch.equal(found[EMBED][-2:], fresh)
    mean = rows[HEAD].mean(0).expand(2, -1)
    assert torch.equal(found[HEAD][:-2], rows[HEAD])
    torch.testing.assert_close(found[HEAD][-2:], mean)


def test_the_tokenizer_of_another_generation_is_refused(tmp_path):
    """In InternVL3.5 the image's token has another number: more tokens are not just behind."""
    theirs = publish("internvl3", tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    config["image_token_id"] = theirs.patch_id + 4
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config))
    tokenizer = with_more_tokens("internvl3", "<video>")
    with pytest.raises(CheckpointError, match="give the tokenizer of these weights"):
        initialise(empty("internvl3", tokenizer), tmp_path / "hub")
    model = MODELS["internvl3"][0](vocab_size=len(tokenizer), pretrained=str(tmp_path / "hub"))
    with pytest.raises(ValueError, match="give the tokenizer of these weights"):
        model.attach(tokenizer)


# ---------------------------------------------------------------- other architectures


@pytest.mark.parametrize(
    ("name", "part", "key", "value"),
    [
        ("internvl3", "text_config", "rope_theta", 1e4),
        ("internvl3_5", "text_config", "num_key_value_heads", 1),
        ("qwen2_5_vl", "vision_config", "fullatt_block_indexes", [0]),
        ("qwen3_vl", "vision_config", "deepstack_visual_indexes", [1, 2]),
        ("llava_qwen", "vision_config", "hidden_act", "gelu"),
    ],
)
def test_what_shapes_do_not_tell_is_compared(name, part, key, value, tmp_path):
    publish(name, tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    config.get(part, config)[key] = value
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config))
    shown = "rope_parameters" if key == "rope_theta" else key
    with pytest.raises(CheckpointError, match=f"of another architecture: .*{shown}=") as error:
        initialise(empty(name), tmp_path / "hub")
    assert "\n" not in str(error.value)


def test_the_authors_own_layout_is_sent_to_the_right_folder(tmp_path):
    config = {"model_type": "internvl_chat", "llm_config": {"model_type": "qwen2"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"InternVL with a qwen2 .* ends with -hf"):
        initialise(empty("internvl3"), tmp_path)


def test_a_damaged_config_is_one_sentence(tmp_path):
    publish("qwen3_vl", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"has a config\.json that cannot be read"):
        initialise(empty("qwen3_vl"), tmp_path)
