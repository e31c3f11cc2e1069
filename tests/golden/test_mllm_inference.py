"""Inference of each task on InternVL and LLaVA against the recorded one: prefix, answers, predictions."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from mllm_recordings import IMAGE, Case, names, or_skip
from mllm_trace import Places, traced
from vit_recordings import close

from ufo.head.decoding import decode

pytestmark = pytest.mark.heavy

TOP = 3  # first tokens of each query in the recordings that repeat their grid


@pytest.fixture(scope="module", params=or_skip(names("pred")))
def run(request) -> SimpleNamespace:
    """The recorded images, encoded and answered."""
    case = Case(request.param)
    task, rows = case.task(), case["pred_in_outputs_ids"].shape[1]
    model, batch = case.model(task).eval(), case.batch()
    grid = model.grid(task, *batch.images.shape[-2:])
    if grid is not None and rows != grid.references.shape[1]:  # each query has gone on from several tokens
        model = case.model(case.task(top_tokens=TOP, keep_queries=rows)).eval()
    task = model.task(task.name)  # in the words of its backbone
    with torch.no_grad(), traced(model.backbone) as seen:
        context = model.encode(batch.images, task.ask(batch, grid).prompts, grid, task)
        decoded = decode(model.backbone, context, model.tokenizer, task)
    return SimpleNamespace(
        case=case, task=task, model=model, batch=batch, grid=grid, context=context, decoded=decoded, seen=seen
    )


def recorded_rows(run) -> torch.Tensor:
    """For each of our rows `[B, R]` the recorded one: their queries go tile by tile, pairs in any order."""
    recorded = run.case["pred_in_outputs_ids"]
    images, rows = recorded.shape[:2]
    if run.grid is None or rows == 1:
        return torch.arange(rows).expand(images, -1)
    references = run.grid.references[0]
    if run.decoded.queries is None:
        distance = (references[:, None] - run.case["pred_in_references"][0]).abs().sum(-1)
        assert distance.amin(1).max() < 1e-5
        return distance.argmin(1)[None].expand(images, -1)
    ours = torch.cat([references[run.decoded.queries], run.decoded.ids[:, :1]], 1)
    theirs = torch.cat([run.case["pred_in_references"][0], recorded[0, :, :1]], 1)
    distance = (ours[:, None] - theirs).abs().sum(-1)
    assert distance.amin(1).max() < 1e-5, "the same pairs of query and token"
    order = distance.argmin(1)
    assert len(order.unique()) == rows
    return order[None]


def recorded(run, name: str) -> torch.Tensor:
    """A recorded tensor `[B, R, T, ...]` in our order."""
    rows = recorded_rows(run)
    return torch.stack([x[row] for x, row in zip(run.case[name], rows, strict=True)])


def live(run) -> torch.Tensor:
    """Positions `[B, R, T]` up to the end token."""
    end = recorded(run, "pred_in_outputs_ids") == run.model.tokenizer.end_id
    return end.cumsum(-1) - end.long() == 0


# ---------------------------------------------------------------- the prefix


def test_prompts(run):
    backbone, prompts = run.model.backbone, run.task.ask(run.batch, None).prompts
    theirs = [text.replace(IMAGE, backbone.image_text) for text in run.case.texts]
    assert [backbone.chat(p) for p in prompts] == theirs


def test_tiles_and_projector(run):
    case = run.case
    close(run.seen.tiles[..., ::32, ::32], case["pixel_tiles_s32"])
    close(run.seen.patches.view_as(case["projector_out"]), case["projector_out"])


def first_pass(run) -> Places:
    """Where the prefix and the first token of each answer are in the recorded first pass."""
    if "attn_blocked_packbits" not in run.case:
        pytest.skip("the first pass was not recorded")
    slots = None
    if run.grid is not None:
        slots = run.case.order(run.grid).argsort()
    fed = (run.context.num_rows, 1)
    return Places(run.case, run.seen, fed, stride=1, slots=slots, left=True)


def test_first_pass(run):
    """What enters the recorded layers and leaves the final norm."""
    places, case, seen = first_pass(run), run.case, run.seen
    indices = {n: int(n[5:-3]) for n in case.tensors if re.fullmatch(r"layer\d+_in", n)}
    for name, index in {**indices, "final_normed": -1}.items():
        close(*places.pair(seen.prefix[index], seen.answers[index][:, 0], case[name]))


def test_positions(run):
    places, (prefix, answers) = first_pass(run), run.seen.rope[:2]
    recorded = run.case["position_ids"]
    ours, theirs = places.pair(prefix.expand(len(recorded), -1), answers[:, 0], recorded)
    assert torch.equal(ours, theirs)


def test_masks(run):
    places = first_pass(run)
    ours, theirs = places.pair(*places.sights(), ~run.case.blocked)
    assert torch.equal(ours, theirs)


def test_image_features(run):
    if "pred_in_image_feats" not in run.case:
        pytest.skip("a task without masks")
    features = run.case["pred_in_image_feats"].view_as(run.context.image_features)
    close(run.context.image_features, features)


# ---------------------------------------------------------------- answers


def test_answer_ids(run):
    expected = recorded(run, "pred_in_outputs_ids")
    ids = run.decoded.ids.unflatten(0, expected.shape[:2])
    keep = live(run)
    assert torch.equal(ids[..., : expected.shape[-1]][keep], expected[keep])
    assert ids[..., : expected.shape[-1]][~keep].eq(run.model.tokenizer.end_id).all()


def test_texts(run):
    """The text of each answer up to its end, as far as recorded; theirs has blanks around added tokens."""
    decoded, rows = run.case.meta["decoded"], recorded_rows(run).tolist()
    theirs = [texts[r] for texts, row in zip(decoded, rows, strict=False) for r in row]
    assert theirs
    ours = run.model.tokenizer.decode(run.decoded.ids.tolist())
    for mine, text in zip(ours, theirs, strict=False):
        assert mine.replace(" ", "") == text.partition(run.case.family.end)[0].replace(" ", "")


def test_probabilities(run):
    """The probability of each answer's first token, and of all others before its end."""
    expected, keep = recorded(run, "pred_in_outputs_logits"), live(run)
    close(run.decoded.first_scores.view_as(expected[..., 0]), expected[..., 0])
    ids = run.decoded.ids.unflatten(0, expected.shape[:2])[..., : expected.shape[-1]]
    features = run.decoded.features.unflatten(0, expected.shape[:2])[:, :, : expected.shape[2]]
    keep[..., 0] = False  # its feature is an embedding, as theirs
    logits = features[keep] @ run.model.backbone.output_embedding.detach().T
    close(logits.softmax(-1).gather(1, ids[keep][:, None])[:, 0], expected[keep])


