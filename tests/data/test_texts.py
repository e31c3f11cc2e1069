"""Texts that no model can read are left out of training, kept in evaluation, and counted in both."""

from __future__ import annotations

import json
import pickle

import pytest
from files import coco_content, write_image, write_json

from ufo.data.datasets import CaptionDataset, JsonlDataset, RefCocoDataset
from ufo.data.datasets.conversations import ConversationDataset
from ufo.data.errors import DataError
from ufo.data.texts import ENDLESS, HALF, MAX_TEXT, NO_TEXT, usable_text

BAD = [("a \ud83d seven", HALF), ("seven " * MAX_TEXT, ENDLESS)]
SQUARE = [[4, 8, 24, 8, 24, 24, 4, 24]]
SIZE = {"height": 48, "width": 64}


def captions(folder, texts, train):
    records = [{"image": "0.jpg", "caption": text, "image_id": 0} for text in texts]
    return CaptionDataset(folder, write_json(folder / "c.json", records), train=train)


def refcoco(folder, texts, train):
    write_json(folder / "instances.json", coco_content({}))
    sentences = [{"sent": text} for text in texts]
    refs = [{"ref_id": 1, "ann_id": 100, "image_id": 10, "split": "a", "sentences": sentences}]
    (folder / "refs.p").write_bytes(pickle.dumps(refs, 2))
    return RefCocoDataset(folder, folder, refs="refs.p", split="a", train=train)


def jsonl(folder, texts, train):
    records = [{"image": "0.jpg", "text": text, "masks": [SQUARE], **SIZE} for text in texts]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    return JsonlDataset(folder, folder / "texts.jsonl", train=train)


def conversations(folder, texts, train):
    said = [[{"from": "human", "value": text}, {"from": "gpt", "value": "yes"}] for text in texts]
    records = [{"image": "0.jpg", "conversations": turns} for turns in said]
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    return ConversationDataset(folder, folder / "talks.jsonl", train=train)


@pytest.mark.parametrize(("bad", "kind"), BAD, ids=["half", "endless"])
@pytest.mark.parametrize("make", [captions, refcoco, jsonl, conversations], ids=lambda make: make.__name__)
def test_bad_texts_of_every_format(tmp_path, make, bad, kind):
    write_image(tmp_path / "0.jpg")
    data = make(tmp_path, ["a seven", bad], train=True)
    assert len(data) == 1 and data[0]["text"] == "a seven"
    assert sum(data.problems.left_out.values()) == 1 and any(kind in k for k in data.problems.left_out)
    kept = make(tmp_path, ["a seven", bad], train=False)
    assert kept.problems.doubtful == {kind: 1} and not kept.problems.left_out
    texts = kept.target(0).captions if make is captions else [kept[i]["text"] for i in range(len(kept))]
    assert len(texts) == 2 and all(len(text) <= MAX_TEXT and text.encode() for text in texts)


@pytest.mark.parametrize("bad", [None, {"a": 1}, 7, ["x"]])
def test_captions_that_are_no_text(tmp_path, bad):
    write_image(tmp_path / "0.jpg")
    for train in (True, False):
        data = captions(tmp_path, [[bad, "a seven"]], train)
        assert data.problems.left_out == {NO_TEXT: 1}
        assert (data[0]["text"] if train else data.target(0).captions) == (
            "a seven" if train else ["a seven"]
        )
    with pytest.raises(DataError, match="has no reference caption"):
        captions(tmp_path, [[bad]], False)


def test_usable_text_is_left_alone():
    for train in (True, False):
        assert usable_text("Zwölf \U0001f989 owls", train) == ("Zwölf \U0001f989 owls", None)


@pytest.mark.parametrize("side", [60_000, 10**9, 10**400])
def test_sizes_that_ask_for_gigabytes(tmp_path, side):
    write_image(tmp_path / "0.jpg")
    record = {"image": "0.jpg", "text": "it", "masks": [SQUARE]}
    lines = [json.dumps({**record, **SIZE}), json.dumps({**record, "height": side, "width": side})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    data = JsonlDataset(tmp_path, tmp_path / "a.jsonl", train=True)
    if side < 10**308:
        assert len(data) == 1 and list(data.problems.first.values()) == ["line 2"]
        with pytest.raises(DataError, match=r"line 2: `height` and `width` are more than"):
            JsonlDataset(tmp_path, tmp_path / "a.jsonl")
    else:  # no number at all: as if it was not given
        assert data.target(1).size == (48, 64)


@pytest.mark.parametrize(
    "change", [{"mask": {"a": 1}}, {"conversations": [{"from": ["x"], "value": "?"}] * 2}]
)
def test_records_of_strange_shape_are_counted(tmp_path, change):
    write_image(tmp_path / "0.jpg")
    record = {"image": "0.jpg", "text": "it", "masks": [SQUARE], **SIZE}
    lines = [json.dumps(record), json.dumps({**record, **change})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    data = JsonlDataset(tmp_path, tmp_path / "a.jsonl", train=True)
    assert len(data) == 1 and data.problems.left_out.total() == 1
