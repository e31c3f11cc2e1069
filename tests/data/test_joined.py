from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeData

from ufo.data.datasets.joined import JoinedDataset
from ufo.data.errors import DataError
from ufo.data.problems import DOUBTFUL
from ufo.data.sampling import capped


class Captions(FakeData):
    provides = frozenset({"caption"})


class Other(FakeData):
    classes = ("three",)


def test_samples_follow_one_another_under_new_numbers():
    parts = {"a": {"train": lambda: FakeData(3)}, "b": None, "c": {"train": lambda: Captions(2, base=100)}}
    data = JoinedDataset(parts, "train")
    assert len(data) == 5 and data.provides == {"caption"} and data.classes == ("one", "two")
    assert [int(data[i]["image"][0, 0, 0]) for i in range(5)] == [0, 1, 2, 100, 101]
    assert [data.target(i).id for i in range(5)] == list(range(5))
    assert [data.target(i).text for i in (2, 3)] == ["text 2", "text 0"]
    assert data.portrait().tolist() == [True, False, False, True, False]
    for i in (-1, 5):
        with pytest.raises(IndexError):
            data[i]


def test_data_sets_that_do_not_fit_together():
    with pytest.raises(DataError, match="at least one"):
        JoinedDataset({"a": None}, "train")
    with pytest.raises(DataError, match=r"a, b have different classes .*give all the same `classes`"):
        JoinedDataset({"a": {"val": lambda: FakeData(1)}, "b": {"val": lambda: Other(1)}}, "val")


class Counted(FakeData):
    """As many objects of class 1 in image `i` as its number."""

    def label_sets(self):
        starts = np.cumsum([0, *range(self.size)])
        return starts, np.ones(starts[-1], np.int64)


def test_what_is_known_of_the_parts_is_known_of_the_whole():
    """Classes per image, and problems, whoever reports them."""
    data = JoinedDataset({"a": {"train": lambda: Counted(3)}, "b": {"train": lambda: Counted(4)}}, "train")
    starts, labels = data.label_sets()
    assert starts.tolist() == [0, 0, 1, 3, 3, 4, 6, 9] and len(labels) == 9
    data.parts[1].problems.report("odd", "image 2")
    data.problems.report("crowded", "sample 6", effect=DOUBTFUL, number=5)
    assert data.problems.left_out == {"odd": 1} and data.problems.doubtful == {"crowded": 5}
    assert data.problems.counts.total() == 6 and data.problems.first["odd"] == "fake: image 2"


def test_classes_of_images_are_not_promised_where_a_part_cannot_tell():
    parts = {"a": {"train": lambda: Counted(3)}, "b": {"train": lambda: FakeData(4)}}
    assert not hasattr(JoinedDataset(parts, "train"), "label_sets")
    assert not hasattr(capped(FakeData(9), 3), "label_sets") and hasattr(capped(Counted(9), 3), "label_sets")
