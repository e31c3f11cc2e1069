"""AP of files equals pycocotools on the same files, and so does AP of a resample."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from score_files import SIZE, coco, detections, polygon, write

from ufo.score.ap_resampling import resampled_ap
from ufo.score.evaluate import Declared, Resampling, score
from ufo.score.tasks import Rules, make_scorer
from ufo.score.truth import Wanted, read_truth
from ufo.tasks import kind_of

NAMES = ("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large")


def by_pycocotools(truth: Path, found: Path, kind: str = "bbox") -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO(str(truth))
        evaluator = COCOeval(annotations, annotations.loadRes(str(found)), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def scored(truth: Path, found: Path, task: str = "detection", resamples: int = 0):
    return score(found, read_truth(truth, Wanted()), task, Declared(), Resampling(resamples))


@pytest.mark.parametrize("seed", [0, 1])
def test_boxes_equal_pycocotools_to_the_last_digit(tmp_path, seed):
    content = coco(seed=seed)
    truth = write(tmp_path / "truth.json", content)
    found = write(tmp_path / "found.json", detections(content, seed))
    expected = by_pycocotools(truth, found).stats[:6].tolist()
    values = scored(truth, found).values
    assert [values[name] if values[name] == values[name] else -1 for name in NAMES] == expected
    assert 0.05 < values["mAP"] < 0.95


def test_masks_equal_pycocotools_to_the_last_digit(tmp_path):
    content = coco()
    results = []
    for record in detections(content):
        box = record.pop("bbox")
        rle = coco_mask.merge(coco_mask.frPyObjects(polygon(box), *SIZE))
        results.append({**record, "segmentation": {"size": list(SIZE), "counts": rle["counts"].decode()}})
    truth, found = write(tmp_path / "truth.json", content), write(tmp_path / "found.json", results)
    expected = by_pycocotools(truth, found, "segm").stats[:6].tolist()
    values = scored(truth, found, "instance_segmentation").values
    assert [values[name] if values[name] == values[name] else -1 for name in NAMES] == expected


def test_tables_of_classes_and_sizes(tmp_path):
    content = coco()
    truth, found = (write(tmp_path / "t.json", content), write(tmp_path / "f.json", detections(content)))
    result, evaluator = scored(truth, found), by_pycocotools(truth, found)
    for label, name in enumerate(("cat", "red dog")):
        assert result.tables["class"][name]["mAP"] == evaluator.eval["precision"][:, :, label, 0, 2].mean()
        objects = [a for a in content["annotations"] if a["category_id"] == (3, 7)[label]]
        assert result.tables["class"][name]["number"] == sum(not a["iscrowd"] for a in objects)
    assert result.tables["size"]["all"]["mAP"] == result.values["mAP"]


def test_a_resample_equals_cocoeval_on_the_images_it_holds(tmp_path):
    content = coco(images=6)
    found = detections(content)
    truth = read_truth(write(tmp_path / "t.json", content), Wanted())
    weights = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 1, 3, 0, 1], [0, 0, 4, 0, 1, 2]])
    scorer = make_scorer("detection", truth, Rules(tmp_path, kind_of("detection")))
    path = write(tmp_path / "f.json", found)
    score_into(scorer, truth, path)
    values = resampled_ap(scorer._evaluated, torch.from_numpy(weights).double())
    for row, counts in enumerate(weights):
        copies, results = repeated(content, found, counts)
        one, other = write(tmp_path / f"t{row}.json", copies), write(tmp_path / f"f{row}.json", results)
        expected = by_pycocotools(one, other).stats[:6]
        for name, value in zip(NAMES, expected, strict=True):
            resample = float(values[name][row])
            assert (value == -1 and np.isnan(resample)) or resample == pytest.approx(value, abs=1e-12)


def score_into(scorer, truth, path):
    from ufo.score.convention import Convention
    from ufo.score.joining import join
    from ufo.score.predictions import read_predictions

    scorer.rules = Rules(path.parent, kind_of("detection"), convention=Convention("xywh"))
    joined = join(truth, read_predictions(path, None), path)
    for example, answers in zip(truth.examples, joined.answers, strict=True):
        scorer.add(example, answers)


def repeated(content, found, counts):
    """Each image as often as a resample holds it."""
    images, annotations, results = [], [], []
    for image, count in zip(content["images"], counts, strict=True):
        for copy in range(count):
            number = 1000 * (copy + 1) + image["id"]
            images.append({**image, "id": number})
            for part, records in ((annotations, content["annotations"]), (results, found)):
                part += [{**r, "image_id": number} for r in records if r["image_id"] == image["id"]]
    annotations = [{**a, "id": i + 1} for i, a in enumerate(annotations)]
    return {**content, "images": images, "annotations": annotations}, results


def test_intervals_hold_the_value_and_shrink_with_the_data(tmp_path):
    widths = []
    for images in (8, 64):
        content = coco(images=images)
        truth = write(tmp_path / f"t{images}.json", content)
        result = scored(truth, write(tmp_path / f"f{images}.json", detections(content)), resamples=200)
        found = result.intervals["mAP"]
        assert found.low < result.values["mAP"] < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 1.7


def test_unknown_classes_and_missing_scores_are_told(tmp_path):
    content = coco()
    found = detections(content)
    found += [{"image_id": 4, "category_id": 99, "bbox": [1, 1, 9, 9]}]
    truth = write(tmp_path / "t.json", content)
    result = scored(truth, write(tmp_path / "f.json", found))
    assert result.problems["object of a class that the annotations do not have"] == 1
    assert any("99 (1)" in remark for remark in result.remarks)
    assert any("1 objects state no score" in remark for remark in result.remarks)
    without = scored(truth, write(tmp_path / "g.json", found[:-1]))
    assert without.values["mAP"] == result.values["mAP"]
