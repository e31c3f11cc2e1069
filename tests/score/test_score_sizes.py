"""How large an object is, where its annotation does not say: a validation and `ufo score` agree."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from score_files import SIZE, coco, refcoco, write

from ufo.data.datasets.coco import CocoDataset
from ufo.data.datasets.refcoco import RefCocoDataset
from ufo.score.truth.coco import read_coco
from ufo.score.truth.refer import read_refer


def odd(area):
    """Annotations whose masks are half their boxes, every third without one; `...`: without an area."""
    content = coco(images=4)
    for number, annotation in enumerate(content["annotations"]):
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = None if number % 3 == 0 else [[x, y, x + w, y, x + w, y + h]]
        annotation["area"] = area
        if area is ...:
            del annotation["area"]
    return content


def draw(folder, content):
    for record in content["images"]:
        path = folder / record["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path)


@pytest.mark.parametrize("area", [..., None, 0, -1, "320", 500.0])
@pytest.mark.parametrize("masks", [False, True])
def test_a_validation_and_a_scoring_find_objects_equally_large(tmp_path, area, masks):
    content = odd(area)
    draw(tmp_path, content)
    truth = write(tmp_path / "truth.json", content)
    data = CocoDataset(tmp_path, truth, masks=masks)
    examples = read_coco(truth).examples
    assert len(data) == len(examples) == 4
    for i, example in enumerate(examples):
        assert data.target(i).area.tolist() == pytest.approx(example.areas)
    boxes = [w * h for _, _, w, h in examples[0].boxes]
    assert (examples[0].areas == pytest.approx([500.0] * len(boxes))) == (area == 500.0)
    if area != 500.0:
        halves = [found / box for found, box in zip(examples[0].areas, boxes, strict=True)]
        assert halves == pytest.approx([1 if number % 3 == 0 else 0.5 for number in range(6)], abs=0.1)


@pytest.mark.parametrize("masks", [False, True])
def test_so_do_they_of_what_an_expression_refers_to(tmp_path, masks):
    content = odd(None)
    draw(tmp_path, content)
    folder = refcoco(tmp_path / "refcoco", content)
    data = RefCocoDataset(tmp_path, folder, refs="refs(unc).p", split="val", masks=masks)
    examples = read_refer(folder, "val").examples
    for i, example in enumerate(examples):
        assert data.target(i).area.tolist() == pytest.approx(example.areas)
