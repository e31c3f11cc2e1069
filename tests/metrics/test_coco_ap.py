"""CocoAP against COCOeval run by hand on the same objects."""

import contextlib
import io

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision

from ufo.metrics.coco_ap import CocoAP

CLASSES = ("cat", "dog", "cow", "never annotated")
NAMES = ("mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large")
H, W = 240, 320


def random_images(iou_type: str, seed: int = 0) -> tuple[list[dict], list[dict], int]:
    """COCO-style annotations and detections; coordinates are multiples of 1/4, exact in float32.

    Image 0 has no annotations, image 1 no detections, image 2 neither, image 3 two crowd
    regions and more than 100 detections of one class.
    """
    rng = np.random.default_rng(seed)

    def shape(x: float, y: float, w: float, h: float) -> dict:
        if iou_type == "bbox":
            return {"bbox": [x, y, w, h]}
        mask = np.zeros((H, W), np.uint8, order="F")
        mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
        mask[int(y) : int(y + h / 3), int(x) : int(x + w / 3)] = 0  # not just a box
        return {"segmentation": coco_mask.encode(mask)}

    def box() -> np.ndarray:
        size = rng.choice([12, 24, 60, 120]) * rng.uniform(0.6, 1.4, 2)
        corner = rng.uniform(0, [W - 170, H - 170])
        return np.round(np.array([*corner, *size]) * 4) / 4

    annotations, detections = [], []
    for image in range(8):
        for n in range(0 if image in (0, 2) else 12 if image == 3 else 6):
            b, label = box(), int(rng.integers(3))
            annotations.append(
                {
                    **shape(*b),
                    "image_id": image,
                    "category_id": label,
                    "id": len(annotations) + 1,
                    "iscrowd": int(image == 3 and n < 2),
                    # a file's areas are those of polygons, smaller than the box
                    "area": float(np.float32(b[2] * b[3] * rng.uniform(0.4, 1))) if n else 0.0,
                }
            )
            for _ in range(0 if image == 1 else 15 if image == 3 else 2):
                shift = np.round(rng.normal(0, 0.08, 4) * b[[2, 3, 2, 3]] * 4) / 4
                near = np.maximum(b + shift, [0, 0, 4, 4])
                detections.append((image, label if rng.random() < 0.8 else 3, near))
        detections += [(image, 0, box()) for _ in range({0: 5, 3: 150}.get(image, 0))]
    results = [
        {**shape(*b), "image_id": i, "category_id": c, "score": float(np.float32(rng.random()))}
        for i, c, b in detections
    ]
    return annotations, results, 8


def by_hand(iou_type: str, annotations: list, results: list, images: int, max_dets: list) -> list:
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "height": H, "width": W} for i in range(images)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": [dict(a) for a in annotations],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes([dict(r) for r in results]), iou_type)
        evaluator.params.maxDets = max_dets
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats[:6].tolist()


def shapes_of(iou_type: str, objects: list[dict]) -> torch.Tensor | list[dict]:
    if iou_type == "segm":
        return [o["segmentation"] for o in objects]
    boxes = torch.tensor([o["bbox"] for o in objects]).reshape(-1, 4)
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


def arguments(iou_type: str, annotations: list, results: list, image: int) -> tuple:
    found = [r for r in results if r["image_id"] == image]
    truth = [a for a in annotations if a["image_id"] == image]
    return (
        shapes_of(iou_type, found),
        torch.tensor([r["score"] for r in found]),
        torch.tensor([r["category_id"] for r in found], dtype=torch.int64),
        shapes_of(iou_type, truth),
        torch.tensor([a["category_id"] for a in truth], dtype=torch.int64),
        torch.tensor([a["iscrowd"] for a in truth], dtype=torch.bool),
        torch.tensor([a["area"] for a in truth]),
    )


def measured(metric: CocoAP) -> list[float]:
    values = metric.compute()
    return [float(values[name]) for name in NAMES]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_values__equal_cocoeval(iou_type: str, seed: int):
    annotations, results, images = random_images(iou_type, seed)
    metric = CocoAP(iou_type, CLASSES)
    for image in range(images):
        metric.update(*arguments(iou_type, annotations, results, image))
    expected = by_hand(iou_type, annotations, results, images, [100, 300, 1000])
    assert measured(metric) == expected
    assert all(0 < value < 1 for value in expected)
    # the data can tell the reference's numbers of detections from COCO's usual ones
    assert by_hand(iou_type, annotations, results, images, [1, 10, 100]) != expected


