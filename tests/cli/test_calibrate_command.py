"""`ufo calibrate`: what it refuses, and the model that it writes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from cli_model import tiny_model
from squares import write_squares

from ufo.checkpoints.load import load, save
from ufo.cli import calibrate
from ufo.cli.calibrate import _config
from ufo.command_line import searched
from ufo.data.digits import generate
from ufo.inference.asking import RequestError

POINTS = [[0.0, 0.0], [0.5, 0.9], [1.0, 1.0]]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory) -> str:
    model = tiny_model()
    task = model.tasks["detection"]
    task.calibration = {"score": "first", "points": POINTS}
    task.constrained, task.top_tokens = True, 2  # whatever the random weights say, classes are named
    return str(save(model, tmp_path_factory.mktemp("calibrated") / "model"))


def test_a_map_is_a_part_of_the_model(calibrated, images, tmp_path):
    model = load(calibrated)
    assert model.tasks["detection"].calibration == {"score": "first", "points": POINTS}
    found = model.predict(images / "1.jpg", "detection")
    model.tasks["detection"].calibration = None
    plain = model.predict(images / "1.jpg", "detection")
    assert len(found) and torch.equal(found.boxes, plain.boxes)
    assert not torch.equal(found.scores, plain.scores)
    expected = [v * 1.8 if v < 0.5 else 0.9 + (v - 0.5) * 0.2 for v in plain.scores.tolist()]
    assert found.scores.tolist() == pytest.approx(expected, abs=1e-5)


def test_threshold_and_json_see_the_final_score(ufo, calibrated, images, tmp_path):
    model = load(calibrated)
    scores = model.predict(images / "1.jpg", "detection").scores
    cut = float(scores.median())
    out = tmp_path / "found.json"
    options = ("--task", "detection", "--json", out, "--score", cut)
    assert ufo("predict", images / "1.jpg", "--ckpt", calibrated, *options).code == 0
    written = [record["score"] for record in json.loads(out.read_text())]
    assert len(written) == int((scores >= cut).sum())
    assert written == pytest.approx([round(s, 5) for s in scores.tolist() if s >= cut], abs=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing says on which data"),
        (["birds"], "not an override"),
        (["experiment=digits", "--config-dir", "nowhere"], "not a folder"),
        (["+source=there_is_none"], "there_is_none"),
        (["experimnt=digits"], "did you mean 'experiment'?"),
        (["source=digits_detection"], "add one with +source=digits_detection"),
        (["+source=digits_detection"], "prepare.digits.out, which nothing sets"),
        (["experiment=digits", "trainer.limit_val_batches=silly"], "trainer.limit_val_batches must be"),
        (["experiment=digits", "sources.detection.val_batch_size=silly"], "val_batch_size must be"),
        (["+source=digits_caption", "prepare.digits.out=x"], "scores objects"),
    ],
)
def test_mistakes_are_one_sentence(ufo, ckpt, tmp_path, words, said):
    result = ufo("calibrate", ckpt, *words, "--out", tmp_path / "new")
    assert result.code == 1 and said in result.err[-1] and result.err[-1].startswith("error: ")
    assert not (tmp_path / "new").exists()


def test_what_is_there_is_never_replaced(ufo, ckpt, tmp_path):
    (tmp_path / "new").mkdir()
    result = ufo("calibrate", ckpt, "experiment=digits", "--out", tmp_path / "new")
    assert result.code == 1 and "exists" in result.err[-1]


def test_what_cannot_be_written_is_said_before_anything_is_predicted(ufo, ckpt, tmp_path):
    (tmp_path / "file").write_text("mine")
    result = ufo("calibrate", ckpt, "experiment=digits", "--out", tmp_path / "file" / "new")
    assert result.code == 1 and "is a file; choose another name" in result.err[-1]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_model_that_is_not_there(ufo, tmp_path):
    result = ufo("calibrate", tmp_path / "none", "--out", tmp_path / "new")
    assert result.code == 1 and "no checkpoint at" in result.err[-1]


def test_a_map_for_another_score_is_refused():
    model = tiny_model()
    model.tasks["detection"].calibration = {"score": "quality", "points": POINTS}
    from ufo.head.strategy import check_settings

    with pytest.raises(ValueError, match="calibrated for score=quality") as error:
        check_settings(model.tasks["detection"])
    assert not isinstance(error.value, RequestError)


def columns(right: int, wrong: int) -> dict[str, SimpleNamespace]:
    """What `_predict` gives of one source: so many objects that are right, and that are wrong."""
    truth = torch.arange(right + wrong) < right
    scores = torch.linspace(0.9, 0.1, right + wrong, dtype=torch.float64)
    return {"first": SimpleNamespace(scores=scores, right=truth, images=torch.arange(right + wrong) % 7)}


@pytest.mark.parametrize(
    ("right", "wrong", "said"), [(200, 19, "19 of 219"), (3, 90, "3 of 93"), (0, 0, "no object")]
)
def test_a_task_with_too_few_is_left_out_and_the_others_are_calibrated(
    ufo, calibrated, tmp_path, monkeypatch, right, wrong, said
):
    found = {("detection", "d"): columns(right, wrong), ("grounding", "g"): columns(20, 20)}
    monkeypatch.setattr(calibrate, "_predict", lambda *_: found)
    words = ("calibrate", calibrated, "experiment=digits", "sources.instance_segmentation=null", "--out")
    answer = ufo(*words, tmp_path / "new")
    assert answer.code == 0, answer.err
    (line,) = [line for line in answer.out if line.startswith("left out, and as it was before: detection: ")]
    assert said in line
    tasks = load(tmp_path / "new").tasks
    assert tasks["grounding"].calibration and tasks["detection"].calibration["points"] == POINTS
    found["grounding", "g"] = columns(19, 20)
    answer = ufo(*words, tmp_path / "none")
    assert (
        answer.code == 1
        and said in answer.err[-1]
        and "grounding: 19 of 39 objects are right" in answer.err[-1]
    )
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_shipped_model_on_a_few_scenes(ufo, tmp_path):
    generate(tmp_path / "scenes", train=0, val=12, seed=5, progress=False)
    data = [
        *("experiment=digits", f"prepare.digits.out={tmp_path / 'scenes'}", "prepare.digits.train=0"),
        *("prepare.digits.val=12", "prepare.digits.seed=5", "num_workers=0", "trainer.accelerator=cpu"),
        *("sources.grounding=null", "sources.instance_segmentation=null"),
    ]
    shipped = "weights/ufo_vit_tiny_digits"
    result = ufo("calibrate", shipped, *data, "--score", "quality", "--out", tmp_path / "new")
    assert result.code == 0, result.err
    model = load(tmp_path / "new")
    task = model.tasks["detection"]
    assert task.score == task.calibration["score"] == "quality"
    assert model.tasks["instance_segmentation"].calibration is None, "its source was left out"
    image = next((tmp_path / "scenes" / "val" / "images").iterdir())
    found = model.predict(image, "detection")
    assert (found.scores.diff() <= 0).all()
    few = ufo("calibrate", shipped, *data, "+trainer.limit_val_batches=0", "--out", tmp_path / "few")
    assert few.code == 1 and "held-out data" in few.err[-1]


SOURCE = """# @package sources.squares
defaults: [/transform@transform: plain]
name: squares/detection
task: detection
dataset:
  images: {folder}/there_is_none
  train: {{_target_: {coco}, _partial_: true, images: "${{..images}}", annotations: none.json, train: true}}
  val: {{_target_: {coco}, _partial_: true, images: {folder}/pictures, annotations: {folder}/squares.json}}
"""


def test_what_only_the_training_data_refer_to_is_no_mistake(tmp_path):
    """The training data themselves are not needed and may be gone."""
    write_squares(tmp_path / "pictures", tmp_path / "squares.json", 2)
    (tmp_path / "mine" / "source").mkdir(parents=True)
    text = SOURCE.format(folder=tmp_path, coco="ufo.data.datasets.CocoDataset")
    (tmp_path / "mine" / "source" / "squares.yaml").write_text(text)
    own = ["mixture=own", "+source=squares", searched(tmp_path / "mine")]
    cfg = _config(own, tiny_model(), "model")
    assert cfg.sources.squares.dataset.train is None and cfg.sources.squares.dataset.val


def test_no_training_scenes_are_drawn():
    cfg = _config(["experiment=digits"], tiny_model(), "model")
    assert cfg.prepare.digits.train == 0 and cfg.prepare.digits.val == 500
