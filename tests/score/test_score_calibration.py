"""ECE and Brier score of scores in files, and the bins of a reliability diagram."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from score_files import SIZE, coco, detections, refcoco, refs, write
from torchmetrics.functional.classification import binary_calibration_error

from ufo.cli.main import main
from ufo.draw.reliability import MARGIN, SIDE, reliability_diagram
from ufo.metrics.calibration import BINS, calibration, calibration_sums
from ufo.score import report
from ufo.score.evaluate import Declared, Resampling, score
from ufo.score.truth import Wanted, read_truth


def random_scores(count: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(count, generator=generator, dtype=torch.float64)
    return scores, torch.rand(count, generator=generator) < scores**2


def test_ece_equals_torchmetrics_and_brier_a_loop():
    scores, right = random_scores()
    values = calibration(calibration_sums(scores, right))
    assert float(values["ECE"]) == pytest.approx(
        float(binary_calibration_error(scores, right.long(), n_bins=BINS, norm="l1")), abs=1e-6
    )
    errors = [(s - r) ** 2 for s, r in zip(scores.tolist(), right.tolist(), strict=True)]
    assert float(values["Brier"]) == pytest.approx(sum(errors) / len(errors), abs=1e-12)


def test_sums_of_parts_are_those_of_the_whole():
    scores, right = random_scores()
    parts = torch.stack(
        [calibration_sums(s, r) for s, r in zip(scores.split(70), right.split(70), strict=True)]
    )
    whole = calibration_sums(scores, right)
    assert torch.allclose(parts.sum(0), whole, atol=1e-12)
    weights = torch.tensor([[1.0] * len(parts), [2.0] * len(parts)], dtype=torch.float64)
    resampled = calibration((weights @ parts.flatten(1)).unflatten(1, parts.shape[1:]))
    assert resampled["ECE"].tolist() == pytest.approx([float(calibration(whole)["ECE"])] * 2)


def grounding(tmp_path, certain):
    content = coco(images=8)
    boxes = {a["id"]: a["bbox"] for a in content["annotations"]}
    records = []
    for number, ref in enumerate(refs(content, 1)):
        x, y, w, h = boxes[ref["ann_id"]]
        right = number % 4 != 0
        box = [x, y, w, h] if right else [x + w, y, w, h]
        records.append({"sent_id": ref["sentences"][0]["sent_id"], "bbox": box, "score": certain(right)})
    folder = refcoco(tmp_path / "refcoco", content)
    write(folder / "refs(unc).p", refs(content, 1))
    path = write(tmp_path / "found.jsonl", records)
    truth = read_truth(folder, Wanted(split="val"))
    return score(path, truth, "grounding", Declared(boxes="xywh"), Resampling(50))


def test_scores_that_are_right_three_times_out_of_four(tmp_path):
    result = grounding(tmp_path, lambda right: 0.75)
    share = result.values["Acc@0.5"]
    assert result.values["ECE"] == pytest.approx(abs(share - 0.75), abs=1e-12)
    (row,) = result.tables["score"].values()
    assert row["mean score"] == 0.75 and row["right"] == share and row["number"] == result.examples
    assert result.intervals["Brier"].low <= result.values["Brier"] <= result.intervals["Brier"].high


def test_perfect_and_useless_scores(tmp_path):
    assert grounding(tmp_path, float).values["Brier"] == 0
    assert grounding(tmp_path, lambda right: 1.0).values["ECE"] > 0.2


def test_logits_are_no_probabilities(tmp_path):
    result = grounding(tmp_path, lambda right: 3.5)
    assert "ECE" not in result.values and any("no probabilities" in remark for remark in result.remarks)


def test_detections_are_right_if_they_are_matched(tmp_path):
    content = coco()
    truth = write(tmp_path / "t.json", {**content, "annotations": content["annotations"][:1]})
    x, y, w, h = content["annotations"][0]["bbox"]
    found = [
        {"image_id": 4, "category_id": 3, "bbox": [x, y, w, h], "score": 0.9},
        {"image_id": 4, "category_id": 3, "bbox": [x, y, w, h], "score": 0.8},
        {"image_id": 14, "category_id": 7, "bbox": [1, 1, 20, 20], "score": 0.3},
    ]
    result = score(
        write(tmp_path / "f.json", found), read_truth(truth, Wanted()), "detection", Declared(), Resampling(0)
    )
    assert result.values["Brier"] == pytest.approx((0.1**2 + 0.8**2 + 0.3**2) / 3)
    assert sum(row["number"] for row in result.tables["score"].values()) == 3


def test_detections_in_words_and_their_table_for_wandb(tmp_path, monkeypatch):
    """Florence's answers about whole images; W&B gets the same numbers."""
    content = coco()
    names = {c["id"]: c["name"] for c in content["categories"]}
    records = []
    for image in content["images"]:
        parts = []
        for a in content["annotations"]:
            if a["image_id"] == image["id"] and not a["iscrowd"]:
                x, y, w, h = a["bbox"]
                corners = np.array([x, y, x + w, y + h]) / [*SIZE[::-1], *SIZE[::-1]]
                bins = (corners * 1000).astype(int).clip(0, 999)
                parts.append(names[a["category_id"]] + "".join(f"<loc_{b}>" for b in bins))
        records.append({"image": image["file_name"], "answer": "".join(parts)})
    path = write(tmp_path / "found.jsonl", records)
    truth = read_truth(write(tmp_path / "t.json", content), Wanted())
    result = score(path, truth, "detection", Declared(answers="florence"), Resampling(20))
    assert result.values["mAP50"] == pytest.approx(1) and "ECE" not in result.values
    assert any("state no score" in remark for remark in result.remarks)

    logged, summary = {}, {}

    class Run:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def log(self, values):
            logged.update(values)

    Run.summary = summary
    monkeypatch.setattr("wandb.init", lambda **_: Run())
    monkeypatch.setattr("wandb.Table", lambda columns, data: (columns, data))
    report.log_to_wandb(result, "detection", "trust")
    assert summary["mAP50"] == result.values["mAP50"] and set(logged) == {"metrics", "class", "size"}
    assert ["mAP50", result.values["mAP50"], *vars(result.intervals["mAP50"]).values()] in logged["metrics"][
        1
    ]


