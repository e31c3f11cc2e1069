"""ReasonSeg files as they are published: masks from polygons, texts, ignored regions, broken files."""

from __future__ import annotations

import json

import pytest
import torch
from files import write_image, write_json

from ufo.data.datasets.reasonseg import ReasonSegDataset, paint
from ufo.data.errors import DataError
from ufo.ops.masks import rle_decode
from ufo.types import IGNORE


def square(x: int, y: int, side: int, label: str = "target") -> dict:
    far = side - 1  # outlines belong to the polygon
    return {"label": label, "points": [[x, y], [x + far, y], [x + far, y + far], [x, y + far]]}


SHAPES = [square(4, 4, 10), square(6, 6, 4, "Ignore"), square(30, 8, 20, "flag")]


def record(**changes) -> dict:
    return {"shapes": SHAPES, "text": ["the thing", "the other"], "is_sentence": False, **changes}


def make(folder, *records: dict, **options) -> ReasonSegDataset:
    for i, content in enumerate(records or (record(), record(text=["What is it?"], is_sentence=True))):
        write_image(folder / f"{9 - i}.jpg")
        write_json(folder / f"{9 - i}.json", content)
    return ReasonSegDataset(folder, **options)


def test_every_text_is_a_sample_in_the_order_of_names(tmp_path):
    data = make(tmp_path)
    assert [data[i]["text"] for i in range(len(data))] == ["What is it?", "the thing", "the other"]
    assert [data[i]["sentence"] for i in range(3)] == [True, False, False]
    assert [data.target(i).sentence for i in range(3)] == [True, False, False]
    assert data.target(1).image == data.target(2).image != data.target(0).image
    assert data.portrait().tolist() == [False] * 3


@pytest.mark.parametrize(("kind", "count"), [("all", 3), ("short", 2), ("long", 1)])
def test_kinds_of_texts(tmp_path, kind, count):
    assert len(make(tmp_path, kind=kind)) == count


def test_ignored_regions_are_background_in_training_and_do_not_count_in_evaluation(tmp_path):
    make(tmp_path)
    mask = ReasonSegDataset(tmp_path, train=True)[0]["masks"]
    target = ReasonSegDataset(tmp_path).target(0)
    assert mask.shape == (1, 48, 64) and mask.sum() == 100 - 16
    assert torch.equal(rle_decode(target.masks, (48, 64)), mask)
    ignore = rle_decode([target.ignore], (48, 64))[0]
    assert ignore.sum() == 16 and ignore[6:10, 6:10].all()
    assert "masks" not in ReasonSegDataset(tmp_path)[0]


def test_the_smaller_polygon_wins_whatever_the_order():
    shapes = [square(2, 2, 4, "target"), square(0, 0, 10, "ignore"), square(20, 0, 3)]
    for order in (shapes, shapes[::-1]):
        painted = paint(order, (12, 24))
        assert (painted == 1).sum() == 16 + 9 and (painted == IGNORE).sum() == 100 - 16


def test_polygons_may_leave_the_image_and_be_missing(tmp_path):
    assert paint([square(-5, -5, 10**9)], (6, 8)).eq(1).all()
    data = make(tmp_path, record(shapes=[]))
    assert rle_decode(data.target(0).masks, (48, 64)).sum() == 0 and data.target(0).ignore is None
    assert data.problems.counts == {"no polygons": 1}


def test_files_written_on_windows(tmp_path):
    data = make(tmp_path, record())
    text = json.dumps(record(text=["the café’s sign"]), ensure_ascii=False)
    (tmp_path / "9.json").write_bytes(text.encode("cp1252"))
    data = ReasonSegDataset(tmp_path)
    assert data[0]["text"] == "the café’s sign"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a ReasonSeg file"),
        (json.dumps(record(text=[1])), "no usable text"),
        (json.dumps(record(text=[" "])), "no usable text"),
        (json.dumps(record(shapes=[{"label": "a", "points": [[10**400, 1], [2, 3], [4, 5]]}])), "`points`"),
        (json.dumps(record(shapes=[{"label": "a"}])), "`label` and `points`"),
        (
            json.dumps(record(shapes=[{"label": "a", "points": [[1, 2], [3, float("nan")], [4, 5]]}])),
            "no numbers",
        ),
    ],
)
def test_broken_files_are_named_in_evaluation_and_counted_in_training(tmp_path, content, message):
    make(tmp_path)
    (tmp_path / "1.json").write_text(content)
    with pytest.raises(DataError, match=message) as error:
        ReasonSegDataset(tmp_path)
    assert "1.json" in str(error.value)
    data = ReasonSegDataset(tmp_path, train=True)
    assert len(data) == 3 and data.problems.counts == {"unusable file": 1}


def test_wrong_settings_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no JSON file of ReasonSeg: .*`folder`"):
        ReasonSegDataset(tmp_path)
    make(tmp_path, record())
    with pytest.raises(DataError, match="with long texts"):
        ReasonSegDataset(tmp_path, kind="long")
    with pytest.raises(DataError, match="all, short, long"):
        ReasonSegDataset(tmp_path, kind="both")


def test_images_of_other_suffixes_and_texts_that_no_model_reads(tmp_path):
    for name in ("a.PNG", "b.jpeg"):
        write_image(tmp_path / name)
    write_json(tmp_path / "a.json", record(text=["the thing", None, "half \ud83d"]))
    write_json(tmp_path / "b.JSON", record(text="the other"))
    data = ReasonSegDataset(tmp_path, train=True)
    assert [data[i]["text"] for i in range(len(data))] == ["the thing", "the other"]
    assert data.problems.left_out.total() == 2 and not data.problems.doubtful
    kept = ReasonSegDataset(tmp_path)
    assert len(kept) == 3 and kept.problems.left_out.total() == kept.problems.doubtful.total() == 1
    assert [kept.target(i).size for i in range(3)] == [(48, 64)] * 3
