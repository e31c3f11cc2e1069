"""A JSONL of texts or conversations with masks: what becomes a sample, and what is wrong with a line."""

from __future__ import annotations

import json
import pickle

import numpy as np
import PIL.Image
import pytest
from files import write_image

from ufo.data.datasets import JsonlDataset
from ufo.data.datasets.coco_file import LEAVING
from ufo.data.datasets.segmentations import decode_masks
from ufo.data.errors import DataError

SQUARE = [[4, 8, 24, 8, 24, 24, 4, 24]]
OTHER = [[40, 8, 50, 8, 50, 24, 40, 24]]


def talk(*texts: str) -> list[dict]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def make(folder, *records, **options) -> JsonlDataset:
    write_image(folder / "images" / "a.jpg")
    path = folder / "texts.jsonl"
    lines = [r if isinstance(r, str) else json.dumps({"image": "a.jpg", **r}) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return JsonlDataset(folder / "images", path, **{"train": True, **options})


def test_texts_with_masks_and_boxes(tmp_path):
    data = make(tmp_path, {"text": " the owl ", "masks": [SQUARE, OTHER]}, {"text": "it", "masks": []})
    assert data.provides == {"expression", "masks", "boxes"} and len(data) == 2
    sample = data[0]
    assert sample["text"] == "the owl" and sample["masks"].shape == (1, 48, 64)
    assert sample["masks"].sum() == 20 * 16 + 10 * 16  # both are what the text means
    assert sample["boxes"].tolist() == [[4, 8, 50, 24]]
    assert data[1]["masks"].sum() == 0 and data[1]["boxes"].tolist() == [[0, 0, 0, 0]]
    target = data.target(0)
    assert decode_masks(target.masks, target.size).sum() == sample["masks"].sum()
    again = pickle.loads(pickle.dumps(data))
    assert again.target(0).text == "the owl" and str(again.target(0)) == str(target)
    boxes = make(tmp_path, {"text": "the owl", "bbox": [1, 2, 3, 4]})
    assert boxes.provides == {"expression", "boxes"}
    assert boxes[0]["boxes"].tolist() == [[1, 2, 4, 6]]


def test_mask_files(tmp_path):
    mask = np.zeros((48, 64), np.uint8)
    mask[2:4, 5:9] = 7
    (tmp_path / "images").mkdir()
    PIL.Image.fromarray(mask).save(tmp_path / "images" / "m.png")
    data = make(tmp_path, {"text": "the owl", "mask": "m.png"})
    assert data[0]["masks"].sum() == 8 and data[0]["boxes"].tolist() == [[5, 2, 9, 4]]
    PIL.Image.fromarray(mask[:40]).save(tmp_path / "images" / "m.png")
    with pytest.raises(DataError, match=r"m\.png: the mask is \(40, 64\) .*save both in one size"):
        data[0]


def test_conversations_give_a_sample_per_question_with_masks(tmp_path):
    turns = talk("<image>\nWhere?", "There: <mask>", "How many?", "Two.", "Both?", "<mask><mask>")
    data = make(tmp_path, {"conversations": turns, "masks": [SQUARE, OTHER, SQUARE]})
    assert [data[i]["text"] for i in range(len(data))] == ["Where?", "Both?"]
    assert [int(data[i]["masks"].sum()) for i in range(2)] == [320, 480]
    words = make(tmp_path, {"conversations": turns[:4]}, use="conversations")
    assert words.provides == {"conversation"} and len(words) == 1
    assert words[0]["conversation"] == ["Where?", "There: <mask>", "How many?", "Two."]
    assert words.target(0).answers == ["There: <mask>"] and words[0]["text"] == "Where?"


def test_sentence_and_evaluation(tmp_path):
    records = [
        {"text": "x", "masks": [SQUARE], "sentence": True},
        {"text": "y", "masks": [], "sentence": False},
    ]
    data = make(tmp_path, *records, train=False)
    assert "sentence" in data.provides
    assert data[0].keys() == {"image", "text", "sentence"}
    assert [data.target(i).sentence for i in range(2)] == [True, False]
    assert data.target(1).image_id == "a.jpg" and data.line(1) == 2


BAD = [
    ({"image": None, "text": "x", "masks": []}, "needs `image`"),
    ({"text": "x"}, "needs `masks`, `mask` or `bbox`"),
    ({"masks": [SQUARE]}, "needs `text` or `conversations`"),
    ({"text": "x", "masks": SQUARE[0]}, "mask 1 cannot be used"),
    ({"text": "x", "masks": {"size": [1, 1]}}, "`masks` is a list"),
    ({"text": "x", "masks": [{"size": [1, 1], "counts": [1]}]}, "mask 1 cannot be used: RLE of another size"),
    ({"text": "x", "bbox": [1, 2, 3]}, "four numbers"),
    ({"text": "x", "mask": "none.png"}, "its mask file is missing"),
    ({"image": "b.jpg", "text": "x", "masks": []}, "its image is missing or broken"),
    ({"conversations": talk("a"), "masks": []}, "one of them is missing"),
    ({"conversations": talk("a", " "), "masks": []}, "is empty"),
    ({"conversations": talk("a", "b")[::-1], "masks": []}, "turn 1 .* 'human'"),
    ({"conversations": talk("a", "<mask>"), "masks": [SQUARE, OTHER]}, "have 1 <mask>, the record has 2"),
]


@pytest.mark.parametrize(("record", "message"), BAD)
def test_bad_records_are_counted_in_training_and_an_error_in_evaluation(tmp_path, record, message):
    good = {"text": "the owl", "masks": [SQUARE]}
    data = make(tmp_path, good, record, good)
    assert len(data) == 2 and data.problems.counts.total() == 1
    (place,) = data.problems.first.values()
    assert place.startswith("line 2")
    with pytest.raises(DataError, match=rf"texts\.jsonl, line 2: .*{message}"):
        make(tmp_path, good, record, good, train=False)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a.j', r"line 2 is not valid JSON.*; correct the line, or leave it out"),
        ("[1]", "line 2 is not a JSON object"),
        ("\ufeff\x00", "line 2"),
    ],
)
def test_lines_that_are_no_records_stop_it(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        make(tmp_path, {"text": "x", "masks": []}, line, {"text": "x", "masks": []})
    path = tmp_path / "texts.jsonl"
    path.write_bytes(b'{"image": "a.jpg", "text": "caf\xe9", "masks": []}\n')
    with pytest.raises(DataError, match="line 1 is not UTF-8 text at byte"):
        JsonlDataset(tmp_path / "images", path)
    path.write_text('{"image": "a.jpg", "text": "x", "masks": []}\n{"image": "a')
    with pytest.raises(DataError, match="line 2 is cut short"):
        JsonlDataset(tmp_path / "images", path)
    with pytest.raises(DataError, match="`use` is one of"):
        JsonlDataset(tmp_path / "images", path, use="words")


def masked(folder, lines, train=True):
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return JsonlDataset(folder, folder / "m.jsonl", train=train)


def write_mask(path, size, values=(0, 255)):
    path.parent.mkdir(exist_ok=True)
    mask = np.zeros(size, np.uint8)
    for number, value in enumerate(values):
        mask[number :: len(values)] = value
    PIL.Image.fromarray(mask).save(path)


@pytest.mark.parametrize("train", [True, False])
def test_mask_files_of_other_spellings_and_turned_photos(tmp_path, train):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "a.jpg", 30, 40, exif=exif)
    record = {"image": "a.jpg", "text": "it"}
    for size in ((30, 40), (40, 30)):
        write_mask(tmp_path / "m" / "A.TIF", size)
        data = masked(tmp_path, [{**record, "mask": "m\\a.png"}], train)
        assert data.problems.doubtful == {"file found under another spelling of its name": 1}
        assert data.target(0).size == size == tuple(data[0]["image"].shape[-2:])
        assert not data.problems.left_out


