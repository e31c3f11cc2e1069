"""The classes that a model knows after training on several sources of one task."""

from dataclasses import dataclass

import pytest
from cli_model import tiny_model

from ufo.build import class_names


@dataclass
class Data:
    classes: tuple[str, ...]


@dataclass
class FakeSource:
    name: str
    classes: tuple[str, ...]
    weight: float = 1.0
    task: str = "detection"

    def has(self, split):
        return split == "train"

    def data(self, split):
        return Data(self.classes)


@dataclass
class Mixture:
    sources: list[FakeSource]


def test_the_union_of_all_sources():
    mixture = Mixture([FakeSource("a", ("cat", "dog")), FakeSource("b", ("tree", "cat", "Dog"))])
    assert class_names(mixture, tiny_model())["detection"] == ("cat", "dog", "tree")


def test_too_many_for_one_prompt(caplog):
    many = tuple(f"cat{i}" for i in range(40))
    mixture = Mixture([FakeSource("light", ("dog", "tree"), 0.5), FakeSource("heavy", many, 2.0)])
    with caplog.at_level("WARNING"):
        assert class_names(mixture, tiny_model())["detection"] == many
    assert "light and heavy" in caplog.text and "40 of heavy" in caplog.text


@pytest.mark.parametrize("order", [1, -1])
def test_tasks_do_not_mix(order):
    sources = [FakeSource("a", ("cat",)), FakeSource("b", ("tree",), task="semantic_segmentation")][::order]
    assert class_names(Mixture(sources), tiny_model()) == {
        "detection": ("cat",),
        "semantic_segmentation": ("tree",),
    }
