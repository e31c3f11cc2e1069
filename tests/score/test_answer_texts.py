"""Answers of several families, in the examples that their authors publish, and broken ones."""

from __future__ import annotations

import numpy as np
import pytest

from ufo.cli.score import ANSWERS
from ufo.score.convention import Convention
from ufo.score.texts import FORMATS, FormatError


def boxes(name: str, text: str) -> list[tuple[str, list[float]]]:
    return [(box.label, list(box.values)) for box in FORMATS[name].parse(text)]


def fractions(name: str, text: str) -> list[list[float]]:
    """Corners in units of the image."""
    form = FORMATS[name]
    values = np.array([box.values for box in form.parse(text)])
    return Convention(form.order, form.scale).xyxy(values, (1, 1)).tolist()


def test_the_command_lists_what_there_is():
    assert set(ANSWERS) == set(FORMATS)


@pytest.mark.parametrize("name", ANSWERS)
def test_each_format_reads_its_example_and_finds_nothing_in_words(name):
    assert len(FORMATS[name].parse(FORMATS[name].example)) == 1
    assert FORMATS[name].parse("There is no such thing.") == []


def test_ufo():
    assert boxes("ufo", "<box>4,5,6,7</box>") == [("", [4, 5, 6, 7])]
    assert boxes("ufo", "red dog,<box>4,5,6,7;1,2,3,4</box>")[1] == ("red dog", [1, 2, 3, 4])
    assert boxes("ufo", "cat, 4, 5, 6, 1 7") == [("cat", [4, 5, 6, 17])]
    assert boxes("ufo", "background") == []


def test_qwen_in_its_three_forms():
    assert boxes("qwen", "<ref>a dog</ref><box>(1,2),(30,40)</box><box>(5,6),(7,8)</box>") == [
        ("a dog", [1, 2, 30, 40]),
        ("a dog", [5, 6, 7, 8]),
    ]
    tags = "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"
    assert boxes("qwen", tags) == [("cat", [1, 2, 3, 4])]
    fenced = 'Here:\n```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6, 7, 8]}]\n```'
    assert boxes("qwen", fenced) == [("cat", [1, 2, 3, 4]), ("", [5, 6, 7, 8])]


def test_paligemma_has_the_vertical_first():
    assert fractions(
        "paligemma", "<loc0256><loc0512><loc0768><loc1023> dog ; <loc0000><loc0000><loc0512><loc0512>"
    ) == [
        [0.5, 0.25, 1023 / 1024, 0.75],
        [0, 0, 0.5, 0.5],
    ]


def test_florence_means_the_middle_of_a_bin():
    found = fractions("florence", "</s>dog<loc_0><loc_499><loc_999><loc_749><loc_1><loc_1><loc_2><loc_2></s>")
    assert found[0] == pytest.approx([0.0005, 0.4995, 0.9995, 0.7495]) and len(found) == 2


def test_kosmos_patches():
    # upper left (row 1, column 12), lower right (row 26, column 31): from middle to middle
    (found,) = fractions("kosmos", "<phrase>x</phrase><object><patch_index_0044><patch_index_0863></object>")
    assert found == pytest.approx([12.5 / 32, 1.5 / 32, 31.5 / 32, 26.5 / 32])
    (one,) = fractions("kosmos", "<object><patch_index_0033><patch_index_0033></object>")
    assert one == pytest.approx([1 / 32, 1 / 32, 2 / 32, 2 / 32])
    several = "<patch_index_0001><patch_index_0099></delimiter_of_multi_objects/>" * 2
    assert len(boxes("kosmos", f"<phrase>cats</phrase><object>{several[:-30]}</object>")) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ufo", "<box>4,5,6</box>"),
        ("ufo", "<box>4,5,6,7"),
        ("qwen", "<box>(1,2),(3)</box>"),
        ("qwen", "<box>(1,2),(3,4)"),
        ("paligemma", "<loc0001><loc0002> dog"),
        ("florence", "dog<loc_1><loc_2><loc_3>"),
        ("kosmos", "<object><patch_index_0001></object>"),
        ("kosmos", "<object><patch_index_0001><patch_index_9999></object>"),
        ("json", '[{"bbox": [1, 2, 3]}]'),
        ("json", '[{"bbox": [1, 2, 3, 4]'),
        ("json", '{"name": "cat"}'),
        ("json", "[[[[[[[1, 2, 3, 4]]]]]]]"),
        ("json", "[1, 2, null, 4]"),
    ],
)
def test_broken_answers_are_errors_of_the_format(name, text):
    with pytest.raises(FormatError):
        FORMATS[name].parse(text)