def test_masks_of_another_size_are_found_before_training(tmp_path):
    write_image(tmp_path / "a.jpg", 30, 40)
    write_mask(tmp_path / "m" / "a.png", (30, 40))
    write_mask(tmp_path / "m" / "b.png", (60, 80))
    lines = [{"image": "a.jpg", "text": "it", "mask": f"m/{name}.png"} for name in "ab"]
    data = masked(tmp_path, lines)
    assert len(data) == 1 and data.problems.left_out == {"its mask file has another size than its image": 1}
    with pytest.raises(DataError, match="line 2: its mask file has another size"):
        masked(tmp_path, lines, train=False)


def test_lossy_and_many_valued_masks_are_said(tmp_path):
    write_image(tmp_path / "a.jpg", 30, 40)
    write_mask(tmp_path / "m" / "a.png", (30, 40), values=(0, 1, 2))
    write_mask(tmp_path / "m" / "b.jpg", (30, 40), values=(0, 255))
    lines = [{"image": "a.jpg", "text": "it", "mask": f"m/{name}"} for name in ("a.png", "b.jpg")]
    data = masked(tmp_path, lines)
    assert data.problems.doubtful == {"object mask in a lossy format": 1}
    data[0]
    kind = "object mask with more than two numbers, of which all but 0 are the object"
    assert data.problems.doubtful[kind] == 1 and data.problems.first[kind] == "m/a.png has 3"


