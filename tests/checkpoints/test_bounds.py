"""A foreign description reserves no memory, reaches no network and starts no code before it is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from ufo.checkpoints import bounds
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.load import load, save
from ufo.checkpoints.read import read

TEXT = {"model_type": "llama", "hidden_size": 64, "rope_parameters": {"rope_theta": 1e7}}
GOOD = {
    "backbone": {
        "type": "InternVL",
        "vocab_size": 300,
        "dtype": "float32",
        "config": {"model_type": "internvl", "text_config": TEXT, "vision_config": {"image_size": [56, 56]}},
    },
    "tasks": {"caption": {"image_size": 56, "max_length": 20}},
    "classes": {"caption": []},
    "lora": None,
    "mask_points": 32,
}


def changed(place: str, value) -> dict:
    description = json.loads(json.dumps(GOOD))
    *path, last = place.split(".")
    inner = description
    for key in path:
        inner[key] = inner.get(key) or {}
        inner = inner[key]
    inner[last] = value
    return description


def test_an_ordinary_description_passes():
    bounds.check_description(GOOD, "x")
    # what a config says about itself without asking for anything
    bounds.check_description(changed("backbone.config.quantization_config", None), "x")
    bounds.check_description(changed("backbone.config.use_timm_backbone", False), "x")


@pytest.mark.parametrize(
    "place, value",
    [
        ("tasks.caption.image_size", 65_536),
        ("tasks.caption.image_size", 0),
        ("tasks.caption.image_size", "large"),
        ("tasks.caption.max_length", 2e9),
        ("tasks.caption.num_beams", 10**6),
        ("tasks.caption.temperature", float("nan")),
        pytest.param("tasks.caption.anything", 10**4000, id="digits"),
        ("classes.caption", ["owl", None]),
        ("classes.caption", ["owl", "owl"]),
        ("classes.caption", "owl"),
        ("classes.caption", 7),
        ("classes", ["owl"]),
        ("lora.r", 10**7),
        ("lora.targets", r"(layers.*)*x"),
        ("mask_points", 10**10),
        ("backbone.depth", 10**9),
        ("backbone.vocab_size", 10**10),
        ("backbone.config.text_config.num_hidden_layers", 10**8),
        ("backbone.config.text_config.max_position_embeddings", 10**10),
        ("backbone.config.text_config.num_labels", 10**9),
        ("backbone.config.vision_config.image_size", [448, 10**6]),
        ("tokenizer.max_prompt_length", 10**12),
        # what would be looked up elsewhere
        ("backbone.pretrained", "somebody/model"),
        ("backbone.config.attn_implementation", "somebody/kernel"),
        ("backbone.config.text_config._attn_implementation", "somebody/kernel"),
        ("backbone.config.auto_map", {"AutoModel": "code.Model"}),
        ("backbone.config.vision_config.auto_map", {"AutoModel": "code.Model"}),
        ("backbone.config._name_or_path", "somebody/model"),
        ("backbone.config.quantization_config", {"quant_method": "gptq"}),
        ("backbone.config.vision_config.use_pretrained_backbone", True),
        ("backbone.config.vision_config.model_type", "timm_wrapper"),
        ("backbone._target_", "os.system"),
        ("tasks.caption._target_", "os.system"),
        ("backbone.dtype", "load"),
    ],
)
def test_what_no_model_needs_is_refused_by_its_name(place, value):
    with pytest.raises(CheckpointError) as error:
        bounds.check_description(changed(place, value), "some/folder")
    said = str(error.value)
    assert "some/folder" in said and place.split(".")[-1] in said and "\n" not in said and len(said) < 500


@pytest.mark.heavy
def test_settings_without_end_and_without_number_are_refused():
    deep: dict = {}
    for _ in range(5000):
        deep = {"config": deep}
    with pytest.raises(CheckpointError, match="nested"):
        bounds.check_description(changed("backbone.config", {}) | {"backbone": deep}, "x")
    many: list = [1]
    for _ in range(12):
        many = [many] * 12
    start = time.process_time()
    with pytest.raises(CheckpointError, match="more values"):
        bounds.check_description({**GOOD, "classes": many}, "x")
    assert time.process_time() - start < 20  # 12^12 values otherwise


@pytest.mark.parametrize("description", [None, [], {}, {"backbone": []}, {"backbone": "UFOViT"}])
def test_what_is_no_description_says_so(description):
    with pytest.raises(CheckpointError, match="no settings of a backbone"):
        bounds.check_description(description, "x")


def test_a_config_of_transformers_loses_what_reaches_elsewhere():
    config = {
        "model_type": "internvl",
        "_name_or_path": "somebody/model",
        "auto_map": {"AutoModel": "code.Model"},
        "text_config": {**TEXT, "attn_implementation": "somebody/kernel"},
    }
    assert bounds.without_reach(config) == {"model_type": "internvl", "text_config": TEXT}
    with pytest.raises(ValueError, match="quantised"):
        bounds.without_reach({**config, "quantization_config": {"bits": 4}})
    with pytest.raises(ValueError, match="num_hidden_layers"):
        bounds.without_reach({"text_config": {"num_hidden_layers": 10**6}})


def test_a_network_may_be_as_large_as_its_weights(make_model, tmp_path):
    """A layer wider than the file's weights is refused before its memory is asked for."""
    model = make_model()
    folder = save(model, tmp_path / "m")
    assert set(load(folder).state_dict()) == set(model.state_dict())
    config = json.loads((folder / "config.json").read_text())
    config["backbone"] |= {"mlp_ratio": 60.0, "width": 65_536}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="far more weights than its files hold"):
        load(folder)


def test_a_lightning_checkpoint_is_bounded_too(make_model, tmp_path):
    model = make_model()
    description = model.describe()
    next(iter(description["tasks"].values()))["image_size"] = 10**6
    path = tmp_path / "x.ckpt"
    torch.save({"ufo": description, "state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="image_size"):
        read(path)


@pytest.mark.parametrize("make", [torch.empty, torch.ones, torch.rand])
def test_allocations_are_counted_together(make):
    with bounds.no_more_than({}):
        make(1000, 1000)
        make((1000, 1000))
        with pytest.raises(ValueError, match="far more"):
            make(2**20, 2**20)
    with bounds.no_more_than({}), pytest.raises(ValueError, match="far more"):
        torch.arange(2**40)


def test_names_of_files_are_not_fetched(monkeypatch):
    from ufo.checkpoints.transformers_folder import downloaded

    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **k: asked.append(k) or str(Path("."))
    )
    downloaded("somebody/model")
    assert asked == [{"local_files_only": True}]
