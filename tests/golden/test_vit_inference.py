"""Inference of each task, stage by stage, against the recorded one."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from vit_checks import check_prediction
from vit_recordings import close, load, traced

from ufo.head.decoding import decode
from ufo.types import IGNORE

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def run(recordings, infer_case) -> SimpleNamespace:
    """The recorded images, encoded."""
    recording = load(infer_case)
    model = recordings.model(recording).eval()
    task, batch = model.task(recording["task"]), recordings.batch(recording)
    batch.sizes = [tuple(size) for size in recording["ori_shapes"]]
    prompts = [task.prompt(batch.classes, text) for text in batch.texts]
    grid = model.grid(task, *batch.images.shape[-2:])
    with torch.no_grad(), traced(model.backbone) as seen:
        context = model.encode(batch.images, prompts, grid)
    return SimpleNamespace(
        recording=recording,
        model=model,
        task=task,
        batch=batch,
        prompts=prompts,
        grid=grid,
        seen=seen,
        context=context,
    )


@pytest.fixture(scope="module")
def decoded(run):
    """What the model answers; files recorded with beam search are another test's matter."""
    if run.recording["head_settings"]["beam_num"] > 1:
        pytest.skip("recorded with beam search")
    with torch.no_grad():
        return decode(run.model.backbone, run.context, run.model.tokenizer, run.task)


def per_image(run, rows: torch.Tensor) -> torch.Tensor:
    """`[B*Q, ...]` -> `[B, Q, ...]`."""
    return rows.unflatten(0, (len(run.batch), -1))


def live(run) -> torch.Tensor:
    """Positions `[B, Q, T]` up to and including the end token; after it comes filling."""
    end = run.recording["outputs_ids"] == run.model.tokenizer.end_id
    return end.cumsum(-1) - end.long() == 0


def test_prompt(run):
    recording, backbone = run.recording, run.model.backbone
    ids, visible = run.model.tokenizer.encode_prompts(run.prompts)
    count, length = recording["text_mask"].shape
    every = max(1, length // 24)
    assert torch.equal(~visible.expand(count, -1), recording["text_mask"])
    with torch.no_grad():
        embedded = backbone.embedding(ids, torch.arange(length)).expand(count, -1, -1)
    close(embedded[:, ::every], recording["text_embed_sub"])
    text = run.seen.text[-1].expand(count, -1, -1)
    close(text[:, ::every], recording["text_out_sub"])


def test_image(run):
    recording = run.recording
    for i, expected in recording["layer_img_sub"].items():
        close(run.seen.image[i][:, ::7, ::7], expected)
    close(run.context.image_features[:, ::2, ::2], recording["image_features_sub"])


def test_queries(run):
    recording = run.recording
    if "layer_grid_in_out" not in recording:
        assert run.grid is None
        pytest.skip("one answer per image: no queries")
    references = run.grid.references.expand(len(run.batch), -1, -1)
    close(references, recording["references"], rtol=1e-6)
    for i, (entering, leaving) in recording["layer_grid_in_out"].items():
        close(run.seen.entering[i][:, ::7, None], entering)
        close(run.seen.queries[i][:, ::7, None], leaving)
    close(run.seen.queries[-1][:, ::3, None], recording["grid_out"])
    memory = [m.own for m in run.context.memory if m]
    for name, own in (("grid_kv0_sub", memory[0]), ("grid_kv_last_sub", memory[-1])):
        # recorded as two: keys, values; each `[B*Q*heads, 1, d]`
        close(torch.stack(own).flatten(1, 2)[:, ::37], recording[name])


def test_answer_ids(run, decoded):
    expected = run.recording["outputs_ids"]
    ids = per_image(run, decoded.ids)
    length = expected.shape[-1]
    assert torch.equal(ids[..., :length][live(run)], expected[live(run)])
    # nothing but filling after the end, however long the buffers are
    end = run.model.tokenizer.end_id
    assert ids[..., :length][~live(run)].eq(end).all()
    assert ids[..., length:].eq(end).all()


def test_answer_probabilities(run, decoded):
    """Score of the first token; all tokens' probabilities with the answers fed at once."""
    recording = run.recording
    if "outputs_logits" not in recording:
        pytest.skip("captions are recorded without probabilities")
    close(per_image(run, decoded.first_scores), recording["outputs_logits"][..., 0])
    hidden, chosen, alive = teacher_forced(run), recording["outputs_ids"], live(run)
    steps = recording["decode_logits"]
    for step in range(chosen.shape[-1]):
        logits = hidden[:, step] @ run.model.backbone.output_embedding.detach().T  # [B*Q, V]
        emitted = logits.gather(1, chosen[..., step].view(-1, 1))[:, 0]
        probability = per_image(run, (emitted - logits.logsumexp(-1)).exp())
        now = alive[..., step]
        close(probability[now], recording["outputs_logits"][..., step][now])
        if step < len(steps):
            logits, recorded = logits[::9, None], steps[step]
            close(logits[..., recorded["vocab_ids"]], recorded["logits_sub"])
            close(logits.logsumexp(-1), recorded["lse"])
            close(logits.amax(-1), recorded["max"])
            assert torch.equal(logits.argmax(-1), recorded["argmax"])
            close(hidden[::9, step : step + 1], recording["decode_x_sub"][step])


def teacher_forced(run) -> torch.Tensor:
    """Hidden states `[R, T, C]` that emit the recorded answers, all positions at once."""
    emitted = run.recording["outputs_ids"].flatten(0, 1)
    start = torch.full_like(emitted[:, :1], run.model.tokenizer.start_id)
    with torch.no_grad():
        return run.model.backbone.answer(run.context, torch.cat([start, emitted[:, :-1]], 1))


def test_answer_features(run, decoded):
    """The hidden states that emit tokens; those of `<MASK>` become mask embeddings."""
    recording = run.recording
    if "outputs_feats_sub" not in recording:
        pytest.skip("a task without masks")
    expected = recording["outputs_feats_sub"]
    features = per_image(run, decoded.features)[:, ::4, : expected.shape[2]]
    keep = live(run)[:, ::4]
    close(features[keep], expected[keep])


def test_texts(run, decoded):
    ids = per_image(run, decoded.ids)
    for rows, texts in zip(ids.tolist(), run.recording["texts"], strict=True):
        assert run.model.tokenizer.decode(rows) == list(texts)


def test_predictions(run, decoded):
    recording = run.recording
    with patch("ufo.model.decode", return_value=decoded):  # tested above; decoding takes long
        predictions = run.model.predict_batch(run.batch)
    if recording["post"] is None:
        # the reference crashes where no query of an image names a class; we say that nothing is known
        assert recording["task"] == "semantic_segmentation" and recording["error"]
        named = [{t.split(",")[0].lower() for t in texts} for texts in recording["texts"]]
        silent = [names.isdisjoint(run.batch.classes) for names in named]
        assert any(silent)
        for ours, nothing in zip(predictions, silent, strict=True):
            assert not nothing or ours.semantic.eq(IGNORE).all()
        return
    for ours, expected in zip(predictions, recording["post"], strict=True):
        check_prediction(recording["task"], ours, expected)
