"""Box and mask AP of the callbacks against COCOeval on a real annotation file, if it is there."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
import torch
from metric_examples import metric_for
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.ops import box_convert

from ufo.ops.masks import rle_decode, rle_encode
from ufo.types import Batch, Prediction, Target

FILE = Path(__file__).parents[3] / "shared/data/coco_instances_sample/annotations.json"
NAMES = ("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large")


def load_target(coco: COCO, image_id: int) -> Target:
    info, truth = coco.imgs[image_id], coco.imgToAnns[image_id]
    boxes = torch.tensor([a["bbox"] for a in truth], dtype=torch.float64).reshape(-1, 4)
    rles = [coco.annToRLE(a) for a in truth]
    return Target(
        id=image_id,
        size=(info["height"], info["width"]),
        boxes=box_convert(boxes, "xywh", "xyxy").float(),
        labels=torch.tensor([sorted(coco.cats).index(a["category_id"]) for a in truth]).long(),
        masks=[{"size": rle["size"], "counts": rle["counts"].decode()} for rle in rles],
        iscrowd=torch.tensor([a["iscrowd"] for a in truth]).bool(),
        area=torch.tensor([a["area"] for a in truth]),
    )


def predict(task: str, target: Target, g: torch.Generator) -> Prediction:
    """Every object twice, once nearly and once badly, some under another name."""
    n = len(target.labels)
    spread = torch.tensor([0.02, 0.2]).repeat_interleave(n)[:, None]
    boxes, labels = target.boxes.repeat(2, 1), target.labels.repeat(2)
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    renamed = torch.rand(2 * n, generator=g) < 0.1
    masks = rle_decode(target.masks, target.size).bool().repeat(2, 1, 1)
    lost = torch.rand(masks.shape, generator=g) < 2 * spread[..., None]
    return Prediction(
        task,
        boxes=boxes + spread * size * torch.randn(2 * n, 4, generator=g),
        scores=torch.rand(2 * n, generator=g),
        labels=torch.where(renamed, (labels + 1) % 80, labels),
        masks=masks & ~lost,
    )


def as_results(coco: COCO, kind: str, target: Target, prediction: Prediction) -> list[dict]:
    """The prediction as a COCO results file would have it."""
    shapes: list | Tensor = rle_encode(prediction.masks)
    if kind == "bbox":
        shapes = box_convert(prediction.boxes.double(), "xyxy", "xywh").tolist()
    key = "bbox" if kind == "bbox" else "segmentation"
    ids = sorted(coco.cats)
    return [
        {"image_id": target.id, "category_id": ids[label], "score": score, key: shape}
        for label, score, shape in zip(
            prediction.labels.tolist(), prediction.scores.tolist(), shapes, strict=True
        )
    ]


@pytest.mark.skipif(not FILE.exists(), reason="the shared folder of COCO samples is not there")
@pytest.mark.parametrize(("task", "kind"), [("detection", "bbox"), ("instance_segmentation", "segm")])
def test_values__equal_cocoeval_on_real_annotations(task: str, kind: str):
    g, results, callback = torch.Generator().manual_seed(0), [], metric_for(task)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(FILE))
    names = tuple(coco.cats[i]["name"] for i in sorted(coco.cats))
    for image_id in sorted(coco.imgs):
        target = load_target(coco, image_id)
        prediction = predict(task, target, g)
        images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        callback.collect([prediction], Batch(task, "coco/x", names, images, [""], targets=[target]))
        results += as_results(coco, kind, target, prediction)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(coco, coco.loadRes(results), kind)
        evaluator.params.maxDets = [100, 300, 1000]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    values = callback.compute()
    assert any(a["iscrowd"] for a in coco.anns.values())
    assert 0.1 < values["val/coco/x/mAP"] < 0.95
    expected = [None if value == -1 else value for value in evaluator.stats[:6].tolist()]
    assert [values[f"val/coco/x/{name}"] for name in NAMES] == pytest.approx(expected, abs=1e-12)