@pytest.mark.parametrize("name", ["sub\\a.jpg", "sub%2Fa.jpg", "Sub/A.JPG"])
def test_sizes_are_read_of_files_in_other_spellings(tmp_path, name):
    write_image(tmp_path / "sub" / "a.jpg", 30, 40)
    write_image(tmp_path / "b.jpg", 30, 40)
    square = [[4, 8, 24, 8, 24, 24, 4, 24]]
    data = masked(tmp_path, [{"image": other, "text": "it", "masks": [square]} for other in ("b.jpg", name)])
    assert len(data) == 2 and data.target(1).size == (30, 40)


@pytest.mark.parametrize("train", [True, False])
def test_boxes_and_masks_of_nothing(tmp_path, train):
    """Left out of training and counted; evaluation has them, and counts them."""
    write_image(tmp_path / "a.jpg", 30, 40)
    write_mask(tmp_path / "m" / "none.png", (30, 40), values=(0,))
    line = [[5, 5, 5, 5, 5, 5]]  # a polygon around no pixel
    record = {"image": "a.jpg", "text": "it"}
    boxes = masked(
        tmp_path, [{**record, "bbox": b} for b in ([1, 2, 9, 9], [9, 9, 0, 0], [50, 50, 9, 9])], train
    )
    found = boxes.problems.left_out if train else boxes.problems.doubtful
    assert found == {"box smaller than a pixel": 1, "box outside its image": 1}
    assert len(boxes) == (1 if train else 3)
    masks = masked(tmp_path, [{**record, "mask": "m/none.png"}, {**record, "masks": [line]}], train)
    for i in range(2):
        if train:
            with pytest.raises(DataError, match=f"line {i + 1}: its mask has no pixel"):
                masks[i]
        else:
            assert masks.target(i).masks and masks.target(i).masks
    assert masks.problems.doubtful == ({} if train else {"empty mask": 2})


@pytest.mark.parametrize("train", [True, False])
def test_a_text_that_means_nothing_is_counted_and_used(tmp_path, train):
    write_image(tmp_path / "a.jpg", 30, 40)
    data = masked(tmp_path, [{"image": "a.jpg", "text": "no owl", "masks": []}], train)
    assert data.problems.doubtful.total() == 1 and "means nothing" in next(iter(data.problems.doubtful))
    assert len(data) == 1 and data[0]["text"] == "no owl"


def test_corners_in_place_of_sizes_are_said(tmp_path):
    data = make(tmp_path, {"text": "x", "bbox": [40, 30, 60, 44]}, {"text": "y", "bbox": [4, 3, 60, 44]})
    assert data.problems.doubtful == {LEAVING: 1} and len(data) == 2
