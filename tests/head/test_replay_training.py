"""Replayed training passes give the losses and gradients of the passes themselves, for every task."""

from __future__ import annotations

import copy
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from recorders import Tape, Tapes, waiting
from tiny_mllm import INTERNVL, make_mllm, prepared, training_batch
from torch import Tensor
from torch.utils.data import DataLoader
from trainers import quiet_trainer

from ufo.head.learning import learn
from ufo.head.replay import replay_training
from ufo.head.training_inputs import few_lengths, rounded
from ufo.model import UFO
from ufo.modules.ufo_vit import UFOViTModule
from ufo.ops.launches import Launches
from ufo.types import Batch

Found = tuple[dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture
def model(make_model) -> UFO:
    """A UFO-ViT of all tasks in which nothing is random: masks are compared at all pixels."""
    model = make_model(seed=1).train()
    model.mask_points = 0
    return model


def found(model: UFO, batch: Batch, seed: int = 0) -> Found:
    """The losses of a batch and the gradients of all weights that it reaches."""
    model.zero_grad()
    torch.manual_seed(seed)
    losses = model.loss(batch)
    losses["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def same(some: Found, others: Found) -> None:
    """Padding changes the order of sums, and nothing else."""
    for mine, theirs in zip(some, others, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: n + m)


def replaying(model: UFO, most: int = 999) -> Tapes:
    tapes = Tapes()
    model._learn = replay_training(model.backbone, tapes, most)
    return tapes


def in_turns(model: UFO, batches: list[Batch]) -> Tapes:
    """Each batch as it is; then seen, recorded and replayed, in turns."""
    expected = [found(model, batch) for batch in batches]
    tapes = replaying(model)
    for _ in range(3):
        for batch, right in zip(batches, expected, strict=True):
            same(found(model, batch), right)
    assert tapes.played > len(tapes.recorded) > 0
    return tapes


# ---------------------------------------------------------------- the same losses and gradients


def test_every_task_of_a_ufo_vit(model, make_batch, task_name):
    """Among batches with other numbers of objects, and of one without any."""
    numbers = [(2, 3), (1, 1), (0, 2), (0, 0)]
    numbers = [n for n in numbers if 0 not in n or model.tasks[task_name].grid_per_window]
    in_turns(model, [make_batch(task_name, n, seed) for seed, n in enumerate(numbers)])


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["internvl", "llava"])
@pytest.mark.parametrize("task", ["detection", "grounding"])
def test_language_models(family, task):
    model = make_mllm(family, tasks=["detection", "grounding"]).train()
    batch = training_batch()
    batch = replace(batch, task=task, texts=["the owl", "the red cat"])
    in_turns(model, [batch, replace(batch, texts=["cat", "owl"], images=batch.images.flip(0, 3))])


@pytest.mark.heavy
def test_an_output_head_that_is_the_embedding():
    model = make_mllm(config={**INTERNVL, "tie_word_embeddings": True}).train()
    assert model.backbone.output_embedding is model.backbone.decoder.embed_tokens.weight
    in_turns(model, [training_batch()])


def test_gradients_are_not_taken_of_the_weights_themselves(model, make_batch):
    """Autograd's nodes of a weight stay on the stream where they were made; a capture must not touch it."""
    weights, take = {id(p) for p in model.parameters()}, torch.autograd.grad

    def listening(loss: Tensor, leaves: list[Tensor], **more):
        assert not weights & {id(leaf) for leaf in leaves}
        assert len({leaf.data_ptr() for leaf in leaves} & {p.data_ptr() for p in model.parameters()}) > 50
        return take(loss, leaves, **more)

    tapes = replaying(model)
    with patch("torch.autograd.grad", wraps=listening) as called:
        for _ in range(3):
            found(model, make_batch("caption"))
    assert called.called and tapes.played == 2


@pytest.mark.heavy
def test_adapters():
    tapes = in_turns(prepared().train(), [training_batch()])
    assert tapes.recorded == ["training"]


@pytest.mark.heavy
def test_a_conversation_is_learned_in_parts(make_batch, make_model):
    """Of several answers in one row only those are supervised that were given."""
    model, batch = make_mllm(tasks=["vqa"]).train(), make_batch("vqa")
    side = model.backbone.tile
    images = torch.nn.functional.interpolate(batch.images.float(), (side, side)).to(torch.uint8)
    in_turns(model, [replace(batch, images=images)])


def test_what_is_random_is_drawn_alike(make_model, make_batch, mask_task):
    """The first batch of a shape, the one that is recorded and replayed ones follow from a seed alone."""
    model = make_model(seed=1, text_dropout=0.5, drop_path_rate=0.5).train()
    batch, tapes = make_batch(mask_task), replaying(model)
    first, recorded, replayed, again = (found(model, batch, seed) for seed in (5, 5, 5, 6))
    assert tapes.played == 3
    same(recorded, first)
    same(replayed, first)
    assert not torch.equal(again[0]["loss"], first[0]["loss"])


def test_under_autocast_weights_are_read_as_they_are_by_then(model, make_batch):
    batch, tapes = make_batch("detection"), replaying(model)
    plain = copy.deepcopy(model)
    plain._learn = learn
    for step in range(4):
        with torch.autocast("cpu", torch.bfloat16):
            mine, theirs = (one.loss(batch)["loss"] for one in (model, plain))
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2)
        assert (tapes.played > 0) == (step > 0)
        with torch.no_grad():
            for one in (model, plain):
                one.backbone.layers[-1].fc2.weight.mul_(1.5)


