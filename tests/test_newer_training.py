"""Training from a downloaded folder, as docs/models.md says, on tiny random ones; the published sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from commands import compose, run
from hydra.utils import get_object
from mllm_models import make_backbone
from omegaconf import OmegaConf
from safetensors.torch import load_file
from test_mllm_digits import QUICK, SHARED, few_at_once

import ufo
from ufo.backbones.mllm import MLLM

# option -> the tiny model of its family, token rows of the published one, and its parameters in millions
OPTIONS = {
    "internvl3_8b": ("internvl3", 151674, 7944),
    "internvl3_5_4b": ("internvl3_5", 151936, 4732),
    "qwen2_5_vl_3b": ("qwen2_5_vl", 151936, 3755),
    "qwen3_vl_4b": ("qwen3_vl", 151936, 4438),
}


def network(option: str, rows: int) -> MLLM:
    """The backbone of an option at its real size, without memory for its weights."""
    settings: Any = OmegaConf.to_container(compose(f"backbone={option}").backbone.network, resolve=True)
    with torch.device("meta"):
        return get_object(settings.pop("_target_"))(vocab_size=rows, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_has_the_size_of_its_published_model(option):
    """The number of values that the published files hold tells a wrong width, depth or shared head."""
    _, rows, millions = OPTIONS[option]
    backbone = network(option, rows)
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6) == millions
    layers = {backbone.layer_of(name) for name, _ in backbone.named_parameters()} - {None}
    last = compose(f"backbone={option}").backbone.ramp.last
    assert len(layers) == last
    side = 448 if "internvl" in option else 16 * backbone.tile
    assert backbone.layout(2 * side, side).tokens == 512 and backbone.grid_windows(2 * side, side) == (2, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "option, lora", [*zip(OPTIONS, ("none", "official", "none", "official"), strict=True)]
)
def test_a_folder_is_trained_on_all_tasks(option, lora, tmp_path):
    backbone, tokenizer = make_backbone(OPTIONS[option][0])
    backbone.net.config.image_token_id = backbone.patch_id
    folder = tmp_path / "hub"
    backbone.net.save_pretrained(folder)
    tokenizer.save(folder)
    settings = [
        *(f"backbone={option}", f"lora={lora}", f"prepare.digits.out={tmp_path / 'scenes'}"),
        *("backbone.network.config=null", f"backbone.network.pretrained={folder}"),
        f"backbone.tokenizer.name_or_path={folder}",
        *(f"tasks.{task}.grid_per_window=4" for task in ("detection", "instance_segmentation")),
        "tasks.semantic_segmentation.grid_per_window=4",
    ]
    quick = [*SHARED, *QUICK, *few_at_once("internvl_tiny_digits")]
    run("train.py", "experiment=internvl_tiny_digits", *quick, *settings, out=tmp_path / "run")
    assert (tmp_path / "run" / "results.md").is_file()
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert any(".lora_A." in name for name in saved) == (lora == "official")
    model = ufo.load(tmp_path / "run" / "model")
    assert type(model.backbone) is type(backbone)
    picture = torch.zeros(3, 112, 112, dtype=torch.uint8)
    assert model.predict(picture, task="detection").boxes.shape[1] == 4
