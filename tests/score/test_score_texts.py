"""A task that is added is scored from files as in a validation: its kind says how."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from score_files import SIZE, coco, write

from ufo.cli.main import main
from ufo.kinds import ImageInfo, Kind, Objects, Text
from ufo.metrics.answers import AnswerScores
from ufo.score.tasks import SCORERS, scored_tasks, scorer_of
from ufo.score.tasks.objects import ObjectScorer
from ufo.score.tasks.referred import MaskScorer, ReasoningScorer
from ufo.score.tasks.texts import TextScorer
from ufo.tasks import kind_of
from ufo.tasks.base import Task
from ufo.types import Batch, Prediction, Target, given


def number_of_boxes(target: Target) -> list[str]:
    return [str(len(given(target.boxes, "boxes")))]


@dataclass(kw_only=True)
class HowMany(Task):
    """Without a name no test but those of `new_task` meets it."""

    kind: ClassVar[Kind] = Text(truth_of=number_of_boxes)
    needs: ClassVar[frozenset[str]] = frozenset({"boxes"})


@pytest.fixture
def new_task(monkeypatch):
    monkeypatch.setattr(HowMany, "name", "how_many", raising=False)
    return "how_many"


def records(texts):
    """What `ufo predict --json` writes of a text about each image."""
    kind, images = HowMany.kind, coco()["images"]
    infos = [ImageInfo(image["id"], image["file_name"], SIZE) for image in images]
    pairs = zip(infos, texts, strict=True)
    return [r for info, text in pairs for r in kind.records(Prediction("how_many", text=text), info, SIZE)]


def scored(tmp_path, found, *words):
    truth, out = write(tmp_path / "truth.json", coco()), tmp_path / "out.json"
    path = write(tmp_path / "found.json", found)
    code = main(
        ["score", str(path), "--against", str(truth), "--task", "how_many", "--json", str(out), *words]
    )
    return code, json.loads(out.read_text()) if out.exists() else {}


def validated(texts):
    """What the metric of the kind gives for the same answers."""
    content, metric = coco(), AnswerScores()
    targets = []
    for image in content["images"]:
        boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"]]
        targets.append(Target(image["id"], SIZE, boxes=torch.tensor(boxes).reshape(-1, 4)))
    images = torch.zeros(len(targets), 3, 8, 8, dtype=torch.uint8)
    batch = Batch("how_many", "x/how_many", (), images, [""] * len(targets), targets=targets)
    metric.collect([Prediction("how_many", text=text) for text in texts], batch)
    return {name.rpartition("/")[2]: value for name, value in metric.compute().items()}


def test_the_numbers_are_those_of_a_validation(tmp_path, new_task, capsys):
    texts = ["6", " six ", "7", "none", "0"]  # five images, the last without an object
    code, result = scored(tmp_path, records(texts), "--resamples", "20")
    assert code == 0 and "how_many" in scored_tasks()
    values = {name: entry["value"] for name, entry in result["metrics"].items()}
    assert values == pytest.approx(validated(texts))
    assert values["accuracy"] == 3 / 5 and values["exact_match"] == 2 / 5
    assert "| accuracy " in capsys.readouterr().out


def test_a_missing_answer_is_wrong_and_named(tmp_path, new_task, capsys):
    code, result = scored(tmp_path, records(["6"] * 4 + ["0"])[1:])
    assert code == 0 and result["metrics"]["accuracy"]["value"] == 4 / 5 and result["missing"] == 1
    assert "1 of 5 images have no prediction" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: r[0].pop("how_many"), "has no text"),
        (lambda r: r.append(r[0]), "is another answer about image 4"),
    ],
)
def test_odd_records_end_in_one_sentence(tmp_path, new_task, capsys, change, expected):
    found = records(["6"] * 5)
    change(found)
    assert scored(tmp_path, found)[0] == 1
    assert expected in capsys.readouterr().err


def test_the_field_may_be_the_usual_one(tmp_path, new_task):
    found = [{"image_id": r["image_id"], "answer": 6} for r in records(["6"] * 5)]
    assert scored(tmp_path, found)[1]["metrics"]["accuracy"]["value"] == 4 / 5


def test_a_scorer_names_a_kind_or_a_task_as_a_metric_does(new_task):
    assert scorer_of("detection") is ObjectScorer and scorer_of(new_task) is TextScorer
    assert scorer_of("reasoning_segmentation") is ReasoningScorer  # named, though its kind has one, too
    assert scorer_of("referring_segmentation") is MaskScorer
    for task in scored_tasks():
        scorer = scorer_of(task)
        assert scorer in SCORERS and bool(scorer.task) != (scorer.kind is not None)
        assert scorer.task == task or scorer.kind.is_like(kind_of(task))
    refined = [s for s in SCORERS if s.kind is not None and s.kind.is_like(Objects())]
    assert refined == [ObjectScorer]


def test_tasks_whose_annotations_are_not_read_are_refused(tmp_path, capsys):
    truth = write(tmp_path / "t.json", coco())
    assert "caption" not in scored_tasks()
    assert main(["score", str(truth), "--against", str(truth), "--task", "caption"]) == 1
    assert "--task caption is not scored from files" in capsys.readouterr().err
    assert main(["score", str(truth), "--against", str(truth), "--task", "detektion"]) == 1
    assert "did you mean 'detection'?" in capsys.readouterr().err