def test_gradients_are_added_up_and_scaled(model, make_batch):
    """As `accumulate_grad_batches` does it."""
    batches = [make_batch("detection", seed=seed) for seed in (0, 1)]
    expected = [found(model, batch)[1] for batch in batches]
    replaying(model)
    for _ in range(3):
        model.zero_grad()
        for batch in batches:
            (model.loss(batch)["loss"] / 2).backward()
    for name, parameter in model.named_parameters():
        if name in expected[0]:
            mean = (expected[0][name] + expected[1][name]) / 2
            torch.testing.assert_close(parameter.grad, mean, rtol=1e-4, atol=1e-5)


def test_a_hook_of_a_weight_sees_each_gradient_once(model, make_batch):
    """A recording has names of its own for weights: what hangs on them is not recorded with it."""
    batch, seen = make_batch("caption"), []
    tapes, weight = replaying(model), model.backbone.layers[-1].fc2.weight
    weight.register_hook(lambda gradient: seen.append(gradient.clone()))
    gradients = [found(model, batch)[1] for _ in range(3)]
    assert tapes.played == 2 and len(seen) == 3
    for mine, all_of_them in zip(seen, gradients, strict=True):
        assert torch.equal(mine, all_of_them["backbone.layers.3.fc2.weight"])


def test_lightning_trains_the_same_weights(make_model, make_batch):
    batches = [make_batch(task, seed=seed) for seed in range(3) for task in ("instance_segmentation", "vqa")]
    trained, tapes = [], Tapes()
    for graphs in (False, "all"):
        model = make_model(seed=1).train()
        model.mask_points = 0
        module = UFOViTModule(model, lambda groups: torch.optim.SGD(groups, 0.05), cuda_graphs=graphs)
        module._optimizer.keywords = {"lr": 0.05}
        trainer = quiet_trainer(max_epochs=1, gradient_clip_val=0.1)
        with patch("ufo.head.replay.CudaGraphs", lambda: tapes):
            trainer.fit(module, DataLoader(batches, batch_size=None))
        trained.append({name: p.detach() for name, p in model.named_parameters()})
    assert tapes.recorded.count("training") == 2 and tapes.played > 2
    for name, weight in trained[0].items():
        torch.testing.assert_close(trained[1][name], weight, rtol=1e-4, atol=1e-5)


def test_what_is_handed_out_beside_a_recording_does_not_grow_with_the_network(make_model, make_batch):
    """Tokens are made, moved and copied to their places, gradients scaled at once."""
    pieces, as_written = [], []
    for layers in (2, 6):
        model, batch = make_model(new_layers=layers).train(), make_batch("caption")
        replaying(model)
        for _ in range(2):
            found(model, batch)
        with Launches() as launches:
            model.training_pass(batch).losses["loss"].backward()
        as_written.append(launches.total)
        model.zero_grad()
        with (
            patch("ufo.head.replay.training.watched", lambda: False),
            patch.object(Tape, "play", lambda self: None),
            Launches() as launches,
        ):
            model.training_pass(batch).losses["loss"].backward()
        pieces.append(launches.total)
    assert pieces[0] == pieces[1] < 50 and 500 < as_written[0] < as_written[1]


# ---------------------------------------------------------------- rounding


def test_few_lengths_are_at_most_half_too_long():
    for count in range(1, 3000):
        assert count <= few_lengths(count) <= max(1.5 * count, count + 1)
    assert len({few_lengths(count) for count in range(1, 3000)}) < 25
    assert few_lengths(0) == 1


def test_batches_of_nearly_one_length_share_a_recording(model, make_batch):
    batch, tapes = make_batch("caption"), replaying(model)
    for text in ("the owl", "the red owl left of the cat", "the cat", "the red dog", "a cat"):
        found(model, replace(batch, texts=[text] * len(batch)))
    assert tapes.recorded == ["training"]


