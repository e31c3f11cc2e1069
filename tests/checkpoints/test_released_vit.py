"""A released file becomes a model: recognised, completed by a recipe, loaded like any other."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import ufo
from ufo import places
from ufo.checkpoints import recipes, released, released_vit
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.load import build, initialise, load, save
from ufo.checkpoints.released_checkpoint import ReleasedCheckpoint
from ufo.checkpoints.vit_names import key_table
from ufo.tokenizer import UFOTokenizer

pytestmark = pytest.mark.heavy

META = {"cfg": "support_tasks=['detection', 'grounding']"}


@pytest.fixture
def tiny_is_base(monkeypatch):
    """Let the tiny network count as UFO-ViT-B."""
    monkeypatch.setattr(released_vit, "SIZES", {16: "b"})


@pytest.fixture
def state(make_backbone) -> dict[str, torch.Tensor]:
    return as_released(make_backbone())


def as_released(backbone) -> dict[str, torch.Tensor]:
    ours = backbone.state_dict()
    table = key_table(len(backbone.layers))
    return {theirs: ours[name] for theirs, name in table.items() if name}


@pytest.fixture
def file(tmp_path, state, tokenizer) -> Path:
    """A `.pth` with the vocabulary beside it."""
    tokenizer.save(tmp_path)
    torch.save({"meta": META, "state_dict": state, "message_hub": {}}, tmp_path / "x.pth")
    return tmp_path / "x.pth"


def recognise(state, path="x.pth", **more) -> ReleasedCheckpoint:
    return released.recognise({"state_dict": state, **more}, Path(path))


def recognise_without_mask(make_backbone, tokenizer, tmp_path) -> ReleasedCheckpoint:
    tokenizer.save(tmp_path)
    return recognise(as_released(make_backbone(vocab_size=len(tokenizer) - 1)), tmp_path / "x.pth")


@pytest.mark.usefixtures("tiny_is_base")
def test_a_file_is_loaded_like_any_checkpoint(file, make_backbone):
    model = ufo.load(file)
    ours = make_backbone().state_dict()
    assert all(torch.equal(v, ours[k]) for k, v in model.backbone.state_dict().items())
    assert list(model.tasks) == ["detection", "grounding"]
    assert model.backbone.quirks.query_update_at_global == "training"
    cfg = recipes.compose(["experiment=ufo_vit_b_multi"])
    assert model.tasks["detection"].settings == recipes.task_settings(cfg)["detection"]
    assert len(model.classes["detection"]) == 80 and "grounding" not in model.classes
    again = load(save(model, file.parent / "folder"))
    assert again.describe() == model.describe()


def test_training_starts_from_it_without_a_recipe(file, make_model):
    model, other = make_model(seed=1), make_model(seed=0)
    initialise(model, file)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(CheckpointError, match="new_layers=2 there, 1 here"):
        initialise(make_model(new_layers=1), file, strict=True)


def test_half_precision_and_data_parallel_names(state):
    found = recognise({f"module.{k}": v.half() for k, v in state.items()})
    assert {v.dtype for v in found.weights.values()} == {torch.float32}
    assert found.weights.keys() == recognise(state).weights.keys()


@pytest.mark.usefixtures("tiny_is_base")
def test_a_vocabulary_without_mask_allows_no_masks(make_backbone, tokenizer, tmp_path):
    found = recognise_without_mask(make_backbone, tokenizer, tmp_path)
    description = found.describe(tasks=["caption", "detection"])
    assert description["mask_token"] is False and set(description["tasks"]) == {"caption", "detection"}
    model = build(description)
    assert len(model.tokenizer) == len(tokenizer) - 1 and model.tokenizer.mask_id == -1
    again = load(save(model, tmp_path / "folder"))
    assert len(again.tokenizer) == len(model.tokenizer)
    with pytest.raises(CheckpointError, match=r"cannot do 'instance_segmentation': .* no <MASK>"):
        found.describe(tasks=["instance_segmentation"])
    with pytest.raises(ValueError, match="no <MASK>"):
        build(description | {"tasks": {"semantic_segmentation": {"image_size": 24}}})


@pytest.mark.usefixtures("tiny_is_base")
def test_tasks_follow_from_name_then_file_then_weights(file, state, monkeypatch):
    told, silent = recognise(state, file, meta=META), recognise(state, file)
    assert list(told.describe()["tasks"]) == ["detection", "grounding"]
    assert list(told.describe(tasks=["caption"])["tasks"]) == ["caption"]
    with pytest.raises(CheckpointError, match="trained on 24 px, which no task"):
        silent.describe()
    sizes = {"detection": 48, "semantic_segmentation": 24, "caption": 12}
    settings = {n: {"image_size": s} for n, s in sizes.items()}
    assert list(silent._choose(settings, True, None)) == ["semantic_segmentation"]
    silent.backbone["image_size"] = 48
    assert list(silent._choose(settings, True, None)) == list(sizes)
    with pytest.raises(CheckpointError, match="no such task; can: detection"):
        silent._choose(settings, True, ["depth"])


@pytest.mark.usefixtures("tiny_is_base")
def test_one_task_has_the_settings_of_its_own_recipe(file, state):
    if "ufo_vit_b_caption" not in recipes.experiments():
        pytest.skip("no single-task experiment")
    found = recognise(state, file)
    own = recipes.task_settings(recipes.compose(["experiment=ufo_vit_b_caption"]))
    multi = recipes.task_settings(recipes.compose(["experiment=ufo_vit_b_multi"]))
    assert found.describe(tasks=["caption"])["tasks"]["caption"] == own["caption"] != multi["caption"]
    asked = found.describe(tasks=["caption"], overrides=["experiment=ufo_vit_b_multi"])
    assert asked["tasks"]["caption"] == multi["caption"]


def test_a_file_of_captions_is_asked_as_its_own_recipe_asks(state, tmp_path, tokenizer):
    """Under the name it was released under; `experiment=` wins. The shipped config has three beams."""
    tokenizer.save(tmp_path)
    found = recognise(state, tmp_path / "ufo-vit-b-single-caption.pth")
    found.backbone["image_size"] = 1120  # of the released grid of positions
    tasks = found.describe()["tasks"]
    assert list(tasks) == ["caption"]
    assert [tasks["caption"][k] for k in ("num_beams", "temperature", "length_penalty")] == [3, 0.7, 0.75]
    multi = found.describe(overrides=["experiment=ufo_vit_b_multi"])["tasks"]
    assert multi["caption"]["num_beams"] == 2 and len(multi) > 1


@pytest.mark.usefixtures("tiny_is_base")
def test_a_vocabulary_of_another_size_is_refused(state, tmp_path, tokenizer):
    other = UFOTokenizer([*tokenizer.vocab, "zebra", "gnu"])
    other.save(tmp_path)
    with pytest.raises(CheckpointError, match=f"makes {len(other)}, or {len(other) - 1} without"):
        recognise(state).describe(vocab=tmp_path)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(CheckpointError, match="is not a vocabulary"):
        recognise(state).describe(vocab=tmp_path)


def test_another_size_needs_an_experiment(file, state):
    found = recognise(state, file)
    with pytest.raises(CheckpointError, match="not a released size of UFO-ViT but UFO-ViT"):
        found.describe()
    chosen = found.describe(
        tasks=["detection"],
        classes={"detection": ("owl",)},
        overrides=["experiment=ufo_vit_b_multi", "tasks.detection.image_size=24"],
    )
    assert chosen["tasks"]["detection"]["image_size"] == 24
    assert chosen["classes"] == {"detection": ["owl"]}
    with pytest.raises(CheckpointError, match=r"no experiment 'nope'; there are: .*ufo_vit_b_multi"):
        found.describe(overrides=["experiment=nope"])
    with pytest.raises(CheckpointError, match=r"there is no|has no"):
        found.describe(overrides=["experiment=ufo_vit_b_multi", "tasks.detektion.num_beams=1"])


def test_a_running_hydra_job_is_not_disturbed():
    folder = str(places.conf())
    with hydra.initialize_config_dir(folder, version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        assert recipes.compose(["experiment=ufo_vit_b_multi"]).name == "ufo_vit_b_multi"
        assert GlobalHydra.instance().hydra is outer
        assert hydra.compose("train").seed is not None
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"backbone.language_model.model.layers.0.weight": torch.zeros(1)}, "1 unmapped keys"),
        ({"backbone.pos_embed": torch.zeros(6)}, "fits no UFO-ViT"),
        ({"backbone.pos_embed": torch.zeros(1, 5, 5, 16)}, "relative positions for neither"),
        ({"backbone.layers.0.attn.rel_pos_h": torch.zeros(5)}, "are no tables"),
        ({f"backbone.layers.0.attn.rel_pos_{a}": torch.zeros(5, 32) for a in "hw"}, "into heads"),
    ],
)
def test_what_is_no_ufo_vit_is_refused_in_one_sentence(state, change, message):
    with pytest.raises(CheckpointError, match=message) as error:
        recognise(state | change)
    assert "x.pth" in str(error.value) and "\n" not in str(error.value)


def test_an_encoder_without_new_layers_is_refused(make_backbone):
    backbone = make_backbone(new_layers=0, mean_layers=[1])
    with pytest.raises(CheckpointError, match="without new layers"):
        recognise(as_released(backbone))
