"""Digit scenes: what is on disk agrees with itself and with what the sentences say about it."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from sklearn.datasets import load_digits

from ufo.data import digits, digits_scene
from ufo.data.digits import CLASSES, COLORS, SEMANTIC_CLASSES, generate, vocabulary
from ufo.data.errors import DataError

SIZE = 112
COUNTS = {"train": 120, "val": 40}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits") / "scenes"
    return generate(out, **COUNTS, workers=1, progress=False)


@pytest.fixture(scope="module", params=["train", "val"])
def split(request, scenes):
    return scenes / request.param


def read(path):
    return json.loads(path.read_text())


def read_refs(folder):
    return pickle.loads((folder / "refcoco" / "refs(digits).p").read_bytes())


def objects_by_image(folder):
    """Image id -> list of (annotation id, name, colour, centre, area, height)."""
    found = defaultdict(list)
    for a in read(folder / "instances.json")["annotations"]:
        x, y, w, h = a["bbox"]
        center = (x + w / 2, y + h / 2)
        found[a["image_id"]].append(
            (a["id"], CLASSES[a["category_id"] - 1], a["color"], center, a["area"], h)
        )
    return found


def captions_by_image(folder):
    found = defaultdict(list)
    for record in read(folder / "captions_karpathy.json"):
        texts = record["caption"]
        found[record["image_id"]] += [texts] if isinstance(texts, str) else texts
        assert record["image"] == f"images/{record['image_id']:06d}.jpg"
    return found


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- the scenes


def test_scenes_are_not_trivial():
    scenes = [
        digits_scene.draw_scene(np.random.default_rng(i), "train", "standard", SIZE) for i in range(200)
    ]
    assert 3 <= np.mean([len(s.labels) for s in scenes]) <= 4
    heights = [np.ptp(np.nonzero(m.any(1))[0]) + 1 for s in scenes for m in s.masks]
    low, high = np.percentile(heights, [5, 95])
    assert high / low >= 2 and max(heights) <= 51
    assert {c for s in scenes for c in s.colors} == set(COLORS)
    assert {d for s in scenes for d in s.labels} == set(range(10))

    def boxes_meet(a, b):
        return all((a.any(k) & b.any(k)).any() for k in (0, 1))

    overlapping = [any(boxes_meet(a, b) for a, b in combinations(s.masks, 2)) for s in scenes]
    assert np.mean(overlapping) >= 0.25


def test_height_is_the_whole_digits_height_at_any_angle():
    for index in range(0, 200, 7):
        for height in (15, 33, 50):
            fill, _ = digits_scene._draw_glyph(digits_scene._glyph(index), height, index - 20, 1.1)
            rows, columns = (np.nonzero((fill > 0.5).any(k))[0] for k in (1, 0))
            assert abs(np.ptp(rows) + 1 - height) <= 2
            assert rows[0] > 0 and columns[0] > 0  # nothing is cut off at the patch's border
            assert rows[-1] < fill.shape[0] - 1 and columns[-1] < fill.shape[1] - 1


def test_later_objects_leave_enough_of_earlier_ones():
    rng = np.random.default_rng(0)
    full = []
    paint = digits_scene._paint

    def record(canvas, where, color, fill, outline, rng):
        full.append((fill > 0.5).sum())
        paint(canvas, where, color, fill, outline, rng)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits_scene, "_paint", record)
        for _ in range(50):
            full.clear()
            scene = digits_scene.draw_scene(rng, "val", "standard", SIZE)
            visible = scene.masks.sum((1, 2))
            assert scene.masks.sum(0).max() == 1
            assert (visible >= digits_scene.MIN_VISIBLE * np.array(full)).all()


def test_masks_lie_on_the_objects_color():
    hits, total = 0, 0
    for i in range(40):
        scene = digits_scene.draw_scene(np.random.default_rng(i), "val", "standard", SIZE)
        for name, mask in zip(scene.colors, scene.masks, strict=True):
            mean = np.median(scene.image[mask], axis=0).astype(float)
            # shading changes brightness, not hue
            direction = {k: np.array(c) / np.linalg.norm(c) for k, c in COLORS.items()}
            nearest = max(COLORS, key=lambda k: direction[k] @ mean / np.linalg.norm(mean))
            hits, total = hits + (nearest == name), total + 1
    assert hits / total > 0.97


def test_splits_share_no_writer_and_no_part_of_a_photo(monkeypatch):
    targets = load_digits().target
    for form in (digits_scene.WRITERS["train"].stop, digits_scene.WRITERS["val"].start):
        # every writer's form starts with 0..9 three times
        assert targets[form : form + 30].tolist() == list(range(10)) * 3
    used = {
        split: {
            k
            for i in range(60)
            for k in digits_scene.draw_scene(np.random.default_rng(i), split, "standard", SIZE).samples
        }
        for split in ("train", "val")
    }
    assert max(used["train"]) < 1287 and min(used["val"]) >= 1415

    halves = np.zeros((427, 640, 3), np.uint8)
    halves[:, 320:] = 255
    monkeypatch.setattr(digits_scene, "_photos", lambda: (halves,))
    for i in range(20):
        rng = np.random.default_rng(i)
        assert digits_scene._photo_crop(rng, "train", 32).max() == 0
        assert digits_scene._photo_crop(rng, "val", 32).min() > 50


def test_a_split_that_is_not_asked_for_may_have_scenes(tmp_path):
    """An evaluation needs no training scenes and takes those of a training as they are."""
    out = generate(tmp_path / "d", train=3, val=2, workers=1, progress=False)
    before = files(out)
    assert generate(out, train=0, val=2, workers=1, progress=False) == out
    assert generate(out, train=3, val=0, workers=1, progress=False) == out
    assert files(out) == before
    with pytest.raises(DataError, match="val=2 instead of val=4"):
        generate(out, train=0, val=4, workers=1, progress=False)


def test_shifted_scenes_differ():
    draw = digits_scene.draw_scene
    scenes = {
        v: [draw(np.random.default_rng(i), "train", v, SIZE) for i in range(80)]
        for v in ("standard", "shifted")
    }
    count = {v: np.mean([len(s.labels) for s in ss]) for v, ss in scenes.items()}
    area = {v: np.median([m.sum() for s in ss for m in s.masks]) for v, ss in scenes.items()}
    assert count["shifted"] > count["standard"] + 0.5
    assert area["shifted"] < 0.8 * area["standard"]


# ---------------------------------------------------------------- the files


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


# ---------------------------------------------------------------- writing


def test_same_seed_same_files_and_other_seed_others(scenes, tmp_path):
    again = generate(tmp_path / "again", **COUNTS, workers=1, progress=False)
    assert files(again) == files(scenes)
    fewer = generate(tmp_path / "fewer", train=3, val=0, workers=1, progress=False)
    other = generate(tmp_path / "other", train=3, val=0, seed=1, workers=1, progress=False)
    image = "train/images/000001.jpg"
    assert (fewer / image).read_bytes() == (scenes / image).read_bytes()
    assert (fewer / image).read_bytes() != (other / image).read_bytes()


@pytest.mark.slow
def test_workers_do_not_change_the_files(scenes, tmp_path):
    parallel = generate(tmp_path / "parallel", **COUNTS, workers=2, progress=False)
    assert files(parallel) == files(scenes)


def test_finished_folder_is_reused(scenes, monkeypatch):
    monkeypatch.setattr(digits, "draw_scene", lambda *_: pytest.fail("drawn again"))
    assert generate(scenes, **COUNTS, progress=False) == scenes


def test_other_options_are_refused_or_replaced(tmp_path):
    options = {"val": 1, "workers": 1, "progress": False}
    out = generate(tmp_path / "digits", train=2, **options)
    with pytest.raises(DataError, match=r"train=2 instead of train=3.*out=.*force"):
        generate(out, train=3, **options)
    assert len(list((out / "train/images").iterdir())) == 2
    generate(out, train=3, force=True, **options)
    assert len(list((out / "train/images").iterdir())) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]


def test_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="no finished digit scenes"):
        generate(tmp_path, train=1, val=1, force=True, progress=False)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_bad_options_are_named(tmp_path):
    with pytest.raises(DataError, match="standard"):
        generate(tmp_path / "x", train=1, val=1, variant="shift")
    with pytest.raises(DataError, match="size=8"):
        generate(tmp_path / "x", train=1, val=1, size=8)


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(digits, "_write_captions", full_disk)
    with pytest.raises(OSError, match="No space"):
        generate(tmp_path / "digits", train=2, val=1, workers=1, progress=False)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_generation_is_not_mistaken_for_a_finished_one(tmp_path):
    out = tmp_path / "digits"
    command = [sys.executable, "-m", "ufo.data.digits", "--out", str(out), "--train", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".digits.partial-*/train/images/*.jpg")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 1
    time.sleep(0.5)  # the workers notice that their parent is gone
    generate(out, train=2, val=1, workers=1, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]


@pytest.mark.parametrize("version", [1, 2])
def test_older_scenes_get_what_they_lack_and_nothing_else_changes(version, scenes, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(scenes, old)
    stamp = json.loads((old / digits.STAMP).read_text())
    (old / digits.STAMP).write_text(json.dumps({**stamp, "format": version}))
    before = {}
    for split in ("train", "val"):
        (old / split / "refcoco" / "grefs(digits).json").unlink()
        if version == 1:
            (old / split / "conversations.json").unlink()
            (old / split / "refcoco" / "refs(reasoning).p").unlink()
    for path in old.rglob("*"):
        before[path] = path.stat().st_mtime_ns
    assert generate(old, **COUNTS, workers=1, progress=False) == old
    assert files(old) == files(scenes)
    same = [p for p in before if p.is_file() and p.name != digits.STAMP]
    assert all(p.stat().st_mtime_ns == before[p] for p in same)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
