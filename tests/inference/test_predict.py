"""`model.predict`: many as one by one, several tasks, and what is refused."""

from __future__ import annotations

import copy
import io
import json
import sys
import types
from unittest.mock import patch

import numpy as np
import PIL.Image
import pytest
import torch
from given_pictures import assert_same, pixels

from ufo.inference import RequestError, Result, Results
from ufo.inference.batches import groups
from ufo.inference.results import Origin
from ufo.kinds import Text
from ufo.tasks import kind_of, task_class
from ufo.types import Prediction

# ---------------------------------------------------------------- many


@pytest.mark.heavy
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_many_are_answered_as_one_by_one(model, task_name, dtype):
    """Pictures of several sizes, in batches that do not divide their number, each with its own text."""
    images = [pixels(i, 12 + i, 20 - i) for i in range(5)]
    texts = ["the owl", "red cat", "the dog left of the owl", "dog", "owl"]
    together = model.predict(images, task_name, texts, batch_size=2, dtype=dtype)
    for image, text, found in zip(images, texts, together, strict=True):
        alone = model.predict(image, task_name, text, dtype=dtype)
        assert found.asked == (text if task_class(task_name).needs_text else "")
        assert found.text == alone.text and len(found) == len(alone)
        if dtype is None:
            assert_same(found, alone, exactly=False)