def test_an_answer_that_fills_a_network_is_not_padded(make_model, make_batch):
    model, batch = make_model(max_positions=20).train(), make_batch("caption")
    model.mask_points = 0
    batch = replace(batch, texts=["the red owl " * 6] * len(batch))
    in_turns(model, [batch])
    [key] = model._learn.recordings._recordings
    assert dict((name, shape) for name, shape, _ in key[-1])["inputs"][1] in range(17, 20)


# ---------------------------------------------------------------- when there are recordings


def test_weights_that_lie_elsewhere_and_frozen_ones(model, make_batch):
    batch, tapes = make_batch("caption"), replaying(model)
    for _ in range(2):
        found(model, batch)
    fc1, fc2 = model.backbone.layers[0].fc1, model.backbone.layers[0].fc2
    fc1.weight.data = fc1.weight.data * 2
    fc2.weight.requires_grad_(False)
    moved = found(model, batch)
    assert tapes.forgotten == 1 and "backbone.layers.0.fc2.weight" not in moved[1]
    for _ in range(2):
        same(found(model, batch), moved)
    assert tapes.recorded == ["training"] * 2


def test_no_more_than_so_many(model, make_batch):
    tapes = replaying(model, most=1)
    for _ in range(2):
        for task in ("caption", "vqa"):
            found(model, make_batch(task))
    assert len(tapes.recorded) == len(model._learn.recordings) == 1


def test_a_copy_records_anew(model, make_batch):
    batch = make_batch("caption")
    replaying(model)
    expected, *_ = [found(model, batch) for _ in range(3)]
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.backbone.layers[-1].fc2.weight.mul_(3)
    changed = [found(other, batch) for _ in range(3)]
    assert other._learn.recordings._backbone is other.backbone
    assert not torch.equal(changed[2][0]["loss"], expected[0]["loss"])
    same(changed[2], changed[0])
    same(found(model, batch), expected)


def test_gradients_of_an_earlier_pass_are_gone(model, make_batch):
    batch = make_batch("caption")
    replaying(model)
    for _ in range(2):
        found(model, batch)
    first, _ = model.loss(batch)["loss"], model.loss(batch)["loss"]
    with pytest.raises(RuntimeError, match="call backward before the next pass"):
        first.backward()


def test_gradients_outlive_recordings_that_are_dropped(model, make_batch):
    batch, expected = make_batch("caption"), found(model, make_batch("caption"))
    replaying(model)
    for _ in range(2):
        found(model, batch)
    model.zero_grad()
    loss = model.loss(batch)["loss"]
    model._learn.recordings.forget()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    same((expected[0], gradients), expected)


def test_evaluation_and_whoever_counts_operations_see_the_pass_itself(model, make_batch):
    batch, tapes = make_batch("caption"), replaying(model)
    for _ in range(2):
        found(model, batch)
    played = tapes.played
    with Launches() as launches:
        model.loss(batch)
    with torch.no_grad():
        model.loss(batch)
    model.eval().loss(batch)["loss"].backward()
    assert tapes.played == played and launches.total > 100


def test_layers_that_are_made_again_are_not_recorded(make_model, make_batch):
    """What they draw is set back within the pass, for which a recording has no means."""
    model, batch = make_model(gradient_checkpointing=True).train(), make_batch("caption")
    tapes = replaying(model)
    for _ in range(3):
        found(model, batch)
    assert not tapes.recorded


def test_a_pass_that_waits_is_made_as_without(model, make_batch):
    batch, expected = make_batch("caption"), found(model, make_batch("caption"))
    tapes = replaying(model)
    model.backbone.encode = waiting(model.backbone.encode)
    with pytest.warns(UserWarning, match="`training` of UFOViT is not recorded and runs as without"):
        for _ in range(3):
            same(found(model, batch), expected)
    assert not tapes.recorded


def test_recordings_make_room_for_a_step_that_memory_does_not_hold_beside_them(model, make_batch):
    tapes, batch, other = replaying(model), make_batch("caption"), make_batch("vqa")
    (expected, _), right = [found(model, batch) for _ in range(2)], found(copy.deepcopy(model), other)
    full = [torch.OutOfMemoryError("CUDA out of memory")]

    def learning(*arguments):
        if full:
            raise full.pop()
        return learn(*arguments)

    with patch("ufo.head.replay.training.learn", learning):
        with pytest.warns(UserWarning, match="training goes on without recordings"):
            same(found(model, other), right)
        assert tapes.forgotten == 1
        for _ in range(3):
            same(found(model, batch), expected)
        full.append(torch.OutOfMemoryError("CUDA out of memory"))
        with pytest.raises(torch.OutOfMemoryError):
            model.loss(batch)
    assert tapes.recorded == ["training"]


def test_without_a_gpu_nothing_is_rounded(model, make_batch):
    model.record_passes(training=True)
    with patch("ufo.head.replay.training.rounded", wraps=rounded) as called:
        found(model, make_batch("caption"))
    assert not called.called
