"""Records are what pycocotools reads, in pixels of the original image."""

import json

import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ufo.data.image_files import image_id
from ufo.kinds import ImageInfo
from ufo.tasks import kind_of
from ufo.types import Prediction

SIZE = (40, 60)
IMAGE = ImageInfo(7, "7.jpg", SIZE)
NAMES = ("cat", "dog")


def records(prediction, *details):
    return kind_of(prediction.task).records(prediction, *details)


def confident(prediction, min_score):
    return kind_of(prediction.task).confident(prediction, min_score)


def summary(prediction, min_score, text):
    return kind_of(prediction.task).summary(prediction, min_score, text)


def box_masks(boxes, size=SIZE):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def objects(task="detection", **parts):
    boxes = torch.tensor([[10.0, 5, 30, 25], [40, 10, 50, 38]])
    parts = {"scores": torch.tensor([0.4, 0.9]), "labels": torch.tensor([1, 0]), **parts}
    return Prediction(task, boxes=boxes, classes=NAMES, **parts)


def instances():
    return objects("instance_segmentation", masks=box_masks([(10, 5, 30, 25), (40, 10, 50, 38)]))


def evaluate(results, kind):
    """AP of the results against ground truth that they should reproduce."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 7, "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {
                "id": n,
                "image_id": 7,
                "category_id": category,
                "iscrowd": 0,
                "bbox": box,
                "area": box[2] * box[3],
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
            for n, category, box in ((1, 2, [10, 5, 20, 20]), (2, 1, [40, 10, 10, 28]))
            for x, y, w, h in [box]
        ],
    }
    truth.createIndex()
    evaluator = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), kind)
    evaluator.evaluate(), evaluator.accumulate(), evaluator.summarize()
    return evaluator.stats[0]


@pytest.mark.parametrize(
    ("prediction", "kind"), [(objects(), "bbox"), (instances(), "bbox"), (instances(), "segm")]
)
def test_coco_evaluation_of_perfect_results(prediction, kind):
    assert evaluate(records(prediction, IMAGE, SIZE), kind) == pytest.approx(1.0)


def test_objects_have_names_and_categories_from_one():
    first, second = records(objects(), IMAGE, SIZE)
    assert first == {
        "image_id": 7,
        "file_name": "7.jpg",
        "category_id": 2,
        "category": "dog",
        "bbox": [10.0, 5.0, 20.0, 20.0],
        "score": pytest.approx(0.4),
    }
    assert (second["category_id"], second["category"]) == (1, "cat")


def test_results_of_a_shrunken_image_are_scaled_up():
    large = ImageInfo(7, "7.jpg", (120, 120))
    for prediction in (objects(), instances()):
        record = records(prediction, large, SIZE)[0]
        assert record["bbox"] == [20, 15, 40, 60]
    mask = coco_mask.decode(record["segmentation"])
    assert mask.shape == (120, 120)
    assert mask[15:75, 20:60].all() and mask.sum() == 60 * 40


def test_semantic_regions_cover_the_map():
    semantic = torch.zeros(SIZE, dtype=torch.int64)
    semantic[:, 20:] = 1
    found = records(Prediction("semantic_segmentation", semantic=semantic, classes=NAMES), IMAGE, SIZE)
    assert [r["category"] for r in found] == ["cat", "dog"]
    decoded = torch.from_numpy(coco_mask.decode([r["segmentation"] for r in found]))
    assert torch.equal(decoded.permute(2, 0, 1).bool(), torch.stack([semantic == 0, semantic == 1]))


def test_caption_and_grounding():
    caption = records(Prediction("caption", text="a dog"), IMAGE, SIZE)
    assert caption == [{"image_id": 7, "file_name": "7.jpg", "caption": "a dog"}]
    box = Prediction("grounding", boxes=torch.tensor([[1.0, 2, 4, 8]]), scores=torch.tensor([0.5]))
    (record,) = records(box, IMAGE, SIZE, "the dog")
    assert (record["text"], record["bbox"]) == ("the dog", [1, 2, 3, 6])


def test_confident_keeps_parts_together():
    prediction = instances()
    kept = confident(prediction, 0.0)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.4])
    assert kept.labels.tolist() == [0, 1]
    assert torch.equal(kept.masks, prediction.masks.flip(0))
    assert len(confident(prediction, 0.5).masks) == 1
    assert confident(Prediction("caption", text="a"), 0.5).text == "a"


@pytest.mark.parametrize(
    ("prediction", "line"),
    [
        (objects(), "1 cat (best score 0.90); 1 more below 0.5"),
        (objects(scores=torch.tensor([0.1, 0.2])), "nothing; 2 more below 0.5"),
        (objects(scores=torch.tensor([0.8, 0.9])), "1 cat, 1 dog (best score 0.90)"),
        (Prediction("caption", text="a dog"), "a dog"),
        (Prediction("caption"), "(an empty answer)"),
        (
            Prediction("semantic_segmentation", semantic=torch.tensor([[0, 1, 1, 1]]), classes=NAMES),
            "dog 75%, cat 25%",
        ),
        (
            Prediction("grounding", boxes=torch.tensor([[1.0, 2, 4, 8]]), scores=torch.tensor([0.5])),
            '"the dog" at x 1, y 2, width 3, height 6 (score 0.50)',
        ),
        (
            Prediction("grounding", boxes=torch.zeros(1, 4), scores=torch.tensor([0.5]), text="what"),
            '"the dog": no box in the answer "what"',
        ),
        (
            Prediction(
                "grounding", boxes=torch.zeros(1, 4), scores=torch.zeros(1), presence=torch.tensor(0.02)
            ),
            '"the dog": nothing; 2% that it is there',
        ),
        (
            Prediction(
                "grounding",
                boxes=torch.zeros(1, 4),
                scores=torch.zeros(1),
                presence=torch.tensor(0.4),
                text="1,2,3,4",
            ),
            '"the dog": nothing; 40% that it is there; the answer was "1,2,3,4"',
        ),
    ],
)
def test_summary(prediction, line):
    assert summary(prediction, 0.5, "the dog") == line


@pytest.mark.parametrize(("name", "expected"), [("000012.jpg", 12), ("a1.jpg", "a1"), ("².png", "²")])
def test_image_id(tmp_path, name, expected):
    assert image_id(tmp_path / name) == expected
