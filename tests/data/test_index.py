"""Indexes on disk: the same data set as from the JSON, written once, whole or not at all; streamed JSON."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import stat
import time
from dataclasses import asdict

import numpy as np
import pytest
import torch
from files import coco_content, write_image, write_json

from ufo.data import index as index_module
from ufo.data import json_stream, pictures
from ufo.data.datasets import CocoDataset, JsonlDataset
from ufo.data.datasets.base import read_json
from ufo.data.errors import DataError
from ufo.data.index import Index, cached, remove, size_text
from ufo.data.json_stream import EMPTY, json_records

RLE = {"size": [48, 64], "counts": [100, 50, 48 * 64 - 150]}
ANNOTATIONS = [
    {},
    {"image_id": 12, "category_id": 13, "segmentation": RLE},
    {"image_id": 10, "iscrowd": 1, "segmentation": RLE},
    {"image_id": 11, "bbox": [70, 0, 5, 5]},
    {"image_id": 12, "segmentation": []},
    {"image_id": 99},
    {"category_id": 8},
]


@pytest.fixture(autouse=True)
def on_disk(monkeypatch, tmp_path):
    """Every file is large enough for an index; the cache is not the user's."""
    monkeypatch.setattr(index_module, "SMALL", 0)
    monkeypatch.setenv("UFO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def coco(tmp_path):
    for k in range(3):
        write_image(tmp_path / "images" / f"{k}.jpg")
    return write_json(tmp_path / "coco.json", coco_content(*ANNOTATIONS, images=3))


def make(path, **options) -> CocoDataset:
    return CocoDataset(path.parent / "images", path, **{"train": True, **options})


def indexes(path) -> list:
    return sorted((path.parent / ".ufo_index").glob("*.arrow"))


def same(one: CocoDataset, other: CocoDataset) -> bool:
    assert len(one) == len(other) > 0
    for i in range(len(one)):
        assert str(asdict(one.target(i))) == str(asdict(other.target(i)))
        left, right = one[i], other[i]
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    assert one.problems.counts == other.problems.counts and one.problems.first == other.problems.first
    assert torch.equal(one.portrait(), other.portrait()) and one.classes == other.classes
    return True


# --- the same data from the index


@pytest.mark.parametrize("options", [{}, {"train": False}, {"masks": False}, {"classes": ["cup", "apple"]}])
def test_index_equals_the_file(coco, monkeypatch, options):
    first = make(coco, **options)
    assert len(indexes(coco)) == 1
    monkeypatch.setattr("ufo.data.datasets.coco.json_records", None)  # no other way to the data
    second = make(coco, **options)
    monkeypatch.undo()
    monkeypatch.setattr(index_module, "SMALL", 10**9)
    assert same(first, second) and same(second, make(coco, **options))


def test_problems_are_reported_again(coco, caplog):
    make(coco)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        make(coco).serve(frozenset({"boxes", "masks"}))
    lines = [record.getMessage() for record in caplog.records]
    assert any("1x box outside its image, left out (first: annotation 103" in line for line in lines)


def test_the_same_index_serves_every_part_of_a_run_and_options_have_their_own(coco):
    make(coco), make(coco, min_size=10), make(coco, exclude=["1.jpg"])
    assert len(indexes(coco)) == 1
    make(coco, train=False)
    assert len(indexes(coco)) == 2
    assert remove(coco) == 2 and not indexes(coco)


def test_a_changed_file_is_read_again(coco):
    assert make(coco).classes[2] == "cup"
    content = coco.read_text().replace('"cup"', '"mug"')
    coco.write_text(content)
    os.utime(coco, ns=(1, 1))
    assert make(coco).classes[2] == "mug"
    assert len(indexes(coco)) == 1


@pytest.mark.parametrize("broken", [True, False])
def test_an_image_that_comes_later_is_not_lost(tmp_path, broken):
    """Both formats read sizes from images that are still being downloaded."""
    write_image(tmp_path / "images" / "0.jpg")
    if broken:
        (tmp_path / "images" / "1.jpg").write_bytes(b"")
    content = coco_content({}, {"image_id": 11}, images=2)
    for image in content["images"]:
        del image["height"], image["width"]
    annotations = write_json(tmp_path / "coco.json", content)
    lines = [{"image": f"{k}.jpg", "text": "x", "bbox": [4, 8, 20, 16]} for k in range(2)]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def lengths():
        found = JsonlDataset(tmp_path / "images", texts, train=True)
        return len(make(annotations, train=True)), len(found)

    assert lengths() == lengths() == (1, 1)
    time.sleep(0.01)
    write_image(tmp_path / "images" / "1.jpg")
    pictures._listing.cache_clear()  # of another process
    assert lengths() == (2, 2)
    changed = [path.stat().st_mtime_ns for path in indexes(annotations) + indexes(texts)]
    assert lengths() == (2, 2)
    assert changed == [path.stat().st_mtime_ns for path in indexes(annotations) + indexes(texts)]


def test_ids_may_be_texts(tmp_path):
    write_image(tmp_path / "images" / "0.jpg")
    content = coco_content({"image_id": "ten"}, {"image_id": "ten"})
    content["images"][0]["id"] = "ten"
    path = write_json(tmp_path / "coco.json", content)
    assert make(path).target(0).image_id == make(path).target(0).image_id == "ten"
    content["images"].append({**content["images"][0], "id": 3})
    assert make(write_json(path, content)).target(0).image_id == "ten"


def test_sizes_from_image_headers_belong_to_their_images(coco):
    content = json.loads(coco.read_text())
    del content["images"][0]["height"]
    write_json(coco, content)
    assert make(coco, train=False).target(0).size == (48, 64)
    for k in range(3):
        write_image(coco.parent / "other" / f"{k}.jpg", 20 + k, 64)
    other = CocoDataset(coco.parent / "other", coco)
    assert other.target(0).size == (20, 64)
    assert make(coco, train=False).target(0).size == (48, 64)


def test_workers_open_the_file_instead_of_getting_copies(coco):
    data = make(coco)
    sent = pickle.dumps(data)
    boxes = pickle.loads(sent)._index["boxes"]
    assert np.array_equal(boxes, data._index["boxes"]) and not boxes.flags.writeable
    assert boxes.base is not None
    assert indexes(coco)[0].name.encode() in sent
    for name in ("boxes", "names.bytes", "masks.coordinates"):
        assert data._index[name].tobytes() not in sent
    assert same(data, pickle.loads(sent))


# --- writing


def arrays() -> dict[str, np.ndarray]:
    return {
        "a": np.arange(12, dtype=np.int32).reshape(3, 4),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 2), np.float32),
    }


