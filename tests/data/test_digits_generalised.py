"""Expressions that mean one object, several or none: each checked against its scene, none given away."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import numpy as np
import pytest

from ufo.data.datasets import RefCocoDataset
from ufo.data.digits_generalised import generalised
from ufo.data.digits_text import SIDES, SIZES, Thing, resolve


def things(*described: str) -> list[Thing]:
    """Objects from the left to the right, each "color name"."""
    pairs = [text.split() for text in described]
    return [Thing(name, color, (20.0 * i, 0, 10, 12), 60) for i, (color, name) in enumerate(pairs)]


def drawn(scene, seeds=200):
    found = collections.Counter()
    for seed in range(seeds):
        for text, meant in generalised(scene, 112, np.random.default_rng(seed)):
            found[text, tuple(meant)] += 1
    return found


def test_each_expression_means_what_it_says():
    scene = things("red seven", "blue seven", "red two")
    for text, meant in drawn(scene):
        words = [w for w in text.split() if w not in (*SIZES, *SIDES)]
        fitting = [
            i
            for i, thing in enumerate(scene)
            if all(w in (thing.color, thing.name, "the", "every", "digit") for w in words)
        ]
        if not meant:
            assert not fitting, text
        elif text.startswith("every"):
            assert list(meant) == fitting and len(meant) > 1
        else:
            assert len(meant) == 1 and set(meant) <= set(fitting)


def test_the_hard_ones_are_there():
    """What means nothing is often made of words that mean something in this scene."""
    found = drawn(things("red seven", "blue seven", "red two", "green nine"))
    none = {text: n for (text, meant), n in found.items() if not meant}
    assert "the blue two" in none and "the red seven" not in none
    seen = {"the", "every", "digit", "red", "blue", "green", "seven", "two", "nine", *SIZES, *SIDES}
    hard = sum(n for text, n in none.items() if set(text.split()) <= seen)
    assert hard > 0.2 * sum(none.values())


def test_neither_word_nor_form_gives_the_answer_away():
    """Over many scenes the first word and the number of words say little about whether there is an object."""
    rng = np.random.default_rng(0)
    names, colors = ("two", "seven", "nine"), ("red", "blue", "green")
    by_form = collections.defaultdict(list)
    for _ in range(300):
        scene = things(*(f"{rng.choice(colors)} {rng.choice(names)}" for _ in range(4)))
        for text, meant in generalised(scene, 112, rng):
            by_form[text.split()[0], len(text.split())].append(bool(meant))
    for form, there in by_form.items():
        assert 0.2 < np.mean(there) < 0.9, form


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_file_is_read_as_grefcoco(split, scenes):
    folder = Path(scenes[0].partition("=")[2]) / split
    refs = json.loads((folder / "refcoco" / "grefs(digits).json").read_text())
    options = {"refs": "grefs(digits).json", "split": split, "masks": True}
    data = RefCocoDataset(folder / "images", folder / "refcoco", **options, train=split == "train")
    counts = [len(r["ann_id"]) * (not r["no_target"]) for r in refs for _ in r["sentences"]]
    assert data.objects().tolist() == counts and {0, 1} <= set(counts) and max(counts) > 1
    texts = [s["sent"] for r in refs for s in r["sentences"]]
    content = json.loads((folder / "instances.json").read_text())
    annotation_of = {a["id"]: a for a in content["annotations"]}
    meant = [r["ann_id"] for r in refs for _ in r["sentences"]]
    for i in np.linspace(0, len(data) - 1, 40).astype(int):
        target = data.target(i)
        boxes = [annotation_of[key]["bbox"] for key in meant[i] if key != -1]
        corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
        assert target.boxes.tolist() == corners and len(target.masks) == len(corners)
        assert target.text == texts[i] and target.boxes.shape[1] == 4
        if split == "train":
            sample = data[i]
            assert sample["boxes"].tolist() == corners and len(sample["masks"]) == len(corners)


def test_resolve_does_not_know_every():
    assert resolve("every red seven", things("red seven", "red seven", "red two"), 112) == [0, 1]
