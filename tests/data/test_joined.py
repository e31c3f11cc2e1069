from __future__ import annotations

import pytest
from fakes import FakeData

from ufo.data.datasets.joined import JoinedDataset
from ufo.data.errors import DataError


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
    with pytest.raises(DataError, match="a, b have different classes"):
        JoinedDataset({"a": {"val": lambda: FakeData(1)}, "b": {"val": lambda: Other(1)}}, "val")