def test_arrays_come_back_with_shape_and_type(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    built = cached(source, {"k": [1]}, lambda: (arrays(), {"m": "é"}))
    read = cached(source, {"k": [1]}, None)
    for index in (built, read):
        assert index.meta["m"] == "é" and set(index) == set(arrays())
        for name, array in arrays().items():
            assert np.array_equal(index[name], array) and index[name].dtype == array.dtype


def test_a_build_that_fails_leaves_nothing(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"x")

    def broken():
        raise DataError("the file is bad")

    with pytest.raises(DataError, match="the file is bad"):
        cached(source, {}, broken)
    assert not list(tmp_path.rglob("*.arrow")) and cached(source, {}, lambda: (arrays(), {}))


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_index_is_built_again(coco, damage, caplog):
    first = make(coco)
    (path,) = indexes(coco)
    content = path.read_bytes()
    path.unlink()  # its pages are still mapped
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"hello" * 100}[damage])
    assert same(first, make(coco))
    assert "not a usable index" in caplog.text
    assert path.read_bytes() == content


def test_read_only_folders_use_the_cache_and_without_one_the_memory(coco, tmp_path, monkeypatch, caplog):
    real = index_module._writable
    monkeypatch.setattr(index_module, "_writable", lambda f: f.name != ".ufo_index" and real(f))
    make(coco)
    (found,) = (tmp_path / "cache").rglob("*.arrow")
    changed = found.stat().st_mtime_ns
    make(coco)
    assert found.stat().st_mtime_ns == changed and stat.S_IMODE(found.stat().st_mode) == 0o644
    found.unlink()
    monkeypatch.setattr(index_module, "_writable", lambda f: False)
    assert len(make(coco)) == 3
    assert "stays in memory" in caplog.text and not list(tmp_path.rglob("*.arrow"))


