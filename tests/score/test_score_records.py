"""A kind of its own that reads its records back is scored from files by what it says of each answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from score_files import SIZE, coco, write

from ufo.cli.main import main
from ufo.kinds import ImageInfo, Kind, Referred
from ufo.score.tasks import scorer_of
from ufo.score.tasks.records import RecordScorer
from ufo.tasks.base import Task
from ufo.types import Prediction, Target, given


@dataclass(frozen=True, kw_only=True)
class Pile(Referred):
    """How high a pile of all objects would be: any prediction whose first score is their number is right."""

    def records(
        self, prediction: Prediction, image: ImageInfo, predicted_size: tuple[int, int], text: str = ""
    ) -> list[dict[str, Any]]:
        return [{**image.head, "pile": float(given(prediction.scores, "scores")[0])}]

    def reread(self, record: dict[str, Any]) -> dict[str, Any]:
        return {"scores": torch.tensor([float(record["pile"])])}

    def score(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> float:
        return float(given(prediction.scores, "scores")[0] == len(given(target.boxes, "boxes")))


@dataclass(kw_only=True)
class HowHigh(Task):
    """Without a name no test but those of `new_task` meets it."""

    kind: ClassVar[Kind] = Pile()
    needs: ClassVar[frozenset[str]] = frozenset({"boxes"})


@pytest.fixture
def new_task(monkeypatch):
    monkeypatch.setattr(HowHigh, "name", "how_high", raising=False)
    return "how_high"


def records(piles: list[int]) -> list[dict[str, Any]]:
    """What `ufo predict --json` writes about each image."""
    infos = [ImageInfo(image["id"], image["file_name"], SIZE) for image in coco()["images"]]
    found = [Prediction("how_high", scores=torch.tensor([float(pile)])) for pile in piles]
    return [r for info, one in zip(infos, found, strict=True) for r in Pile().records(one, info, SIZE)]


def scored(tmp_path, found):
    truth, out = write(tmp_path / "truth.json", coco()), tmp_path / "out.json"
    path = write(tmp_path / "found.json", found)
    code = main(["score", str(path), "--against", str(truth), "--task", "how_high", "--json", str(out)])
    return code, json.loads(out.read_text()) if out.exists() else {}


def test_the_mean_of_the_kinds_own_score(tmp_path, new_task):
    assert scorer_of(new_task) is RecordScorer and scorer_of("grounding") is not RecordScorer
    code, result = scored(tmp_path, records([6, 6, 5, 6, 0]))  # five images, the last without an object
    assert code == 0 and result["metrics"]["mean_score"]["value"] == pytest.approx(4 / 5)
    code, result = scored(tmp_path, records([6, 6, 5, 6, 0])[1:])
    assert result["metrics"]["mean_score"]["value"] == pytest.approx(3 / 5) and result["missing"] == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: r[1].pop("pile"), "record 2 is no record of this task (KeyError: 'pile')"),
        (lambda r: r[1].update(pile="high"), "record 2 is no record of this task (ValueError"),
        (lambda r: r.append(r[0]), "is another answer about image 4"),
    ],
)
def test_odd_records_end_in_one_sentence(tmp_path, new_task, capsys, change, expected):
    found = records([6] * 5)
    change(found)
    assert scored(tmp_path, found)[0] == 1
    error = capsys.readouterr().err
    assert expected in error and len(error.strip().splitlines()) == 1
