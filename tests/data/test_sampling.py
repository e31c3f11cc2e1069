"""Caps, repeats of rare classes, shares by size: exact numbers, and the mixer draws and resumes with them."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from fakes import FakeData, noise

from ufo.data.mixer import MixtureSampler
from ufo.data.module import UFODataModule
from ufo.data.sampling import View, capped, class_balanced, label_sets, repeat_factors, weights_by_size
from ufo.data.source import Source


class Labelled(FakeData):
    """Image 0 has class 1, the others have class 0, image 1 nothing."""

    def label_sets(self):
        starts = np.array([0, 1, 1, *range(2, self.size)])
        return starts, np.array([1, *[0] * (self.size - 2)])


def test_repeat_factors_are_those_of_the_formula():
    # 16 images: class 0 in all but one, class 1 in one (twice, which counts once)
    starts = np.array([0, 3, *range(4, 19)])
    labels = np.array([0, 1, 1, *[0] * 15])
    times = repeat_factors(starts, labels, 3, threshold=0.25)
    assert times[0] == pytest.approx((0.25 / (1 / 16)) ** 0.5) == 2
    assert (times[1:] == 1).all()
    loose = repeat_factors(starts, labels, 3, threshold=1e-3)
    assert (loose == 1).all()


def test_class_balanced_repeats_rare_images_and_keeps_all_others():
    data = class_balanced(Labelled(10), 0.5)
    # f = 0.1: sqrt(0.5 / 0.1) = 2.24, rounded up
    assert Counter(data.numbers.tolist()) == {0: 3, **dict.fromkeys(range(1, 10), 1)}
    assert len(data) == len(data.portrait()) == 12
    assert data.target(1).id == 0 and data[3]["text"] == "text 1"
    assert data.classes == ("one", "two") and data.provides == data.data.provides
    starts, labels = data.label_sets()
    assert labels[:3].tolist() == [1, 1, 1] and len(starts) == 13 and starts[3] == starts[4] == 3


def test_labels_come_from_the_targets_if_the_data_cannot_say():
    class Plain(FakeData):
        def target(self, i):
            target = super().target(i)
            target.labels = torch.arange(i % 3)
            return target

    starts, labels = label_sets(Plain(4))
    assert starts.tolist() == [0, 0, 1, 3, 3] and labels.tolist() == [0, 0, 1]


def test_a_cap_takes_the_same_samples_every_time():
    data = FakeData(100)
    first, again, other = capped(data, 30), capped(data, 30), capped(data, 30, seed=1)
    assert first.numbers.tolist() == again.numbers.tolist() == sorted(set(first.numbers.tolist()))
    assert len(first) == 30 and first.numbers.tolist() != other.numbers.tolist()
    assert 30 < first.numbers.mean() < 70  # spread over the data
    assert capped(data, 100) is data


def test_views_of_views_survive_pickling():
    view = pickle.loads(pickle.dumps(View(capped(FakeData(10), 5), [0, 0, 4])))
    assert len(view) == 3 and view.classes == ("one", "two")
    assert view[1]["text"] == view[0]["text"] != view[2]["text"]
    with pytest.raises(IndexError):
        view[3]
    with pytest.raises(AttributeError):
        view.nothing  # noqa: B018


def test_weights_by_size_keep_the_shares_of_groups():
    weights, sizes, groups = [1, 1, 2, 0], [100, 300, 7, 50], ["a", "a", "b", "b"]
    proportional = weights_by_size(weights, sizes, groups, 1.0)
    assert proportional == pytest.approx([0.5, 1.5, 2, 0])
    softer = weights_by_size(weights, sizes, groups, 2.0)
    assert softer[1] / softer[0] == pytest.approx(3**0.5) and sum(softer[:2]) == pytest.approx(2)
    assert weights_by_size(weights, sizes, groups, 1e6) == pytest.approx([1, 1, 2, 0], rel=1e-4)
    assert weights_by_size([1, 1], [10**6, 10], ["a", "a"], 1e-3) == pytest.approx([2, 0])
    factors = weights_by_size([1, 3], [50, 50], ["a", "a"], 1.0)
    assert factors == pytest.approx([1, 3])


@pytest.mark.parametrize(
    "call",
    [
        lambda: capped(FakeData(3), 0),
        lambda: class_balanced(Labelled(3), 0),
        lambda: class_balanced(Labelled(3), 2),
        lambda: weights_by_size([1], [1], ["a"], 0),
    ],
)
def test_senseless_settings_are_refused(call):
    with pytest.raises(ValueError, match="not"):
        call()


def sources() -> list[Source]:
    common = {"task": "detection", "train_transform": noise, "batch_size": 2}
    return [
        Source(name="rare", train=lambda: Labelled(10), repeat_threshold=0.5, **common),
        Source(name="capped", train=lambda: Labelled(400), max_samples=36, **common),
    ]


def test_the_mixer_draws_views_by_size_and_resumes_exactly():
    module = UFODataModule(sources(), temperature=1.0)
    sampler = MixtureSampler(module.entries(), 3)
    assert [(name, size) for name, _, size, _ in sampler.describe()] == [("rare", 12), ("capped", 36)]
    assert [share for _, share, *_ in sampler.describe()] == pytest.approx([0.25, 0.75])
    straight = list(islice(sampler, 40))
    resumed = MixtureSampler(UFODataModule(sources(), temperature=1.0).entries(), 3)
    resumed.load_state_dict(MixtureSampler(module.entries(), 3).state_dict(17))
    assert list(islice(resumed, 23)) == straight[17:]
    plain = UFODataModule(sources()).entries()
    assert [entry.weight for entry in plain] == [1.0, 1.0]


def test_repeats_are_in_every_pass_and_never_in_evaluation():
    source = Source(
        name="rare",
        task="detection",
        train=lambda: Labelled(10),
        val=lambda: Labelled(10),
        repeat_threshold=0.5,
        max_samples=5,
    )
    assert len(source.data("val")) == 10
    assert len(source.data("train")) >= 5
    entry = UFODataModule([sources()[0]]).entries()[0]
    keys = [key.index for batch in islice(MixtureSampler([entry], 0), 6) for key in batch]
    assert sorted(keys) == list(range(12))
    texts = [sources()[0].sample(i, 0)["text"] for i in range(12)]
    assert texts.count("text 0") == 3