def test_a_full_disk_costs_the_index_only(coco, monkeypatch, caplog):
    def full(self, path):
        raise OSError("No space left on device")

    monkeypatch.setattr(Index, "save", full)
    assert len(make(coco)) == 3 and "No space left" in caplog.text


def _build_slowly(folder, answers) -> None:
    index_module.SMALL = 0

    def build():
        with open(folder / "builds", "a") as file:
            file.write("x")
        time.sleep(1)
        return arrays(), {}

    answers.put(cached(folder / "source", {}, build)["a"].sum())


@pytest.mark.slow
def test_one_process_builds_and_the_others_wait(tmp_path):
    (tmp_path / "source").write_bytes(b"x")
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=_build_slowly, args=(tmp_path, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [int(answers.get(timeout=60)) for _ in processes] == [66, 66, 66]
    for process in processes:
        process.join()
    assert (tmp_path / "builds").read_text() == "x"


def test_sizes_in_words():
    assert [size_text(n) for n in (5, 1500, 25_000_000, 4.2e9)] == ["5 bytes", "1.5 kB", "25 MB", "4.2 GB"]


# --- streamed JSON


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_records_are_those_of_json(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    monkeypatch.setattr(json_stream, "PIECE", max(chunk, 40))
    records = [{"id": i, "t": "},{ é 🦉 ]" * (i % 3), "x": [1.5e3, -1, {"y": None}]} for i in range(50)]
    content = {
        "info": {"a": [1]},
        "images": records,
        "empty": [],
        "n": 12345,
        "annotations": [[1], "z", True, None],
    }
    for text in (json.dumps(content), json.dumps(content, indent=1, ensure_ascii=False)):
        path = tmp_path / "x.json"
        path.write_text(text, encoding="utf-8")
        found = list(json_records(path))
        assert [r for s, r in found if s == "images"] == records
        assert found[50] == ("empty", EMPTY)
        assert found[51:] == [("annotations", value) for value in content["annotations"]]
    path.write_text(json.dumps(records))
    assert [record for _, record in json_records(path)] == records


BROKEN = [
    *("", "{", '{"a"', '{"a": [1,', '{"a": [1 2]}', '{"a": [1]} x', '[1,{"a":"b', "nope", '{"a":[1]'),
    *('{"a" [1]}', '{"a":\n[{"b":1},\n{"b";2}]}', '{a:1}', '{"a": [{"b": 1}, {"b": 2} {"b": 3}]}'),
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_broken_files_are_described_as_by_the_whole_parser(tmp_path, monkeypatch, text, chunk):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError) as whole:
        read_json(path)
    with pytest.raises(DataError) as streamed:
        list(json_records(path))
    assert str(streamed.value) == str(whole.value)


def test_bytes_that_are_no_text_are_placed(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "CHUNK", 5)
    path = tmp_path / "x.json"
    path.write_bytes('{"a": [{"b": "ü"}, {"b": "'.encode() + b"caf\xe9" + b'"}]}')
    with pytest.raises(DataError, match="not UTF-8 text at byte 30"):
        list(json_records(path))
    path.write_text('{"a": [1], "a": [2]}')
    with pytest.raises(DataError, match="two lists `a`"):
        list(json_records(path))


def test_memory_is_that_of_a_chunk(tmp_path):
    import tracemalloc

    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a": [{"id": i, "text": "x" * 100} for i in range(60_000)]}))
    size = path.stat().st_size
    tracemalloc.start()
    count = sum(1 for _ in json_records(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 60_000 and size > 7 << 20
    assert peak < 30 << 20  # two chunks of text and the records of one piece, however long the file is
