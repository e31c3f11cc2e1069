from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch
from fakes import FakeData, noise

from ufo.data.errors import DataError
from ufo.data.module import UFODataModule
from ufo.data.source import MAX_BLANK, Source, _blank
from ufo.types import Sample, Target


def source(**changes) -> Source:
    settings = {
        "name": "fake/detection",
        "task": "detection",
        "train": lambda: FakeData(9, corrupt=(4, 5)),
        "val": lambda: FakeData(9, base=1, corrupt=(4,)),
        "train_transform": noise,
    }
    return Source(**{**settings, **changes})


def value(sample: Sample) -> tuple[int, int]:
    return int(sample["image"][0, 0, 0]), int(sample["image"][1, 0, 0])


def test_data_is_built_on_first_use_and_once():
    built = []
    s = source(train=lambda: built.append(1) or FakeData(3))
    assert not built
    assert s.data("train") is s.data("train")
    assert built == [1]
    assert "val" not in s._data


def test_a_task_gets_the_annotations_it_needs():
    """Any data set that has them will do; what is missing is named."""
    for task in ("caption", "detection"):
        assert len(source(task=task).data("train")) == 9
    with pytest.raises(ValueError, match=r"'grounding' needs expression, .* have: boxes, caption, labels\."):
        source(task="grounding").data("train")
    with pytest.raises(ValueError, match="unknown task 'swim'"):
        source(task="swim").data("train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, "weight must be zero or positive"),
        ({"weight": float("nan")}, "weight must be zero or positive"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"val_batch_size": 0}, "val_batch_size must be at least 1"),
    ],
)
def test_refuses_senseless_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        source(**changes)


def test_refuses_missing_and_empty_splits():
    with pytest.raises(ValueError, match="no train data"):
        source(train=None).data("train")
    with pytest.raises(ValueError, match="has no samples"):
        source(train=lambda: FakeData(0)).data("train")


def test_augmentation_follows_from_the_seed_alone():
    s = source()
    torch.manual_seed(0)
    first = value(s.sample(2, seed=7))
    torch.manual_seed(1)
    assert value(s.sample(2, seed=7)) == first
    assert len({value(s.sample(2, seed=n)) for n in range(9)}) > 1


def test_global_random_states_are_left_alone():
    s = source()

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    s.sample(4, seed=3)
    s.evaluation_sample(4)
    assert states() == before


def test_unusable_training_samples_are_replaced_counted_and_named_once(caplog):
    s = source()
    with caplog.at_level(logging.WARNING):
        for seed in range(20):
            assert value(s.sample(4, seed))[0] not in (4, 5)
            assert value(s.sample(4, seed)) == value(s.sample(4, seed))
    assert s.problems("train") == (2, 0)  # 5 was met as a replacement of 4
    assert sum("image 4.png is truncated" in m for m in caplog.messages) == 1
    assert sum("image 5.png is truncated" in m for m in caplog.messages) == 1


def test_rejected_samples_are_replaced_and_counted(caplog):
    s = source(train_transform=lambda sample: noise(sample) if value(sample)[0] > 2 else None)
    with caplog.at_level(logging.WARNING):
        for index in (0, 1, 2):
            assert value(s.sample(index, seed=0))[0] > 2
    assert s.problems("train")[1] == 3
    assert sum("rejected" in m for m in caplog.messages) == 1


def test_replacements_stay_in_their_orientation_group():
    s = source(train=lambda: FakeData(30, corrupt=(0, 3, 6, 1)), group_by_orientation=True)
    assert all(value(s.sample(0, seed))[0] % 3 == 0 for seed in range(20))
    assert all(value(s.sample(1, seed))[0] % 3 != 0 for seed in range(20))


def test_groups_cover_all_samples_once():
    groups = source(group_by_orientation=True).groups()
    assert [g.tolist() for g in groups] == [[0, 3, 6], [1, 2, 4, 5, 7, 8]]
    assert [g.tolist() for g in source().groups()] == [list(range(9))]


def test_stops_when_nothing_is_usable():
    s = source(train=lambda: FakeData(3, corrupt=(0, 1, 2)))
    with pytest.raises(DataError, match=r"in a row were unusable.*is truncated"):
        s.sample(0, seed=0)


def test_evaluation_scores_an_unusable_image_as_blank(caplog):
    s = source()
    with caplog.at_level(logging.WARNING):
        samples = [s.evaluation_sample(i) for i in (3, 4, 4)]
    assert [x["target"].id for x in samples] == [3, 4, 4]
    assert value(samples[0])[0] == 4
    assert samples[1]["image"].shape == (3, 8, 8)
    assert not samples[1]["image"].any()
    assert samples[1]["text"] == "text 4"
    assert s.problems("val") == (1, 0)
    assert sum("image 4.png is truncated" in m for m in caplog.messages) == 1


def test_evaluation_shows_no_annotations_to_the_model():
    assert set(source().evaluation_sample(2)) == {"image", "text", "target"}


def test_evaluation_refuses_a_transform_that_drops_samples():
    with pytest.raises(DataError, match="must score every sample"):
        source(val_transform=lambda sample: None).evaluation_sample(1)


def test_blank_image_keeps_the_ratio_and_is_bounded():
    image = _blank(Target(id=0, size=(20_000, 10_000)))["image"]
    assert image.shape == (3, MAX_BLANK, MAX_BLANK // 2)


def test_a_transform_that_wants_the_data_gets_it():
    class Paste:
        data = None

        def bind(self, data):
            self.data = data

        def __call__(self, sample):
            return sample

    s = source(train_transform=Paste())
    assert s.train_transform.data is None
    assert s.data("train") is s.train_transform.data


def test_an_evaluation_may_ask_for_names_that_no_image_shows():
    """Beside the data's own classes, which keep their numbers; training does not."""
    own = source().data("val").classes
    assert source(also_ask=["lamp", "tree"]).classes("val") == (*own, "lamp", "tree")
    assert source(also_ask=["lamp", "tree"]).classes("train") == own
    data = UFODataModule({"a": source(also_ask=["lamp"], val_batch_size=3)}, num_workers=0)
    data.setup("validate")
    (loader,) = data.val_dataloader()
    assert next(iter(loader)).classes == (*own, "lamp")
    for names, said in (([own[0]], "take it out"), (["lamp", "lamp"], "name each once"), ("lamp", "a list")):
        with pytest.raises(ValueError, match=f"also_ask=.*{said}"):
            source(also_ask=names).classes("val")


def test_a_data_set_gives_what_it_provides():
    """A text that a format forgot would be an empty one, and a map of another size would be stretched."""

    def changed(**changes):
        class Changed(FakeData):
            provides = frozenset({"boxes", "labels", "caption", "masks"})

            def __getitem__(self, i: int) -> Sample:
                kept = {**super().__getitem__(i), **changes}
                return {key: value for key, value in kept.items() if value is not None}

        return Changed

    for split in ("train", "val"):
        wide = changed(masks=torch.zeros(0, 4, 8))
        s = source(task="instance_segmentation", **{split: lambda made=wide: made(9)})
        with pytest.raises(ValueError, match=r"sample 0: its masks are \(4, 8\) .* image is \(8, 8\)"):
            s.sample(0, 1) if split == "train" else s.evaluation_sample(0)
    s = source(task="caption", train=lambda: changed(text=None)(9))
    with pytest.raises(ValueError, match="'fake/detection': train sample 3 has no text"):
        s.sample(3, 1)
    s = source(train=lambda: changed(labels=torch.zeros(5))(9))
    with pytest.raises(ValueError, match="'boxes': 2, 'labels': 5"):
        s.sample(2, 1)