def test_boxes__equal_torchmetrics_with_exact_thresholds():
    annotations, results, images = random_images("bbox")
    annotations = [{**a, "area": a["area"] or 1.0} for a in annotations]  # torchmetrics replaces 0
    metric = CocoAP("bbox", CLASSES)
    other = MeanAveragePrecision(
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
        max_detection_thresholds=[100, 300, 1000],
    )
    for image in range(images):
        boxes, scores, labels, truth, truth_labels, crowd, area = arguments(
            "bbox", annotations, results, image
        )
        metric.update(boxes, scores, labels, truth, truth_labels, crowd, area)
        other.update(
            [{"boxes": boxes, "scores": scores, "labels": labels}],
            [{"boxes": truth, "labels": truth_labels, "iscrowd": crowd.int(), "area": area}],
        )
    theirs = other.compute()
    names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
    assert measured(metric) == pytest.approx([float(theirs[name]) for name in names], abs=1e-6)


def test_masks__false_positives_on_an_image_without_objects_count():
    """torchmetrics leaves such images out when it compares masks."""
    mask = np.zeros((20, 20), np.uint8, order="F")
    mask[2:12, 2:12] = 1
    rle, label = coco_mask.encode(mask), torch.tensor([0])
    nothing = torch.zeros(0, dtype=torch.int64)
    metric = CocoAP("segm", ("thing",))
    metric.update([rle], torch.tensor([0.5]), label, [rle], label)
    assert float(metric.compute()["mAP"]) == pytest.approx(1)
    metric.update([rle] * 3, torch.tensor([0.9, 0.8, 0.7]), label.repeat(3), [], nothing)
    assert float(metric.compute()["mAP"]) == pytest.approx(0.25)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_per_class__is_the_mean_that_mAP_takes(iou_type: str):
    annotations, results, images = random_images(iou_type)
    metric = CocoAP(iou_type, CLASSES, per_class=True)
    for image in range(images):
        metric.update(*arguments(iou_type, annotations, results, image))
    values = {name: float(value) for name, value in metric.compute().items()}
    per_class = [values[f"mAP/{name}"] for name in CLASSES]
    assert np.isnan(per_class[3])  # nothing annotated: undefined
    assert np.mean(per_class[:3]) == pytest.approx(values["mAP"])


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_predictions__gives_zero(iou_type: str):
    annotations, _, images = random_images(iou_type)
    metric = CocoAP(iou_type, CLASSES)
    for image in range(images):
        metric.update(*arguments(iou_type, annotations, [], image))
    assert measured(metric) == [0] * 6


def test_area__comes_from_the_shapes_if_missing():
    box, label = torch.tensor([[0.0, 0, 50, 50]]), torch.tensor([0])
    for area, medium in ((None, 1.0), (torch.tensor([10.0]), np.nan)):
        metric = CocoAP("bbox", ("thing",))
        metric.update(box, torch.ones(1), label, box, label, None, area)
        assert float(metric.compute()["mAP_medium"]) == pytest.approx(medium, nan_ok=True)


def test_metric__survives_reset_forward_and_moves():
    box, label = torch.tensor([[0.0, 0, 50, 50]]), torch.tensor([0])
    metric = CocoAP("bbox", ("thing",))
    metric.update(box, torch.ones(1), label, box, label)
    metric = metric.to("cpu").float()
    assert isinstance(hash(metric), int)
    assert float(metric.compute()["mAP"]) == pytest.approx(1)
    metric.reset()
    metric.update(box + 100, torch.ones(1), label, box, label)
    assert float(metric.compute()["mAP"]) == 0


def test_errors__say_what_to_do():
    with pytest.raises(ValueError, match="100 among them"):
        CocoAP("bbox", CLASSES, max_detections=(1, 10, 300))
    small, large = (coco_mask.encode(np.ones((n, n), np.uint8, order="F")) for n in (8, 16))
    with pytest.raises(ValueError, match="original image's size"):
        CocoAP("segm", CLASSES).update([small], torch.ones(1), torch.tensor([0]), [large], torch.tensor([0]))
    with pytest.raises(ValueError, match="4 classes"):
        CocoAP("bbox", CLASSES).update(
            torch.zeros(0, 4), torch.ones(0), torch.ones(0), torch.ones(1, 4), torch.tensor([4])
        )
    with pytest.raises(ValueError, match="shorter"):
        CocoAP("bbox", CLASSES).update(
            torch.zeros(2, 4), torch.ones(1), torch.tensor([0]), torch.zeros(0, 4), torch.zeros(0)
        )
