"""A UFO-ViT that starts from one of another size: what fits is the same, and the rest disturbs it little."""

from __future__ import annotations

import logging

import pytest
import torch

from ufo.checkpoints.load import CheckpointError, initialise, save
from ufo.model import UFO
from ufo.tokenizer import UFOTokenizer


@pytest.fixture
def started(folder, make_model, caplog):
    """A model of other settings that has started from `folder`; the line that says how is in the log."""

    def start(**changes) -> UFO:
        other = make_model(seed=1, **changes)
        with caplog.at_level(logging.INFO):
            initialise(other, folder)
        return other

    return start


@pytest.mark.parametrize("task", ["detection", "instance_segmentation", "caption", "grounding"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"max_positions": 100}, {"new_layers": 4, "mean_layers": [2, 3]}],
    ids=["the same", "longer prompts", "more layers below the mean"],
)
def test_what_can_stay_stays(model, started, make_batch, task, changes):
    """A longer prompt and layers that are not read leave every loss as it was."""
    batch = make_batch(task)
    other = started(**changes)
    torch.manual_seed(0)
    before = model.loss(batch)["loss"]
    torch.manual_seed(0)
    torch.testing.assert_close(other.loss(batch)["loss"], before)


def test_new_layers_change_nothing_at_first(model, started, make_batch):
    """The mean over the layers then has the last one more often."""
    other = started(new_layers=4, mean_layers=[3, 4, 5])
    images = make_batch("caption").images
    with torch.no_grad():
        ids, seen = model.tokenizer.encode_prompts(["a photo"])
        first = started(mean_layers=[3]).backbone.encode(images, ids, seen).image_features
        torch.testing.assert_close(other.backbone.encode(images, ids, seen).image_features, first)


def test_more_layers_below_the_new_ones(model, started, caplog):
    other = started(depth=4, global_layers=[1])
    ours, theirs = other.state_dict(), model.state_dict()
    for new, old in ((0, 0), (1, 1), (4, 2), (5, 3)):
        for name in (n for n in theirs if f"layers.{old}." in n):
            assert torch.equal(ours[name.replace(f"layers.{old}.", f"layers.{new}.")], theirs[name])
    assert not ours["backbone.layers.2.fc2.weight"].any() and ours["backbone.layers.2.fc1.weight"].any()
    assert "new layers that change nothing at first: 2, 3" in caplog.text


def test_fewer_layers_are_said(started, caplog):
    started(new_layers=1)
    assert "1 layers left out" in caplog.text


def test_another_image_size(model, started, make_batch, caplog):
    """The same picture at twice the size is seen nearly as before."""
    other = started(image_size=48)
    assert other.backbone.pos_embed.shape[1:3] == (12, 12)
    assert other.backbone.layers[1].rel_pos_h.shape[0] == 23  # a global layer
    assert torch.equal(
        other.backbone.layers[0].rel_pos_h, model.backbone.layers[0].rel_pos_h
    )  # a windowed one
    assert "positions of 6 x 6 patches interpolated to 12 x 12" in caplog.text
    assert "relative positions interpolated" in caplog.text
    # what the model made of a table at run time is what it now starts with
    wanted = model.backbone._positions((12, 12))
    torch.testing.assert_close(other.backbone.pos_embed, wanted)


def test_another_patch_size_sees_the_same_colours(model, started):
    other = started(patch_size=8, image_size=48)
    colour = torch.rand(1, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(1, 3, 8, 8)
    small, large = model.backbone.patch_embed(colour[..., :4, :4]), other.backbone.patch_embed(colour)
    torch.testing.assert_close(large, small)


def test_another_vocabulary(model, folder, make_batch, caplog):
    """Words move with their rows; a new one is the mean of its pieces, where the old model spelled it."""
    old = list(model.tokenizer.vocab)
    words = [*old[:5], *reversed(old[5:]), "bicyclist"]
    tokenizer = UFOTokenizer(words)
    other = UFO(
        type(model.backbone)(**{**model.backbone.config, "vocab_size": len(tokenizer)}),
        tokenizer,
        model.tasks,
        model.classes,
        mask_points=64,
    ).eval()
    with caplog.at_level(logging.INFO):
        initialise(other, folder)
    assert f"{len(model.tokenizer)} words kept, 1 new from the mean of their pieces" in caplog.text
    theirs, ours = model.backbone.embedding.word.weight, other.backbone.embedding.word.weight
    for token in (*old, *model.tokenizer.added):
        assert torch.equal(ours[tokenizer.token_id(token)], theirs[model.tokenizer.token_id(token)])
    pieces = model.tokenizer.encode(["bicyclist"])[0][1:-1]
    assert len(pieces) > 1
    torch.testing.assert_close(ours[tokenizer.token_id("bicyclist")], theirs[pieces].mean(0))
    prompts = [m.tokenizer.encode_prompts(["find the owl"]) for m in (model, other)]
    images = make_batch("caption").images
    with torch.no_grad():
        a, b = (
            m.backbone.encode(images, *p).image_features for m, p in zip((model, other), prompts, strict=True)
        )
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "changes, reason",
    [({"width": 32}, "width=16 there, 32 here"), ({"heads": 4}, "heads"), ({"mlp_ratio": 4.0}, "mlp_ratio")],
)
def test_what_cannot_grow_is_refused(folder, make_model, changes, reason):
    with pytest.raises(CheckpointError, match=reason):
        initialise(make_model(seed=1, **changes), folder)


@pytest.mark.parametrize("changes", [{"image_size": 48}, {"max_positions": 100}, {"new_layers": 3}])
def test_strict_refuses_all_of_it(folder, make_model, changes):
    other = make_model(seed=1, **changes)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="not the UFOViT of this run"):
        initialise(other, folder, strict=True)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


def test_a_first_stage_without_new_layers(make_model, tmp_path, caplog):
    first = make_model(new_layers=0, mean_layers=[1])
    folder = save(first, tmp_path / "encoder")
    for strict in (False, True):
        other = make_model(seed=1)
        top = other.state_dict()["backbone.layers.3.fc2.weight"].clone()
        initialise(other, folder, strict=strict)
        assert torch.equal(other.state_dict()["backbone.layers.3.fc2.weight"], top)
        assert torch.equal(other.backbone.layers[1].qkv.weight, first.backbone.layers[1].qkv.weight)
