"""Digit scenes: what is on disk agrees with itself and with what the sentences say about it."""

import pickle
import re
from collections import defaultdict

import numpy as np
import pytest
from digit_scenes import COUNTS, SIZE, captions_by_image, drawn, objects_by_image, read, read_refs
from PIL import Image
from pycocotools.coco import COCO

from ufo.data.digits import CLASSES, COLORS, SEMANTIC_CLASSES, vocabulary


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return drawn(tmp_path_factory)


@pytest.fixture(scope="module", params=["train", "val"])
def split(request, scenes):
    return scenes / request.param


@pytest.mark.heavy
def test_instances_load_and_boxes_are_tight(split, capsys):
    coco = COCO(split / "instances.json")
    assert len(coco.imgs) == COUNTS[split.name]
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for annotation in coco.anns.values():
        y, x = np.nonzero(coco.annToMask(annotation))
        tight = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
        assert annotation["bbox"] == tight
        assert annotation["area"] == len(x) > 0
        assert isinstance(annotation["segmentation"]["counts"], str)


def test_semantic_map_agrees_with_masks(split, capsys):
    coco = COCO(split / "instances.json")
    names = (split / "semantic_classes.txt").read_text().split()
    assert tuple(names) == SEMANTIC_CLASSES
    for image in coco.imgs.values():
        expected = np.full((SIZE, SIZE), names.index("photo") + 1)
        for annotation in coco.imgToAnns[image["id"]]:
            name = coco.cats[annotation["category_id"]]["name"]
            expected[coco.annToMask(annotation) > 0] = names.index(name) + 1
        semantic = Image.open(split / "semantic" / image["file_name"].replace("jpg", "png"))
        assert semantic.mode == "L"
        assert (np.asarray(semantic) == expected).all()
        with Image.open(split / "images" / image["file_name"]) as jpeg:
            assert jpeg.mode == "RGB" and jpeg.size == (image["width"], image["height"])


CAPTION = re.compile(r"an? (\w+) (\w+) (left of|right of|above|below) an? (\w+) (\w+)")


def test_captions_are_true(split):
    objects, captions = objects_by_image(split), captions_by_image(split)
    assert captions.keys() == objects.keys()
    for image_id, texts in captions.items():
        things = objects[image_id]
        top = max(t[4] for t in things)
        assert min(2 * (len(things) - 1), 5) >= len(texts) == len(set(texts)) >= 1
        for text in texts:
            color1, name1, where, color2, name2 = CAPTION.fullmatch(text).groups()
            holds = False
            for a in things:
                for b in things:
                    (ax, ay), (bx, by) = a[3], b[3]
                    true = {
                        "left of": ax < bx and abs(ax - bx) >= abs(ay - by),
                        "right of": ax > bx and abs(ax - bx) >= abs(ay - by),
                        "above": ay < by and abs(ay - by) >= abs(ax - bx),
                        "below": ay > by and abs(ay - by) >= abs(ax - bx),
                    }[where]
                    words = (a[2], a[1], b[2], b[1]) == (color1, name1, color2, name2)
                    holds |= true and words and top in (a[4], b[4]) and a is not b
            assert holds, (image_id, text, things)


def test_caption_ground_truth_is_in_coco_format(scenes):
    truth = read(scenes / "val" / "captions_gt.json")
    by_image = defaultdict(list)
    for annotation in truth["annotations"]:
        by_image[annotation["image_id"]].append(annotation["caption"])
    assert by_image == captions_by_image(scenes / "val")
    assert [i["id"] for i in truth["images"]] == list(by_image)
    assert all(isinstance(r["caption"], str) for r in read(scenes / "train/captions_karpathy.json"))


def fits(text, thing, others):
    """Whether `text` is true of `thing`, written independently of the generator."""
    *words, noun = text.removeprefix("the ").split()
    _, name, color, center, area, height = thing
    if noun not in ("digit", name) or any(w in COLORS and w != color for w in words):
        return False
    rivals = [o for o in others if noun in ("digit", o[1])]
    return all(
        {
            "leftmost": all(center[0] + 5 < r[3][0] for r in rivals),
            "rightmost": all(center[0] - 5 > r[3][0] for r in rivals),
            "top": all(center[1] + 5 < r[3][1] for r in rivals),
            "bottom": all(center[1] - 5 > r[3][1] for r in rivals),
            "largest": all(area >= 1.25 * r[4] and height >= r[5] for r in rivals),
            "smallest": all(area * 1.25 <= r[4] and height <= r[5] for r in rivals),
        }.get(word, True)
        for word in words
    )


def test_each_expression_singles_out_one_object(split):
    objects, refs = objects_by_image(split), read_refs(split)
    seen = set()
    for ref in refs:
        things = objects[ref["image_id"]]
        assert 1 <= len(ref["sentences"]) <= 3 and ref["split"] == split.name
        for sentence in ref["sentences"]:
            fitting = [t[0] for t in things if fits(sentence["sent"], t, [o for o in things if o != t])]
            assert fitting == [ref["ann_id"]], (sentence["sent"], things)
            seen |= set(sentence["sent"].split())
            assert sentence["tokens"] == sentence["sent"].split()
        assert ref["sent_ids"] == [s["sent_id"] for s in ref["sentences"]]
    assert len(refs) >= 0.9 * sum(map(len, objects.values()))
    assert {"largest", "smallest", "leftmost", "rightmost", "top", "bottom", "digit"} <= seen
    instances = (split / "instances.json").read_bytes()
    assert (split / "refcoco" / "instances.json").read_bytes() == instances


def test_refs_are_plain_builtins(split):
    class Strict(pickle.Unpickler):
        def find_class(self, module, name):
            raise AssertionError(f"{module}.{name} in the pickle")

    with open(split / "refcoco" / "refs(digits).p", "rb") as file:
        assert Strict(file).load()


def test_vocabulary_covers_all_texts(scenes):
    words = set(SEMANTIC_CLASSES)
    for split in ("train", "val"):
        for texts in captions_by_image(scenes / split).values():
            words |= {w for text in texts for w in text.split()}
        words |= {w for r in read_refs(scenes / split) for s in r["sentences"] for w in s["tokens"]}
    assert words <= set(vocabulary())
    assert set(vocabulary()) - words <= {"an"}  # and it holds nothing that is never said
    assert vocabulary() == sorted(vocabulary())
