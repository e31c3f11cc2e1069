"""`model.stream`: folders and iterators in bounded memory, decoded ahead, in order."""

from __future__ import annotations

import itertools
import threading
import time

import PIL.Image
import pytest
import torch

from ufo.data.errors import DataError
from ufo.inference import RequestError, Result, Results
from ufo.inference.ahead import ahead


@pytest.fixture
def folder(tmp_path):
    for i in range(5):
        PIL.Image.new("RGB", (20 + i, 10), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    return tmp_path


@pytest.mark.heavy
def test_a_folder_is_answered_in_order_as_single_pictures_are(model, folder):
    found = list(model.stream(folder, "detection", batch_size=2))
    assert [result.source for result in found] == [str(folder / f"{i}.png") for i in range(5)]
    assert [result.index for result in found] == list(range(5)) and all(isinstance(r, Result) for r in found)
    for result in found:
        torch.testing.assert_close(result.boxes, model.predict(result.source, "detection").boxes)
    assert [r.source for r in model.stream(folder, "caption", every=3)] == [
        str(folder / "0.png"),
        str(folder / "3.png"),
    ]
    (several,) = model.stream(folder / "1.png", ["detection", "caption"])
    assert isinstance(several, Results) and several["caption"].source == str(folder / "1.png")


def test_a_picture_that_cannot_be_read_is_an_error_or_skipped(model, folder):
    (folder / "2.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"2\.png"):
        list(model.stream(folder, "caption"))
    skipped = []
    found = list(model.stream(folder, "caption", skip=lambda name, error: skipped.append((name, str(error)))))
    assert [result.index for result in found] == [0, 1, 3, 4]
    ((name, reason),) = skipped
    assert name == str(folder / "2.png") and "2.png" in reason


def test_an_endless_iterator_is_read_only_a_little_ahead(model):
    made = []

    def camera():
        for number in itertools.count():
            made.append(number)
            yield torch.full((3, 8, 8), number % 256, dtype=torch.uint8)

    stream = model.stream(camera(), "caption", batch_size=2)
    for _ in range(3):
        next(stream)
    assert len(made) <= 4 + 2 * 2 + 2  # two batches answered, two ahead, one in the hands of the thread
    stream.close()
    count = len(made)
    time.sleep(0.3)
    assert len(made) == count
    assert not [t for t in threading.enumerate() if t.name == "ufo-ahead"]


def test_large_pictures_are_shrunken_and_records_are_not(model):
    # not any noise: in some the model finds nothing
    image = torch.randint(256, (3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (found,) = model.stream([image], "instance_segmentation", max_pixels=600)
    assert found.image.shape == (3, 20, 30) and found.masks.shape[1:] == (20, 30)
    assert {tuple(record["segmentation"]["size"]) for record in found.to_coco()} == {(40, 60)}
    (whole,) = model.stream([image], "instance_segmentation", max_pixels=None)
    assert whole.masks.shape[1:] == (40, 60)


def test_a_request_is_checked_before_the_first_picture(model, tmp_path):
    def never():
        raise AssertionError("a picture was asked for")
        yield

    with pytest.raises(ValueError, match="no task"):
        model.stream(never(), "swim")
    with pytest.raises(ValueError, match="every=0"):
        model.stream(never(), "caption", every=0)
    with pytest.raises(DataError, match="no images in the folder"):
        model.stream(tmp_path, "caption")


# ---------------------------------------------------------------- ahead


@pytest.mark.parametrize("bound", [0, -5, 1.5, "3"])
@pytest.mark.parametrize("name", ["every", "max_pixels", "batch_size"])
def test_bounds_are_whole_numbers_from_one_on(model, name, bound):
    with pytest.raises(RequestError, match=f"{name}={bound!r}"):
        model.stream([], "caption", **{name: bound})


@pytest.mark.parametrize("texts", [[], ["the owl", "the dog"]])
def test_several_texts_are_not_taken_for_one(model, texts):
    with pytest.raises(RequestError, match=r"one text, a str.* predict takes one for each"):
        model.stream(iter([]), "grounding", texts)


def test_items_arrive_in_order_with_the_error_where_it_was():
    def items():
        yield from range(50)
        raise KeyError("fifty")

    found = []
    with pytest.raises(KeyError, match="fifty"):
        for item in ahead(items(), 3):
            found.append(item)
    assert found == list(range(50))
    assert list(ahead([], 3)) == []


def test_the_reader_may_leave_and_the_source_is_closed():
    closed = threading.Event()

    def items():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    reader = ahead(items(), 2)
    assert [next(reader), next(reader)] == [0, 1]
    reader.close()
    assert closed.wait(5)
