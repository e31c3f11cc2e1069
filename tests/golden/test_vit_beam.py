"""Beam search against numbers recorded from the reference (`UFO_GOLDEN_DIR`; skipped if absent).

The reference writes the pad token after the end of an answer, where ours has the end token.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from vit_checks import check_prediction
from vit_recordings import FOLDER, as_parameters, cases, close, load

from ufo.head.beam import beam_search
from ufo.head.decoding import decode

pytestmark = pytest.mark.heavy

# ------------------------------------------------------------------------------- scripted model


def searches() -> list:
    """Numbers of the recorded searches."""
    path = FOLDER / "unit_beam_search.pt"
    return as_parameters(list(range(len(load(path.stem)["cases"]))) if path.is_file() else [], path.stem)


def scripted(recording: dict, queries: int, end_bonus: float):
    """The recorded model: logits and features depend on a hash of the whole prefix.

    Its constants stand in the recorded formula.
    """
    doc = recording["doc"]
    factor, base = number(r"([\d.]+)\*T\[", doc, float), number(r"prefix_i\*(\d+)\^i", doc)
    key, shift = number(r"\[(\d+)\*q\+", doc), number(r"\*q\+(\d+)", doc)
    end = number(r"eos=(\d+)", doc)
    prefix = key * torch.arange(queries)[:, None] + shift

    def step(tokens, parents):
        nonlocal prefix
        prefix = torch.cat([prefix[parents], tokens[:, None]], 1)
        code = (prefix * base ** torch.arange(prefix.shape[1])).sum(1) % recording["P"]
        logits = factor * recording["T"][prefix.shape[1] - 2, tokens] + recording["U"][code]
        logits[:, end] += end_bonus
        return logits, recording["F"][code]

    return step


def number(pattern: str, text: str, kind: type = int):
    return kind(re.search(pattern, text)[1])


@pytest.mark.parametrize("case", searches())
def test_scripted_model(case):
    recording = load("unit_beam_search")
    case = recording["cases"][case]
    start, end, pad = (number(rf"{name}=(\d+)", recording["doc"]) for name in ("BOS", "eos", "pad"))
    winners = beam_search(
        scripted(recording, case["Q"], case["eos_bonus"]),
        case["Q"],
        start_id=start,
        end_id=end,
        max_length=case["max_length"],
        num_beams=case["beam"],
        temperature=case["temperature"],
        length_penalty=case["alpha"],
    )
    tokens = winners.ids != end
    length = case["decoded"].shape[1]
    assert not tokens[:, length:].any()
    inside = tokens[:, :length]
    assert torch.equal(winners.ids.where(tokens, pad)[:, :length], case["decoded"])
    torch.testing.assert_close(winners.features[:, :length], case["feats"], atol=1e-6, rtol=0)
    # at the end the recorded increment goes from the answer's log probability back to 0
    ends = inside.sum(1, keepdim=True) == torch.arange(length)
    whole = winners.scores.prod(1, keepdim=True)
    expected = torch.where(ends & (whole < 1), 1 / whole, winners.scores[:, :length])
    torch.testing.assert_close(expected, case["scores"], atol=1e-6, rtol=1e-4)
    assert (winners.scores[~tokens] == 1).all()


# ------------------------------------------------------------------------------- small UFO-ViT


@pytest.fixture(scope="module", params=cases("infer", keep=lambda r: r["head_settings"]["beam_num"] > 1))
def found(recordings, request) -> SimpleNamespace:
    """What the small model answers to the images of a recording."""
    recording = load(request.param)
    head = recording["head_settings"]
    task = recordings.task(
        recording,
        max_length=head["max_length"],
        num_beams=head["beam_num"],
        temperature=head["temperature"],
        length_penalty=head["alpha"],
    )
    model, batch = recordings.model(recording).eval(), recordings.batch(recording)
    model.tasks[task.name] = task
    batch.sizes = [tuple(size) for size in recording["ori_shapes"]]
    prompts = [task.prompt(batch.classes, text) for text in batch.texts]
    with torch.no_grad():
        context = model.encode(batch.images, prompts, model.grid(task, *batch.images.shape[-2:]))
        decoded = decode(model.backbone, context, model.tokenizer, task)
    return SimpleNamespace(recording=recording, model=model, batch=batch, decoded=decoded)


def test_recorded_answers(found):
    tokenizer, expected = found.model.tokenizer, found.recording["outputs_ids"].flatten(0, 1)
    ids, length = found.decoded.ids, expected.shape[1]
    assert ids[:, length:].eq(tokenizer.end_id).all()
    filled = ids.where(ids != tokenizer.end_id, tokenizer.pad_id)
    assert torch.equal(filled[:, :length], expected)


def test_recorded_texts(found):
    texts = found.model.tokenizer.decode(found.decoded.ids.tolist())
    assert texts == [text for image in found.recording["texts"] for text in image]


def test_recorded_scores(found):
    if "outputs_logits" not in found.recording:
        pytest.skip("captions are recorded without probabilities")
    expected = found.recording["outputs_logits"][..., 0].flatten()
    close(found.decoded.first_scores, expected)


def test_recorded_features(found):
    if "outputs_feats_sub" not in found.recording:
        pytest.skip("a task without masks")
    expected = found.recording["outputs_feats_sub"]
    features = found.decoded.features.unflatten(0, (len(found.batch), -1))
    close(features[:, ::4, : expected.shape[2]], expected)


def test_recorded_predictions(found):
    recording = found.recording
    if recording["post"] is None:
        pytest.skip("the reference could not finish this one")
    with patch("ufo.model.decode", return_value=found.decoded):  # tested above; decoding takes long
        predictions = found.model.predict_batch(found.batch)
    for ours, expected in zip(predictions, recording["post"], strict=True):
        check_prediction(recording["task"], ours, expected)
