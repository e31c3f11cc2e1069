"""Parsing and post-processing of recorded answers: from token ids to boxes, masks and maps."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from vit_recordings import TASKS, close, load

from ufo.head.retrieval import retrieve_masks
from ufo.ops.masks import resize_mask_logits, rle_encode
from ufo.tasks import Answers


@pytest.fixture(scope="module")
def answered(recordings, post_case) -> SimpleNamespace:
    """The recorded answers as text."""
    recording = load(post_case)
    name = post_case.removeprefix("post_")
    assert name in TASKS
    texts = recordings.tokenizer.decode(recording["ids"].tolist())
    return SimpleNamespace(name=name, recording=recording, texts=texts)


def mask_probabilities(recording, is_mask, size, rows) -> torch.Tensor:
    """`Answers.masks`: masks of the answers `rows`, from the recorded features."""
    embeddings = recording["outputs_feat"][rows][is_mask[rows]].unflatten(0, (len(rows), -1))
    logits = retrieve_masks(embeddings, recording["image_feat"][None], [len(rows)])
    return resize_mask_logits(logits, size).sigmoid()


def answers(recordings, answered, case) -> Answers:
    """What the model would hand to the task, for an image of the case's size."""
    recording, size = answered.recording, tuple(case["meta"]["ori_shape"])
    is_mask = recording["ids"] == recordings.tokenizer.mask_id
    return Answers(
        texts=answered.texts,
        scores=recording["logits"][:, 0],
        references=recording["references"],
        size=size,
        classes=recordings.classes(case),
        mask_counts=is_mask.sum(1).tolist(),
        retrieve_masks=partial(mask_probabilities, recording, is_mask, size),
    )


def test_decoded_texts(answered):
    """Texts come back from their ids with the spaces that the reference's parser relies on."""
    expected = answered.recording.get("decoded", answered.texts)
    assert answered.texts == list(expected)


def test_predictions(recordings, answered):
    if answered.name == "grounding":
        return check_grounding(recordings, answered)
    cases = [c for c in answered.recording.values() if isinstance(c, dict) and "meta" in c]
    assert cases
    for case in cases:
        limit = {"max_per_image": case["max_per_img"]} if "max_per_img" in case else {}
        task = recordings.task({"task": answered.name, **case}, **limit)
        prediction = task.parse(answers(recordings, answered, case))
        CHECKS[answered.name](prediction, case)


def check_grounding(recordings, answered):
    """One answer per image: each recorded text is the whole answer to an image."""
    recording = answered.recording
    height, width = recording["img_shape"]
    factor_x, factor_y = recording["scale_factor"]
    size = (round(height / factor_y), round(width / factor_x))
    training = [load(name) for name in recordings.names("train_*.pt")]
    same = (t for t in training if t["task"] == "grounding")
    task = recordings.task(next(t for t in same if t["meta"]["img_shape"] == recording["img_shape"]))
    for text, expected in zip(answered.texts, recording["bboxes"], strict=True):
        one = Answers(
            texts=[text],
            scores=torch.ones(1),
            references=None,
            size=size,
            classes=(),
            mask_counts=[0],
            retrieve_masks=torch.empty,
        )
        torch.testing.assert_close(task.parse(one).boxes[0], expected, rtol=1e-5, atol=1e-3)


def check_detection(prediction, case):
    assert torch.equal(prediction.labels, case["labels"])
    close(prediction.scores, case["scores"], rtol=1e-5)
    close(prediction.boxes, case["bboxes"], rtol=1e-5)


def check_instances(prediction, case):
    assert torch.equal(prediction.labels, case["labels"])
    close(prediction.scores, case["scores"], rtol=1e-5)
    assert [r["counts"].encode() for r in rle_encode(prediction.masks)] == [
        r["counts"] for r in case["masks_rle"]
    ]


def check_semantic(prediction, case):
    """One pixel is excused: it is recorded as class 0, which no answer names (README)."""
    wrong = prediction.semantic != case["sem_seg"]
    assert wrong.sum() <= 1
    assert case["sem_seg"][wrong].eq(0).all()


CHECKS = {
    "detection": check_detection,
    "instance_segmentation": check_instances,
    "semantic_segmentation": check_semantic,
}
