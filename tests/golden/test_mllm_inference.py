"""Inference of each task on InternVL and LLaVA against the recorded one: prefix, answers, predictions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mllm_recordings import Case, cases, traced
from vit_recordings import close

from ufo.head.decoding import decode

EXPANDED = {"top_tokens": 3, "keep_queries": 300}


@pytest.fixture(scope="module", params=cases("pred"))
def run(request) -> SimpleNamespace:
    """The recorded images, encoded and answered."""
    case = Case(request.param)
    task = case.task(**(EXPANDED if "repeatgrid" in case.name else {}))
    model, batch = case.model(task).eval(), case.batch()
    grid = model.grid(task, *batch.images.shape[-2:])
    with torch.no_grad(), case.recorded_choices(model), traced(model.backbone) as seen:
        context = model.encode(batch.images, task.prompts(batch), grid, task)
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
        return distance.argmin(1)[None].expand(images, -1)
    ours = torch.cat([references[run.decoded.queries], run.decoded.ids[:, :1]], 1)
    theirs = torch.cat([run.case["pred_in_references"][0], recorded[0, :, :1]], 1)
    distance = (ours[:, None] - theirs).abs().sum(-1)
    assert distance.amin(1).max() < 1e-5, "the same pairs of query and token"
    return distance.argmin(1)[None]


def recorded(run, name: str) -> torch.Tensor:
    """A recorded tensor `[B, R, T, ...]` in our order."""
    rows = recorded_rows(run)
    return torch.stack([x[row] for x, row in zip(run.case[name], rows, strict=True)])


def live(run) -> torch.Tensor:
    """Positions `[B, R, T]` up to the end token."""
    end = recorded(run, "pred_in_outputs_ids") == run.model.tokenizer.end_id
    return end.cumsum(-1) - end.long() == 0


def test_image_features(run):
    if "pred_in_image_feats" not in run.case:
        pytest.skip("a task without masks")
    features = run.case["pred_in_image_feats"].view_as(run.context.image_features)
    close(run.context.image_features, features)


def test_answer_ids(run):
    expected = recorded(run, "pred_in_outputs_ids")
    ids = run.decoded.ids.unflatten(0, expected.shape[:2])
    keep = live(run)
    assert torch.equal(ids[..., : expected.shape[-1]][keep], expected[keep])
    assert ids[..., : expected.shape[-1]][~keep].eq(run.model.tokenizer.end_id).all()


def test_first_probability(run):
    expected = recorded(run, "pred_in_outputs_logits")[..., 0]
    close(run.decoded.first_scores.view_as(expected), expected)


def test_features(run):
    if "pred_in_outputs_feats" not in run.case:
        pytest.skip("a task without masks")
    expected = recorded(run, "pred_in_outputs_feats")
    features = run.decoded.features.unflatten(0, expected.shape[:2])[:, :, : expected.shape[2]]
    keep = live(run)
    close(features[keep], expected[keep])


def test_predictions(run):
    case, batch = run.case, run.batch
    with case.recorded_choices(run.model):
        predictions = run.model.predict_batch(batch)
    for i, ours in enumerate(predictions):
        if case.task_name == "grounding":
            close(ours.boxes, case[f"out{i}_bboxes"])
        elif case.task_name == "semantic_segmentation":
            assert torch.equal(ours.semantic, case[f"out{i}_seg"].view_as(ours.semantic).long())
        elif "out0_seg" in case:
            assert torch.equal(ours.masks, case[f"out{i}_seg"].view_as(ours.masks).bool())
        else:
            check_objects(case, i, ours)


def check_objects(case, i, ours):
    """Scores exactly in order; labels, boxes and masks of equal scores in any order."""
    scores = case[f"out{i}_scores"]
    close(ours.scores, scores)
    assert torch.equal(ours.labels, case[f"out{i}_labels"].long())
    if f"out{i}_masks" in case:
        assert torch.equal(ours.masks, case[f"out{i}_masks"].bool())
    elif len(scores):
        close(ours.boxes, case[f"out{i}_bboxes"])
