from __future__ import annotations

import json
from pathlib import Path

import pytest

from ufo.ops.names import find_class
from ufo.tokenizer import UFOTokenizer, build_vocab

VOCAB = Path(__file__).parents[2] / "conf" / "vocab"
LVIS = Path(__file__).parents[3] / "shared" / "data" / "lvis_sample" / "lvis_val_100.json"


def lvis_names() -> list[str]:
    if not LVIS.exists():
        pytest.skip(f"no sample data at {LVIS}")
    return [category["name"] for category in json.loads(LVIS.read_text(encoding="utf-8"))["categories"]]


@pytest.mark.parametrize(
    "names",
    [*sorted(VOCAB.glob("*_classes.txt")), lvis_names],
    ids=lambda n: n.stem if isinstance(n, Path) else n.__name__,
)
def test_every_official_name_is_found_in_what_the_tokenizer_gives_back(names):
    """Trap 37: 416 of LVIS's, 29 of COCO-Stuff's and 45 of Mapillary's names have punctuation."""
    classes = names() if callable(names) else names.read_text(encoding="utf-8").splitlines()
    tokenizer = UFOTokenizer(build_vocab([], 10))
    answers = tokenizer.decode(tokenizer.encode([f"{name},1,2,3,4" for name in classes]))
    assert [find_class(answer, classes)[0] for answer in answers] == list(range(len(classes)))
    # and as a tokenizer writes it that keeps everything
    assert [find_class(name, classes)[0] for name in classes] == list(range(len(classes)))


def test_rest_of_the_answer():
    assert find_class("cat,1,2,3,4", ["dog", "cat"]) == (1, "1,2,3,4")
    assert find_class("fish,1,2", ["dog", "cat"]) == (-1, "1,2")
    assert find_class("", ["dog", "cat"]) == (-1, "")
    assert find_class("dog", []) == (-1, "")


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("cabinet / shelf", 0),
        ("traffic sign - direction (back)", 1),
        ("Aerosol _ Can", 2),
        ("jalapeno", 3),
        ("t - shirt", 4),
        ("tshirt", 4),
        ("men's shoe", 5),
        ("men ' s shoe", 5),
        ("shelf", -1),
        ("-", -1),
    ],
)
def test_punctuation_capitals_and_accents(text, index):
    classes = [
        "Cabinet/shelf",
        "Traffic Sign - Direction (Back)",
        "aerosol_can",
        "jalapeño",
        "T-shirt",
        "men's shoe",
    ]
    assert find_class(text, classes)[0] == index


def test_names_that_differ_in_little_are_told_apart_exactly_or_not_at_all():
    classes = ["Orange", "orange", "ice-cream", "ice cream"]
    assert [find_class(name, classes)[0] for name in classes] == [0, 1, 2, 3]
    assert find_class("ORANGE", classes)[0] == -1
    assert find_class("icecream", classes)[0] == 3  # without blanks only one of them is that
    assert find_class("ice.cream", classes)[0] == -1


def test_names_with_commas():
    classes = ["door", "door, double door", "wall"]
    assert find_class("door, double door,5,6", classes) == (1, "5,6")
    assert find_class("door,5,6", classes) == (0, "5,6")
    assert find_class("wall,door,1", classes) == (2, "door,1")