def test_features(run):
    if "pred_in_outputs_feats" not in run.case:
        pytest.skip("a task without masks")
    expected = recorded(run, "pred_in_outputs_feats")
    features = run.decoded.features.unflatten(0, expected.shape[:2])[:, :, : expected.shape[2]]
    keep = live(run)
    close(features[keep], expected[keep])


# ---------------------------------------------------------------- predictions


def test_predictions(run):
    case = run.case
    for i, ours in enumerate(run.model.predict_batch(run.batch)):
        if case.task_name == "grounding":
            close(ours.boxes, case[f"out{i}_bboxes"])
        elif case.task_name == "semantic_segmentation":
            assert torch.equal(ours.semantic, case[f"out{i}_seg"].view_as(ours.semantic).long())
        elif "out0_seg" in case:
            assert torch.equal(ours.masks, case[f"out{i}_seg"].view_as(ours.masks).bool())
        else:
            check_objects(case, i, ours)


def check_objects(case, i, ours):
    """Scores, labels, boxes and masks in order of their scores."""
    close(ours.scores, case[f"out{i}_scores"])
    assert torch.equal(ours.labels, case[f"out{i}_labels"].long())
    if f"out{i}_masks" in case:
        assert torch.equal(ours.masks, case[f"out{i}_masks"].bool())
    else:
        close(ours.boxes, case[f"out{i}_bboxes"])