def test_a_random_file_is_no_better_than_chance(tmp_path):
    content = coco(images=20)
    truth = read_truth(write(tmp_path / "t.json", content), Wanted())
    found = detections(content, jitter=2.0)
    result = score(write(tmp_path / "f.json", found), truth, "detection", Declared(), Resampling(0))
    assert result.values["ECE"] > 0.2


def test_a_diagram_has_its_points_where_they_belong(tmp_path):
    rows = {
        "0.20 to 0.27": {"number": 10.0, "mean score": 0.25, "right": 0.75},
        "0.73 to 0.80": {"number": 40.0, "mean score": 0.75, "right": 0.75},
    }
    picture = reliability_diagram(rows, "title")
    for row in rows.values():
        at = MARGIN + int(row["mean score"] * SIDE), MARGIN + int((1 - row["right"]) * SIDE)
        assert picture.getpixel(at) == (194, 59, 34)
    # bars of predictions: full height of a third for the most frequent, a quarter of it for the other
    for x, heights in ((0.235, (0.07, 0.1)), (0.765, (0.3, 0.36))):
        inside, above = (
            picture.getpixel((MARGIN + int(x * SIDE), MARGIN + int((1 - y) * SIDE))) for y in heights
        )
        assert inside == (198, 212, 232) and above == (255, 255, 255)


def test_the_command_draws_it_or_says_why_not(tmp_path, capsys):
    content = coco()
    truth, found = write(tmp_path / "t.json", content), detections(content)
    words = ["--against", str(truth), "--task", "detection", "--resamples", "0", "--diagram"]
    path = str(write(tmp_path / "f.json", found))
    assert main(["score", path, *words, str(tmp_path / "d.png")]) == 0
    with PIL.Image.open(tmp_path / "d.png") as drawn:
        assert drawn.size == (SIDE + 2 * MARGIN, SIDE + 2 * MARGIN)
    capsys.readouterr()
    assert main(["score", path, *words, str(tmp_path / "d.txt")]) == 1
    assert "pictures are .png" in capsys.readouterr().err
    bare = str(write(tmp_path / "g.json", [{k: v for k, v in r.items() if k != "score"} for r in found]))
    assert main(["score", bare, *words, str(tmp_path / "e.png")]) == 1
    assert "state none" in capsys.readouterr().err and not (tmp_path / "e.png").exists()
