"""One drawn digit scene: sizes, overlaps, colours, and what two splits and two variants do not share."""

from itertools import combinations

import numpy as np
import pytest
from digit_scenes import SIZE
from sklearn.datasets import load_digits

from ufo.data import digits_scene
from ufo.data.digits import COLORS

pytestmark = pytest.mark.heavy


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