def test_a_type_is_computed_in_only_while_it_is_asked_for(model):
    def seen(wanted: str | torch.dtype | None) -> list[torch.dtype]:
        found: list[torch.dtype] = []
        layer = next(m for m in model.modules() if isinstance(m, torch.nn.Linear))
        hook = layer.register_forward_hook(lambda _, __, out: found.append(out.dtype))
        try:
            model.predict(pixels(), "detection", dtype=wanted)
        finally:
            hook.remove()
        return found

    for wanted, expected in (
        ("bfloat16", torch.bfloat16),
        (torch.float32, torch.float32),
        (None, torch.float32),
    ):
        assert set(seen(wanted)) == {expected}
    assert not torch.is_autocast_enabled("cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with pytest.raises(RequestError, match="dtype=int8"):
        model.predict(pixels(), "detection", dtype="int8")


def test_batches_hold_few_pixels_where_masks_are_made():
    origins = [Origin(pixels(0, 10, size), (10, size)) for size in (1, 2, 3, 9, 1)]
    sizes = [[o.size[1] for o in group] for group in groups(iter(origins), 3, 40)]
    assert sizes == [[1, 2], [3], [9], [1]]  # one alone may be larger
    assert [len(group) for group in groups(iter(origins), 3, None)] == [3, 2]


def test_a_prompt_is_read_once_for_all_batches(model):
    """And anew in the next call, as somebody may have changed weights in a way that nothing tells of."""
    images, model = [pixels(i) for i in range(5)], copy.deepcopy(model)
    found = []
    for _ in range(2):
        with patch.object(model.backbone, "encode_prompt", wraps=model.backbone.encode_prompt) as read:
            found.append(model.predict(images, "detection", batch_size=2)[-1].boxes)
        assert read.call_count == 1
        for parameter in model.parameters():
            parameter.data.mul_(0.5)
    assert not torch.equal(*found)


def test_a_model_that_trains_goes_on_training(model):
    model.train()
    model.predict([pixels(), pixels(1)], "detection")
    assert model.training
    model.eval()


# ---------------------------------------------------------------- answers


def test_an_answer_can_be_looked_at_saved_and_handed_on(model, task_name, tmp_path):
    found = model.predict(pixels(), task_name, "the owl")
    assert isinstance(found, Result) and found and len(found) == len(list(found))
    assert len(repr(found)) < 300 and "tensor" not in repr(found) and task_name in repr(found)
    assert "tensor" not in repr(Prediction(task_name, boxes=torch.zeros(2, 4)))
    for thing in found:
        x1, y1, x2, y2 = thing.box
        assert thing.name and x1 <= x2 and y1 <= y2 and repr(thing)
        assert thing.mask is None or thing.mask.shape == (17, 31)
    assert bool(len(found)) <= (not isinstance(found.kind, Text))
    picture = PIL.Image.open(io.BytesIO(found._repr_png_()))
    assert picture.size == found.plot().size and min(picture.size) > 31
    with PIL.Image.open(found.save(tmp_path / "a" / "p.jpg")) as saved:
        assert saved.size == picture.size
    content = json.loads(found.save(tmp_path / "p.json").read_text())
    assert content == found.to_dict() and (content["height"], content["width"]) == (17, 31)
    assert [r["image_id"] for r in found.to_coco(7)] == [7] * len(content["results"])
    with pytest.raises(ValueError, match=r"p\.txt"):
        found.save(tmp_path / "p.txt")


def test_a_loop_agrees_with_the_tensors(model):
    found = model.predict(pixels(), "instance_segmentation", score=0.0)
    assert len(found) == len(found.scores) > 0
    for i, thing in enumerate(found):
        assert thing.score == pytest.approx(found.scores[i].item()) and thing.label == found.labels[i]
        assert thing.name == found.classes[thing.label] and torch.equal(thing.mask, found.masks[i])
    semantic = model.predict(pixels(), "semantic_segmentation")
    assert sum(int(thing.mask.sum()) for thing in semantic) == int((semantic.semantic != 255).sum())


def test_score_leaves_objects_out(model):
    everything = model.predict(pixels(), "detection")
    middle = everything.scores.median().item()
    kept = model.predict(pixels(), "detection", score=middle)
    assert 0 < len(kept) < len(everything) and min(kept.scores) >= middle
    assert_same(kept, everything.above(middle))
    nothing = model.predict(pixels(), "detection", score=1.0)
    assert len(nothing) == 0 and nothing and nothing.to_coco() == [] and nothing.plot()


@pytest.mark.heavy
def test_several_tasks_at_once(model, tmp_path):
    image = pixels()
    found = model.predict(image, ["detection", "caption"])
    assert isinstance(found, Results) and list(found) == ["detection", "caption"]
    assert_same(found["detection"], model.predict(image, "detection"))
    assert found.plot().width > found["detection"].plot().width
    assert json.loads(found.save(tmp_path / "r.json").read_text()) == found.to_dict()
    assert len(repr(found).splitlines()) == 2 and found._repr_png_().startswith(b"\x89PNG")
    everything = model.predict(image)
    assert list(everything) == [name for name in model.tasks if not task_class(name).needs_text]
    assert list(model.predict(image, text="the owl")) == list(model.tasks)
    with pytest.raises(AttributeError, match=r"found\['detection'\]\.boxes"):
        _ = found.boxes
    with pytest.raises(KeyError, match="grounding"):
        _ = found["grounding"]
    assert found["caption"] == found["caption"] != found["detection"] and len(set(found.values())) == 2
    both = model.predict([image, pixels(1)], ["detection"])
    assert [list(one) for one in both] == [["detection"]] * 2


def test_a_sheet_shows_the_plain_photo_once(model):
    """Answers in words need no photo of their own: a second one adds lines of text and nothing else."""
    image = pixels(3)
    one = model.predict(image, ["detection", "caption"])
    more = Results(one | {"question": one["caption"]})
    small, large = one.plot(), more.plot()
    assert small.width == large.width and 0 < large.height - small.height < 100
    assert one.plot(min_side=200, max_objects=1).width < small.width


def test_a_notebook_shows_the_drawing(model):
    formatters = pytest.importorskip("IPython.core.formatters")
    for found in (model.predict(pixels(), "detection"), model.predict(pixels())):
        shown, _ = formatters.DisplayFormatter().format(found)
        assert PIL.Image.open(io.BytesIO(shown["image/png"])).size == found.plot().size
        assert shown["text/plain"] == repr(found)


def test_what_supervision_is_given(model, monkeypatch):
    """The library itself is not needed to know what it gets."""
    fake = types.ModuleType("supervision")

    class Detections(dict):
        @classmethod
        def empty(cls) -> Detections:
            return cls()

    fake.Detections = Detections
    monkeypatch.setitem(sys.modules, "supervision", fake)
    found = model.predict(pixels(), "instance_segmentation")
    given = found.to_supervision()
    n = len(found)
    assert given["xyxy"].shape == (n, 4) and given["mask"].shape == (n, 17, 31)
    assert given["class_id"].tolist() == found.labels.tolist()
    assert given["data"]["class_name"].tolist() == [found.classes[i] for i in found.labels]
    np.testing.assert_allclose(given["confidence"], found.scores.numpy())
    assert model.predict(pixels(), "detection").to_supervision()["mask"] is None
    assert model.predict(pixels(), "caption").to_supervision() == {}
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        found.to_supervision()


def test_kinds_know_what_can_be_pointed_at(task_name):
    """A kind without objects has an empty loop, as texts do; no task is asked for by its name."""
    empty = {
        "boxes": torch.zeros(0, 4),
        "scores": torch.zeros(0),
        "labels": torch.zeros(0, dtype=torch.int64),
        "semantic": torch.full((4, 4), 255),
    }
    kind = kind_of(task_name)
    masks = torch.zeros(0, 4, 4, dtype=torch.bool) if kind.masks else None
    assert list(kind.found(Prediction(task_name, **empty, masks=masks), "the owl")) == []


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"task": "swim"}, "no task 'swim'; it has"),
        ({"task": []}, "at least one task"),
        ({"task": "grounding"}, "needs a text"),
        ({"task": "detection", "classes": "owl"}, "list"),
        ({"task": "detection", "classes": ["a <mask>"]}, "stands for a mask"),
        ({"task": "grounding", "text": "owl " * 200}, "reads"),
        ({"task": 3}, "a task is a name, not 3"),
        ({"task": ["detection", None]}, "a task is a name, not None"),
        ({"task": "detection", "classes": []}, "empty"),
        (
            {"task": "detection", "classes": ["owl", "bird, small", "a,b"]},
            "'bird, small', 'a,b' would be read as several names in classes=; write each without a comma",
        ),
        (
            {"task": "detection", "classes": ["🐦", "owl", "鳥"]},
            "no pieces for the classes '🐦', '鳥'; use other words",
        ),
        ({"task": "detection", "classes": ["owl", " "]}, "empty name"),
        ({"task": "detection", "classes": ["owl", "Owl "]}, "named twice"),
        ({"task": "detection", "classes": [1]}, "a class is a name, not 1"),
        ({"task": "detection", "classes": 1}, "list"),
        ({"task": "detection", "classes": ["owl", "background"]}, "where no object is"),
        ({"task": "grounding", "text": "  "}, "needs a text"),
        ({"task": "grounding", "text": 3}, "not 3"),
        ({"task": "grounding", "text": "owl \udc80"}, "not UTF-8"),
        ({"task": "detection", "score": "0.3"}, "score='0.3'"),
        ({"task": "detection", "batch_size": 1.5}, "batch_size=1.5"),
        ({"task": "detection", "score": 2}, "score=2"),
        ({"task": "detection", "batch_size": 0}, "batch_size=0"),
        ({"task": "detection", "device": "abacus"}, "device=abacus"),
        ({"task": "detection", "device": "gpu"}, "cuda"),
        ({"task": "grounding", "text": ["the owl", "the dog"]}, "2 texts for one picture; give one"),
        ({"task": "grounding", "text": []}, "0 texts for one picture; give one"),
        ({"task": "grounding", "text": {"the owl": 1}}, "not {'the owl': 1}"),
        ({"task": "grounding", "text": b"the owl"}, "not b'the owl'"),
    ],
)
def test_requests_that_make_no_sense(model, arguments, words):
    with pytest.raises(RequestError, match=words):
        model.predict(pixels(), **arguments)


