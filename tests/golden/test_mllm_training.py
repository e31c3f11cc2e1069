"""A training step of each task on InternVL and LLaVA against the recorded one with its random choices."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from mllm_recordings import IMAGE, Case, names, native_names, or_skip
from mllm_trace import Places, traced
from vit_recordings import close, spied

from ufo.ops.boxes import encode_boxes
from ufo.tasks.base import batch_generator
from ufo.tasks.semantic_segmentation import regions

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module", params=or_skip(names("loss")))
def step(request) -> SimpleNamespace:
    """One training step with the recorded choices: what our model made of the recorded batch."""
    case = Case(request.param)
    model, batch = case.model().train(), case.batch()
    with (
        case.recorded_choices(model),
        traced(model.backbone) as seen,
        spied("ufo.head.learning.token_loss") as token_loss,
        spied("ufo.head.teacher.teacher_forcing") as forced,
        spied("ufo.head.learning.retrieve_masks") as masks,
        spied("ufo.head.teacher.continue_prompts") as continued,
    ):
        losses = model.loss(batch)
    losses["loss"].backward()
    forced, dense = forced[0].result, "batch_select_index" in case
    slots = torch.arange(case["batch_select_index"].shape[1]) if dense else None
    fed = tuple(forced.inputs.shape)
    return SimpleNamespace(
        case=case,
        task=model.task(case.task_name),
        model=model,
        batch=batch,
        seen=seen,
        token_loss=token_loss[0],
        masks=masks[0].arguments if masks else None,
        continued=continued[0].result if continued else None,
        # theirs hold the end token as well
        places=Places(case, seen, fed, forced.packed, stride=fed[1] + 1, slots=slots),
        losses=losses,
    )


def needs(case: Case, *recorded: str) -> None:
    if any(name not in case for name in recorded):
        pytest.skip(f"this task has no {' and no '.join(recorded)}")


# ---------------------------------------------------------------- texts


def test_question(step):
    """The recorded question is one of those that our task asks."""
    case, wording = step.case, step.task.wording
    if not case.texts:
        pytest.skip("recorded as tokens")
    name = case.task_name
    if "is_sentence" in case.sample:
        name = "reasoning_sentence" if case.sample["is_sentence"] else "reasoning_phrase"
    asked = wording.questions[name]
    for question, text in zip(case.questions, step.batch.texts, strict=True):
        # a sampled list of classes may hold any
        values = {"text": text, "classes": "CLASSES", "num_bins": getattr(step.task, "num_bins", 0)}
        written = [re.escape(t.format(**values)) for t in (asked.asked, *asked.trained)]
        patterns = [t.replace("CLASSES", "[^()]+") for t in written]
        assert any(re.fullmatch(p, question) for p in patterns), question


def test_prompt_text(step):
    case, backbone = step.case, step.model.backbone
    if not case.texts:
        pytest.skip("recorded as tokens")
    for question, text in zip(case.questions, case.texts, strict=True):
        # without the answer, and with the image's tokens where the recording has a place-holder
        assert text.replace(IMAGE, backbone.image_text).startswith(backbone.chat(question).rstrip(" "))


def test_conversation_tokens(step):
    case = step.case
    needs(case, "vqa_input_ids")
    prompts, mask, rows = step.continued
    image = step.model.backbone.layout(*step.batch.images.shape[-2:]).tokens
    for i, row in enumerate(rows):
        prompt = prompts[i][mask[i]].tolist()
        at = prompt.index(step.model.backbone.patch_id)
        ids = [*prompt[:at], *[prompt[at]] * image, *prompt[at + 1 :], *row.ids[1:]]
        labels = [-100] * (len(ids) - len(row.ids))
        labels += [x if said else -100 for x, said in zip(row.ids, row.supervised, strict=True)]
        attended = case["vqa_attention_mask"][i].bool()
        assert ids == case["vqa_input_ids"][i][attended].tolist()
        assert labels == case["vqa_labels"][i][attended].tolist()


# ---------------------------------------------------------------- queries


def test_assignment(step):
    """The object of every query of the grid, also of those that are not trained."""
    case, task, batch = step.case, step.task, step.batch
    needs(case, "grid_reference")
    grid = step.model.grid(task, *batch.images.shape[-2:])
    order, generator = case.order(grid), batch_generator(batch)
    for i in range(len(batch)):
        ours = task.assign(task.objects(batch, i), batch.image_size, grid, generator)[order]
        tokens = case["grid_target_tokens"][i].long()
        positive = ours >= 0
        if case.task_name == "semantic_segmentation":  # by their own noise: only how many is the same
            labels = regions(batch.semantic[i])[0][ours[positive]]
            recorded = tokens[:, 0][torch.isin(tokens[:, 0], labels)]
            assert torch.equal(labels.sort().values, recorded.sort().values)
            continue
        labels = batch.labels[i][ours.clamp(min=0)]
        background = case.sample["head_cfg"]["num_classes"]
        assert torch.equal(tokens[:, 0], torch.where(positive, labels, background))
        if "grid_assign_inds" in case:
            assert torch.equal(ours + 1, case["grid_assign_inds"][i].view(-1).long())
        else:
            size, boxes = tuple(batch.images.shape[-2:]), batch.boxes[i][ours[positive]]
            bins = encode_boxes(boxes, size, task.num_bins, case["grid_reference"][i][positive])
            assert torch.equal(bins.long() + background + 1, tokens[positive, 1:])


def test_written_answers(step):
    case = step.case
    if "translate_text" not in case.meta:
        pytest.skip("a task without queries")
    with case.recorded_choices(step.model):
        supervision = step.task.supervise(
            step.batch, step.model.grid(step.task, *step.batch.images.shape[-2:])
        )
    for ours, theirs in zip(supervision.answers, case.meta["translate_text"], strict=True):
        assert ours == theirs or (ours is None and theirs == step.model.tokenizer.pad_token)


# ---------------------------------------------------------------- the network


def test_tiles(step):
    close(step.seen.tiles[..., ::32, ::32], step.case["pixel_tiles_s32"])


def test_projector(step):
    close(step.seen.patches.view_as(step.case["projector_out"]), step.case["projector_out"])


def test_layers(step):
    """What enters the recorded layers and leaves the final norm, in the prefix and at all computed tokens."""
    case, seen = step.case, step.seen
    indices = {n: int(n[5:-3]) for n in case.tensors if re.fullmatch(r"layer\d+_in", n)}
    for name, index in {**indices, "final_normed": -1}.items():
        close(*step.places.pair(seen.prefix[index], seen.answers[index][0], case[name]))


def test_positions(step):
    recorded = step.case.tensors.get("position_ids")
    if recorded is None:
        recorded = torch.arange(step.places.total).expand(len(step.batch), -1)
    prefix, answers = step.seen.rope[:2]
    ours, theirs = step.places.pair(prefix.expand(len(recorded), -1), answers[0], recorded)
    assert torch.equal(ours, theirs)


def test_masks(step):
    """What every token of ours attends to."""
    ours, theirs = step.places.pair(*step.places.sights(), ~step.case.blocked)
    assert torch.equal(ours, theirs)


# ---------------------------------------------------------------- losses


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
    number = counted.flatten().cumsum(0) - 1  # of a recorded position among the supervised ones
    place = case["sup_logits_rows_idx"].long()
    keep = counted.flatten()[place]
    close(logits[number[place[keep]]], case["sup_logits_rows"][keep])


def test_mask_inputs(step):
    """Image features and the hidden states that emit the masks."""
    case = step.case
    needs(case, "loss_in_seq_embed")
    embeddings, features, counts = step.masks
    close(features.detach(), case["loss_in_image_features"])
    emits = (case["sup_targets"] == step.model.tokenizer.mask_id) & case["sup_weights"].bool()
    close(embeddings.detach().flatten(0, 1), case["loss_in_seq_embed"][emits])
    if "loss_in_assign_inds" in case:
        assert counts == (case["loss_in_assign_inds"] > 0).sum(1).tolist()


def test_losses(step):
    parts = {"cls": "token", "reg": "token", "mask": "focal", "dice": "dice"}
    recorded = {parts[k.rsplit("_", 1)[1]]: v for k, v in step.case.meta["losses"].items()}
    assert set(recorded) | {"loss"} == set(step.losses)
    for name, value in recorded.items():
        assert step.losses[name].item() == pytest.approx(value, rel=1e-4)
    assert step.losses["loss"].item() == pytest.approx(step.case.meta["total"], rel=1e-4)


def test_gradients(step):
    """The norm of every weight's gradient; those of LoRA factors are compared in test_mllm_lora."""
    ours = {n: p.grad for n, p in step.model.backbone.net.named_parameters(remove_duplicate=False)}
    recorded = {k: v for k, v in step.case.meta["grad_norms"].items() if ".lora_" not in k}
    places = native_names(step.case.folder)
    assert recorded.keys() <= places.keys()
    norms = {k: torch.stack([ours[n].norm() for n in places[k]]).norm() for k in recorded}
    close(torch.stack([*norms.values()]), torch.tensor([*recorded.values()]))
