"""A training step of each task on InternVL and LLaVA against the recorded one with its random choices."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mllm_recordings import IMAGE, Case, cases, placed, traced
from vit_recordings import close, spied


@pytest.fixture(scope="module", params=cases("loss"))
def step(request) -> SimpleNamespace:
    """One training step with the recorded choices: what our model made of the recorded batch."""
    case = Case(request.param)
    model = case.model().train()
    batch = case.batch()
    if case.task_name == "vqa":
        batch.conversations = [
            [q, *(t for t, _ in a)] for q, a in zip(case.questions, case.answers, strict=True)
        ]
    with (
        case.recorded_choices(model),
        traced(model.backbone) as seen,
        spied("ufo.model.token_loss") as token_loss,
        spied("ufo.model.teacher_forcing") as forced,
    ):
        losses = model.loss(batch)
    losses["loss"].backward()
    return SimpleNamespace(
        case=case, model=model, seen=seen, token_loss=token_loss[0], forced=forced[0], losses=losses
    )


def test_prompt_text(step):
    case, backbone = step.case, step.model.backbone
    if case.task_name == "vqa":
        pytest.skip("recorded as tokens")
    for question, text in zip(case.questions, case.texts, strict=True):
        # without the answer, and with the image's tokens where the recording has a place-holder
        assert text.replace(IMAGE, backbone.image_text).startswith(backbone.chat(question).rstrip(" "))


def test_projector(step):
    patches = step.seen.patches
    close(patches.view_as(step.case["projector_out"]), step.case["projector_out"])


def test_layers(step):
    """What enters the recorded layers and leaves the final norm, in the prefix and at all computed tokens."""
    case = step.case
    for name in [n for n in case.tensors if n.startswith("layer") and n.endswith("_in")]:
        index = int(name.removeprefix("layer").removesuffix("_in"))
        check_stream(step, step.seen.prefix[index], step.seen.answers[index], case[name])
    check_stream(step, step.seen.prefix[-1], step.seen.answers[-1], case["final_normed"])


def check_stream(step, prefix, answers, recorded):
    ours, theirs = placed(step, prefix, answers, recorded)
    close(ours, theirs)


def test_positions(step):
    case = step.case
    recorded = case.tensors.get("position_ids")
    if recorded is None:
        recorded = torch.arange(case["layer0_in"].shape[1]).expand(len(case["layer0_in"]), -1)
    prefix, answers = step.seen.positions
    prefix = prefix.expand(len(recorded), -1)
    ours, theirs = placed(step, prefix[..., None], answers[0][:, None][None], recorded[..., None])
    assert torch.equal(ours, theirs)


def test_supervised_tokens(step):
    case = step.case
    targets = case["sup_targets"][case["sup_weights"].bool()]
    assert torch.equal(step.token_loss.arguments[1], targets)


def test_logits(step):
    case, (hidden, targets, embedding) = step.case, step.token_loss.arguments
    logits = (hidden @ embedding.T).detach()
    counted = case["sup_weights"].bool()
    close(logits.logsumexp(-1), case["sup_logits_lse"][counted])
    close(logits.gather(1, targets[:, None])[:, 0], case["sup_target_logit"][counted])


def test_losses(step):
    parts = {"cls": "token", "reg": "token", "mask": "focal", "dice": "dice"}
    recorded = {parts[k.rsplit("_", 1)[1]]: v for k, v in step.case.meta["losses"].items()}
    assert set(recorded) | {"loss"} == set(step.losses)
    for name, value in recorded.items():
        assert step.losses[name].item() == pytest.approx(value, rel=1e-4)
    assert step.losses["loss"].item() == pytest.approx(step.case.meta["total"], rel=1e-4)
