"""A training step of each task, stage by stage, against the recorded one with its random draws."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from vit_recordings import (
    class_order,
    close,
    load,
    recorded_draws,
    spied,
    traced,
)

from ufo.checkpoints.vit_names import key_table

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def step(recordings, train_case) -> SimpleNamespace:
    """One training step with the recorded draws: what our model made of the recorded batch."""
    recording = load(train_case)
    model = recordings.model(recording).train()
    batch = recordings.training_batch(recording)
    with (
        recorded_draws(recording),
        traced(model.backbone) as seen,
        spied("ufo.head.learning.retrieve_masks") as retrieved,
        spied("ufo.head.learning.token_loss") as token_loss,
    ):
        losses = model.loss(batch)
    losses["loss"].backward()
    return SimpleNamespace(
        recording=recording,
        model=model,
        task=model.task(batch.task),
        batch=batch,
        seen=seen,
        token_loss=token_loss[0],
        masks=[call.result for call in retrieved],
        losses=losses,
    )


@pytest.fixture(scope="module")
def answered(step) -> SimpleNamespace:
    """All recorded answers run against the encoded batch, unsupervised positions included."""
    recording, model = step.recording, step.model
    task, batch = step.task, step.batch
    prompts = [task.prompt(batch.classes, text) for text in batch.texts]
    ids = recorded_inputs(recording, model.tokenizer.start_id)
    with torch.no_grad():
        context = model.encode(batch.images, prompts, queries_of(step))
        with traced(model.backbone) as seen:
            hidden = model.backbone.answer(context, ids.flatten(0, 1))
    layers = [i for i, memory in enumerate(context.memory) if memory]
    states = {i: x.view(*ids.shape, -1) for i, x in zip(layers, seen.answers, strict=True)}
    return SimpleNamespace(context=context, hidden=hidden.view(*ids.shape, -1), states=states)


def recorded_inputs(recording, start_id):
    """Ids `[B, S, L]` that were fed; captions record them, other answers the shifted targets."""
    if recording["task"] == "caption":
        return recording["get_targets"]["input_tokens"]
    targets = recording["all_layer_target_tokens"]
    return torch.cat([torch.full_like(targets[..., :1], start_id), targets[..., :-1]], -1)


def recorded_targets(recording):
    """Target ids and weights `[B, S, L]`; those of captions are not shifted yet."""
    targets, weights = recording["all_layer_target_tokens"], recording["all_layer_token_weights"]
    if recording["task"] == "caption":
        targets = torch.cat([targets[..., 1:], targets[..., :1]], -1)
    return targets, weights


def full_grid(step):
    return step.model.grid(step.task, *step.batch.images.shape[-2:])


def queries_of(step):
    """The recorded sample of the query grid."""
    grid = full_grid(step)
    return None if grid is None else grid.select(step.recording["select_index"])


def layers_of(recorded: dict) -> list[int]:
    return [int(i) for i in recorded]


def test_prompts(step):
    recording, tokenizer = step.recording, step.model.tokenizer
    prompts = [step.task.prompt(step.batch.classes, text) for text in step.batch.texts]
    assert prompts == list(recording["prompt"])
    ids, mask = (x.expand(len(prompts), -1) for x in tokenizer.encode_prompts(prompts))
    assert torch.equal(ids, recording["prompt_input_ids"][:, :-1])
    expected = recording["prompt_attention_mask"].bool() & (recording["prompt_input_ids"] != tokenizer.end_id)
    assert torch.equal(mask, expected[:, :-1])


def test_query_grid(step):
    recording = step.recording
    grid = full_grid(step)
    if grid is None:
        assert recording["grid_reference"].eq(0.5).all()
        return
    close(grid.references, recording["grid_reference"], rtol=1e-6)
    image = step.model.backbone.embed_image(step.batch.images)
    start = step.model.backbone._query_stream(image, grid).start
    close(start[:1].detach(), recording["grid_start_embed"])


def test_assignment(step):
    recording, task, grid = step.recording, step.task, full_grid(step)
    if "hungarian" not in recording:
        pytest.skip("one answer per image: nothing is assigned")
    with recorded_draws(recording), spied("ufo.ops.matching.hungarian") as calls:
        assigned = [
            task.assign(task.objects(step.batch, i), step.batch.image_size, grid, torch.Generator())
            for i in range(len(step.batch))
        ]
    costs = iter(calls)
    for ours, recorded in zip(assigned, recording["hungarian"], strict=True):
        count = len(recorded["gt_labels"]) // task.repeat
        if not count:
            assert ours.eq(-1).all()
            continue
        expected, number = recorded["cost"], recorded["gt_inds"]
        folded = torch.where(number > 0, (number - 1) % count, -1)
        if recording["task"] == "semantic_segmentation":
            columns = class_order(recorded, task.repeat)
            expected = expected[:, columns]
            folded = torch.where(number > 0, columns[:count].argsort()[folded], -1)
        close(next(costs).arguments[0], expected, rtol=1e-5)
        assert torch.equal(ours, folded)


def test_answers(step):
    """The written texts, the ids that were fed and predicted, and which positions count."""
    recording, task, batch = step.recording, step.task, step.batch
    with recorded_draws(recording):
        answers = task.supervise(batch, full_grid(step)).answers
    targets, weights = recorded_targets(recording)
    counted = weights.bool()
    # a row without a loss is recorded with weight 0 throughout
    written = torch.tensor([a is not None for a in answers])
    assert torch.equal(written, counted.any(-1).flatten())
    for answer, text in zip(answers, recording.get("target_texts", answers), strict=True):
        assert answer in (None, text)
    [call] = step.seen.calls["answer"]
    _, fed, packed = call.arguments
    row, column = packed // fed.shape[1], packed % fed.shape[1]
    assert torch.equal(torch.stack([row, column], 1), counted.flatten(0, 1).nonzero())
    inputs = recorded_inputs(recording, step.model.tokenizer.start_id)
    assert torch.equal(fed.flatten()[packed], inputs[counted])
    assert torch.equal(step.token_loss.arguments[1], targets[counted])


def test_stem(step):
    recording = step.recording
    stem = step.model.backbone.embed_image(step.batch.images).detach()
    close(stem[:, ::3, ::3, ::4], recording["patch_embed0_sub"])
    close(stem.double().sum(), recording["patch_embed0_sum"])


def test_prompt_and_image_layers(step):
    recording, text, image = step.recording, step.seen.text, step.seen.image
    for i in layers_of(recording["layer_text"]):
        every = max(1, text[i].shape[1] // 12)
        close(text[i][:1, ::every], recording["layer_text"][i])
        close(image[i][:, ::7, ::7], recording["layer_img_sub"][i])


def test_query_layers(step):
    for i in layers_of(step.recording["layer_grid_in_out"]):
        entering, leaving = step.recording["layer_grid_in_out"][i]
        close(step.seen.entering[i][:, ::3, None], entering)
        close(step.seen.queries[i][:, ::3, None], leaving)


def test_answer_layers(step, answered):
    recording = step.recording
    assert list(answered.states) == layers_of(recording["layer_seq"])
    for i, state in answered.states.items():
        close(state[:, ::5], recording["layer_seq"][i])


def test_logits(step, answered):
    recorded = step.recording["logits"]
    with torch.no_grad():
        logits = answered.hidden @ step.model.backbone.output_embedding.T
    close(logits[..., recorded["vocab_ids"]], recorded["logits_sub"])
    close(logits.logsumexp(-1), recorded["lse"])
    close(logits.amax(-1), recorded["max"])
    assert torch.equal(logits.argmax(-1), recorded["argmax"])


def test_supervised_positions_are_those_computed(step, answered):
    """Training computes supervised positions only; they are the same as among all others."""
    weights = step.recording["all_layer_token_weights"].bool()
    [call] = step.seen.calls["answer"]
    close(call.result.detach(), answered.hidden[weights])


def test_features_and_masks(step, answered):
    recording = step.recording
    if "image_features_sub" not in recording:
        pytest.skip("a task without masks")
    features = answered.context.image_features
    close(features[:, ::2, ::2], recording["image_features_sub"])
    close(features.double().abs().mean(), recording["image_features_absmean"])
    close(answered.hidden[:, ::3], recording["seq_embed_sub"])
    [masks] = step.masks
    count, _, *size = recording["pred_masks_shape"]
    assert masks.shape == (count, *size)
    close(masks[:, None, ::5, ::5].detach(), recording["pred_masks_sub"])


def test_losses(step):
    recording = step.recording
    parts = {"cls": "token", "reg": "token", "mask": "focal", "dice": "dice"}
    recorded = {parts[k.rsplit("_", 1)[1]]: v for k, v in recording["losses"].items()}
    assert set(recorded) | {"loss"} == set(step.losses)
    for name, value in recorded.items():
        value = sum(value) if isinstance(value, (list, tuple)) else value
        close(step.losses[name].detach().view(1), value.view(1))
    close(step.losses["loss"].detach(), recording["total_loss"])


def test_gradients(step):
    recording = step.recording
    table = key_table(len(step.model.backbone.layers))
    parameters = dict(step.model.backbone.named_parameters())
    assert {table[name] for name in recording["grad_norms"]} == set(parameters)
    for name, norm in recording["grad_norms"].items():
        gradient = parameters[table[name]].grad
        if norm is None:
            assert gradient is None, f"{name} is frozen"
            continue
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-4), name
        part = recording["grad_slices"][name]
        typical = norm / gradient.numel() ** 0.5
        torch.testing.assert_close(
            gradient.flatten()[: len(part)], part, rtol=1e-4, atol=1e-4 * typical, msg=name
        )
