"""Language models as they were released: a partial LoRA over its base, shards, a merged folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from released_files import only_trained, released_model
from safetensors.torch import save_file
from tiny_mllm import FAMILIES, LORA, learn, make_mllm, make_tokenizer, outputs
from torch import Tensor

from ufo.checkpoints import pretrained_lm
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.load import initialise, load, prepare_training
from ufo.checkpoints.model_folder import NET, save
from ufo.checkpoints.released import is_released, open_released

pytestmark = pytest.mark.heavy


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


def whole_and_partial(family: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    whole, _ = released_model(family, lora=True)
    return whole, only_trained(whole)


def base_folder(family: str, folder: Path, layout: str) -> Path:
    """The model under the LoRA, as InternVL published it or as transformers has it."""
    folder.mkdir()
    if layout == "transformers":
        net = make_mllm(family).backbone.net
        net.save_pretrained(folder)
        return folder
    kind = "internvl_chat" if family == "internvl" else "llava_custom"
    if family == "internvl":
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    weights = {n: v.contiguous() for n, v in released_model(family, prefix="")[0].items()}
    half = len(weights) // 2
    names = list(weights)
    listed = {}
    for i, part in enumerate((names[:half], names[half:]), start=1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({n: weights[n] for n in part}, folder / file)
        listed |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    return folder


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("layout", ["released", "transformers"])
def test_a_partial_lora_over_its_base_is_the_whole_file(family, layout, tmp_path, monkeypatch):
    whole, partial = whole_and_partial(family)
    torch.save(whole, tmp_path / "whole.pth")
    torch.save(partial, tmp_path / "partial.pth")
    base = base_folder(family, tmp_path / "base", layout)
    found = open_released(tmp_path / "partial.pth", base)
    expected = open_released(tmp_path / "whole.pth")
    for released in (found, expected):  # the tiny heads are not those of the released sizes
        monkeypatch.setattr(released, "_config", {"text_config": {"num_attention_heads": 4}})
    assert same(found.weights, expected.weights) and found.name == expected.name


def test_a_partial_file_says_which_base_it_wants(family, tmp_path):
    torch.save(whole_and_partial(family)[1], tmp_path / "x.pth")
    wanted = {"internvl": "OpenGVLab/InternVL2-8B", "llava": "llava-hf/llava-1.5-7b-hf"}[family]
    with pytest.raises(CheckpointError, match=f"holds only what its LoRA trained.*{wanted}"):
        open_released(tmp_path / "x.pth")


def test_a_whole_file_wants_no_base(family, tmp_path):
    torch.save(released_model(family)[0], tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="whole already"):
        open_released(tmp_path / "x.pth", tmp_path)


def test_a_base_of_another_family(tmp_path):
    torch.save(whole_and_partial("internvl")[1], tmp_path / "x.pth")
    base = base_folder("llava", tmp_path / "base", "transformers")
    with pytest.raises(CheckpointError, match="is a llava, and the LoRA is for a internvl"):
        open_released(tmp_path / "x.pth", base)


def test_a_key_too_many_is_listed(family, tmp_path):
    _, partial = whole_and_partial(family)
    torch.save({**partial, "backbone.language_model.strange.weight": torch.zeros(2)}, tmp_path / "x.pth")
    base = base_folder(family, tmp_path / "base", "released")
    with pytest.raises(CheckpointError, match=r"1 unmapped keys \(language_model\.strange\.weight"):
        _ = open_released(tmp_path / "x.pth", base).weights


# ---------------------------------------------------------------- merged folders


def merged_folder(folder: Path, mask: bool) -> Path:
    """InternVL's own layout with the tokenizer beside it: a finished UFO knows `<MASK>`, a base does not."""
    base_folder("internvl", folder, "released")
    words = make_tokenizer("internvl")
    added = [{"id": words.mask_id, "content": "<MASK>"}] if mask else []
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    return folder


def test_a_merged_folder_is_finished_and_a_base_is_not(tmp_path):
    model = make_mllm("internvl", seed=3)
    for mask in (True, False):
        folder = merged_folder(tmp_path / str(mask), mask)
        assert is_released(folder)
        assert pretrained_lm.read(model.backbone, folder).finished == mask


def test_the_norm_of_a_finished_model_is_kept(tmp_path):
    norm = f"{NET}model.language_model.norm.weight"
    trained = released_model("internvl")[1]["model.language_model.norm.weight"]
    for mask in (True, False):
        model = make_mllm("internvl", seed=3)
        prepare_training(
            model, {"fresh_norm": True, "train_vision": True, "train_projector": True, "train_lm": True}
        )
        initialise(model, merged_folder(tmp_path / f"norm {mask}", mask))
        now = model.state_dict()[norm]
        assert torch.equal(now, trained if mask else torch.ones_like(trained))


def test_a_model_folder_of_this_project_is_no_released_one(tmp_path):
    model = make_mllm("internvl")
    assert not is_released(save(model, tmp_path / "whole"))
    base = save(make_mllm("internvl"), tmp_path / "base")
    lora = make_mllm("internvl", seed=1)
    prepare_training(lora, LORA)
    initialise(lora, base)
    assert not is_released(save(lora, tmp_path / "lora"))


def test_what_continues_a_partial_lora_is_loaded_over_both(family, tmp_path):
    """A released LoRA and its base are the base of what is trained further; the lower one may move."""
    torch.save(whole_and_partial(family)[1], tmp_path / "partial.pth")
    under = base_folder(family, tmp_path / "under", "transformers")
    model = make_mllm(family, seed=1)
    prepare_training(model, LORA)
    initialise(model, {"file": str(tmp_path / "partial.pth"), "base": str(under)})
    learn(model)
    expected, path = outputs(model), save(model, tmp_path / "further")
    assert torch.equal(outputs(load(path)), expected)
    moved = under.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"--base FOLDER.*init='\{file: PATH, base: FOLDER\}'"):
        load(path)
    assert torch.equal(outputs(load(path, base=moved)), expected)


def test_a_training_starts_from_a_lora_whose_base_has_moved(family, tmp_path):
    """And what it saves names the place where the base is now."""
    base = save(make_mllm(family), tmp_path / "base")
    first = make_mllm(family, seed=1)
    prepare_training(first, LORA)
    initialise(first, base)
    learn(first)
    path = save(first, tmp_path / "lora")
    moved = base.rename(tmp_path / "moved")

    second = make_mllm(family, seed=2)
    prepare_training(second, LORA)
    with pytest.raises(CheckpointError, match="its base"):
        initialise(second, path)
    initialise(second, {"file": str(path), "base": str(moved)})
    assert torch.equal(outputs(second.eval()), outputs(first.eval()))
    assert torch.equal(outputs(load(save(second, tmp_path / "again"))), outputs(first))