def test_arguments_may_come_from_arrays(model):
    """As tables and configs give them."""
    found = model.predict(pixels(), "detection", classes=np.array(["cat", "owl"]), score=np.float32(0.25))
    assert found.classes == ("cat", "owl")
    assert model.predict([], "grounding", text=[]) == []


def test_words_that_no_task_reads_are_told(model, caplog):
    model.predict(pixels(), "caption", text="the owl")
    assert "text= is not used" in caplog.text
    model.predict(pixels(), "caption", classes=["owl"])
    assert "classes= is not used" in caplog.text
    caplog.clear()
    model.predict(pixels(), ["caption", "detection"], classes=["owl"])
    model.predict(pixels(), ["caption", "grounding"], text="the owl")
    assert not caplog.text


@pytest.mark.parametrize("score", [2, -0.1, float("nan")])
def test_a_score_is_between_0_and_1(model, score):
    with pytest.raises(ValueError, match="not a number from 0 to 1"):
        model.predict(pixels(), "detection").above(score)


def test_as_many_texts_as_pictures(model):
    with pytest.raises(RequestError, match="2 texts for 3 pictures; give one for each"):
        model.predict([pixels()] * 3, "grounding", ["the owl", "the dog"])
    with pytest.raises(RequestError, match="needs a text"):
        model.predict([pixels()] * 2, "grounding", ["the owl", ""])
