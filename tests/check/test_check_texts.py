"""Texts that a model cannot be asked with: counted, left out of training, cut in evaluation; never an end."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tiny_mllm import make_mllm

from ufo.check import check_fit
from ufo.check.texts import LONG, MARKED, Limits, check_marks
from ufo.data.datasets import CocoDataset, JsonlDataset
from ufo.data.errors import DataError
from ufo.data.module import UFODataModule
from ufo.data.sampling import View
from ufo.data.source import Source
from ufo.data.texts import MARK, usable_text
from ufo.tasks import make_task

SQUARE = [[4, 8, 24, 8, 24, 24, 4, 24]]
SHORT, ENDLESS = "the owl", "the owl left of the dog " * 40


@pytest.fixture
def folder(tmp_path) -> Path:
    PIL.Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "0.png")
    return tmp_path


def expressions(folder: Path, texts: list[str], train: bool) -> JsonlDataset:
    size = {"height": 48, "width": 64}
    lines = [json.dumps({"image": "0.png", "text": t, "masks": [SQUARE], **size}) for t in texts]
    path = folder / f"{train}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return JsonlDataset(folder, path, train=train)


def talks(folder: Path, rows: list[list[str]]) -> JsonlDataset:
    lines = []
    for row in rows:
        said = [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(row)]
        lines.append(json.dumps({"image": "0.png", "conversations": said, "height": 48, "width": 64}))
    path = folder / "talks.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return JsonlDataset(folder, path, use="conversations", train=True)


@pytest.mark.parametrize("name", ["grounding", "referring_segmentation", "reasoning_segmentation"])
def test_long_texts_are_left_out_of_training_and_cut_in_evaluation(folder, make_model, name):
    model = make_model()
    source = Source(
        name=f"own/{name}",
        task=name,
        train=lambda: expressions(folder, [SHORT, ENDLESS], True),
        val=lambda: expressions(folder, [ENDLESS, SHORT], False),
    )
    if "sentence" in model.task(name).needs:
        source.task = "grounding"  # the records do not say it
    data = UFODataModule([source])
    data.setup("fit")
    check_fit(model, data)
    assert source.data("train").problems.left_out == {LONG: 1}
    assert source.data("val").problems.doubtful == {LONG: 1}
    assert "sample 1" in source.data("train").problems.first[LONG]
    assert {source.sample(1, seed)["text"] for seed in range(9)} == {SHORT}
    assert source.problems("train")[0] == 1
    cut = source.evaluation_sample(0)["text"]
    assert ENDLESS.startswith(cut) and cut
    assert source.evaluation_sample(1)["text"] == SHORT
    assert source.evaluation_sample(0)["target"].text == ENDLESS.strip()  # what was meant stays
    model.predict(np_image(), source.task, cut)  # the longest that is asked can be answered


def np_image() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.zeros((48, 64, 3), np.uint8))


def test_the_limit_is_where_the_model_ends(make_model):
    """One text is asked, the next longer one is not, and would have failed."""
    model = make_model()
    limits = Limits(model, model.task("grounding"), ())
    words = next(n for n in range(1, 100) if limits.problem("owl " * n))
    model.predict(np_image(), "grounding", "owl " * (words - 1))
    with pytest.raises((IndexError, ValueError)):
        model.predict(np_image(), "grounding", "owl " * (words + 1))
    assert limits.problem(limits.cut("owl " * 500)) is None


def test_conversations_that_are_longer_than_the_model(folder, make_model):
    model = make_model()
    turns = ["the owl?", "the red cat left of the owl"]
    data = talks(folder, [turns, turns * 40, ["the owl?", "owl " * 400]])
    found = Limits(model, model.task("vqa"), ()).report(data, train=True)
    assert list(found) == [1], "a single answer is cut to what an answer may have"
    assert data.problems.left_out == {LONG: 1}


@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_marks_of_the_model_in_a_text(folder, family):
    model = make_mllm(family)
    task = make_task("grounding", image_size=model.tasks["detection"].image_size, num_bins=20)
    model.tasks["grounding"] = task.worded(model.tasks["detection"].wording)
    mark = model.backbone.patch_token
    limits = Limits(model, model.task("grounding"), ())
    data = View(
        expressions(folder, ["cat", f"cat {mark} {mark} dog", "cat " * 9000], False), np.array([0, 1, 2])
    )
    found = limits.report(data, train=False)
    assert data.problems.doubtful == {MARKED: 1, LONG: 1}
    assert list(found) == [1, 2]
    for text in found.values():
        model.encode(np_pixels(model), [model.task("grounding").prompt((), text)], None, task)


def np_pixels(model):
    import torch

    side = model.tasks["detection"].image_size
    return torch.zeros(1, 3, side, side, dtype=torch.uint8)


def test_all_samples_unreadable_is_said(folder, make_model):
    model = make_model()
    source = Source("own/g", "grounding", train=lambda: expressions(folder, [ENDLESS], True))
    data = UFODataModule([source])
    data.setup("fit")
    check_fit(model, data)
    with pytest.raises(DataError, match="the model cannot read its text"):
        source.sample(0, 0)


def test_a_class_with_a_comma_is_said_once_before_a_training(folder, make_model, caplog):
    size = {"height": 48, "width": 64}
    content = {
        "images": [{"id": 1, "file_name": "0.png", **size}],
        "categories": [{"id": 1, "name": "owl, red"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 8, 20, 16]}],
    }
    (folder / "x.json").write_text(json.dumps(content))
    halves = {
        s: partial(CocoDataset, folder, folder / "x.json", train=s == "train") for s in ("train", "val")
    }
    data = UFODataModule([Source("own/d", "detection", **halves)])
    data.setup("fit")
    check_fit(make_model(), data)
    assert caplog.text.count("own/d: the prompt of detection lists class names with commas") == 1
    assert "'owl, red'" in caplog.text and "rename it" in caplog.text


def test_mask_tokens_in_classes_and_texts(folder, make_model):
    model = make_model()
    for name in ("<MASK>", "red <mask> cat"):
        with pytest.raises(ValueError, match=r"own: the class .* stands for a mask; rename it"):
            check_marks(model, "own", ["owl", name])
    check_marks(model, "own", ["owl", "mask"])
    data = expressions(folder, [SHORT, "the <MASK> owl"], True)
    assert len(data) == 1 and any(MARK in kind for kind in data.problems.left_out)
    kept = expressions(folder, [SHORT, "the <Mask> owl"], False)
    assert kept.problems.doubtful == {MARK: 1} and "<" not in kept[1]["text"]
    assert usable_text("Two: <mask>", True, marks=True) == ("Two: <mask>", None)
