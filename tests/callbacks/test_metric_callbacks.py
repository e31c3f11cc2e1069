"""Properties that every metric callback has, and the hooks under a real Trainer."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from metric_examples import CALLBACKS, CLASSES, HEADLINES, Replay, batch_of, example
from torch.utils.data import DataLoader

from ufo.metrics.base import MetricCallback
from ufo.metrics.box_map import BoxMAP
from ufo.metrics.grounding import GroundingAccuracy
from ufo.metrics.mask_map import MaskMAP
from ufo.metrics.mean_iou import MeanIoU

TASKS = sorted(CALLBACKS)
every_task = pytest.mark.parametrize("task", TASKS)


def results_of(
    task: str, pairs: list, size: int = 2, callback: MetricCallback | None = None
) -> dict[str, float]:
    callback = callback or CALLBACKS[task]()
    for start in range(0, len(pairs), size):
        part = pairs[start : start + size]
        callback.collect([prediction for prediction, _ in part], batch_of(task, part))
    return callback.compute("val")


def headline(task: str, results: dict[str, float]) -> float:
    return results[f"val/digits/{task}/{HEADLINES[task]}"]


@every_task
def test_perfect_predictions__give_one(task: str):
    results = results_of(task, [example(task, id, noise=0) for id in range(4)])
    assert headline(task, results) == pytest.approx(1)
    assert all(value > 0.5 or value == -1 for value in results.values())  # -1: no large objects


@every_task
def test_noise__lowers_the_value(task: str):
    values = [
        headline(task, results_of(task, [example(task, id, noise) for id in range(8)]))
        for noise in (0, 0.2, 0.9)
    ]
    assert values[0] > values[1] > values[2] >= 0


@every_task
def test_empty_predictions__give_zero(task: str):
    results = results_of(task, [example(task, id, noise=0, empty=True) for id in range(4)])
    assert headline(task, results) == 0


@every_task
def test_order_and_batch_size__do_not_matter(task: str):
    pairs = [example(task, id, noise=0.3) for id in range(7)]
    expected = results_of(task, pairs, size=2)
    for size in (1, 3, 7):
        random.Random(size).shuffle(pairs)
        assert results_of(task, pairs, size) == expected


@every_task
def test_repeated_images__count_once(task: str):
    pairs = [example(task, id, noise=0.3) for id in range(5)]
    assert results_of(task, [*pairs, *pairs[:3]], size=3) == results_of(task, pairs)


@every_task
def test_sources__are_reported_separately(task: str):
    callback = CALLBACKS[task]()
    for source, noise in (("digits/" + task, 0.0), ("shifted/" + task, 0.8)):
        # the same ids in both: they are unique only within a source
        pairs = [example(task, id, noise) for id in range(4)]
        callback.collect([p for p, _ in pairs], batch_of(task, pairs, source))
    results, name = callback.compute("test"), HEADLINES[task]
    assert results[f"test/digits/{task}/{name}"] == pytest.approx(1)
    assert results[f"test/shifted/{task}/{name}"] < 0.9
    assert {key.split("/")[1] for key in results} == {"digits", "shifted"}


@every_task
def test_other_tasks_and_steps_without_predictions__are_left_out(task: str):
    callback = CALLBACKS[task]()
    callback.collect(None, batch_of(task, [example(task, 0, 0)]))
    for other in TASKS:
        if other != task:
            pairs = [example(other, 0, 0)]
            callback.collect([p for p, _ in pairs], batch_of(other, pairs))
    assert callback.compute("val") == {}


def test_names__are_unique_over_all_callbacks():
    names = [key for task in TASKS for key in results_of(task, [example(task, id, 0.1) for id in range(3)])]
    assert len(set(names)) == len(names)
    last = {name.rsplit("/", 1)[1] for name in names}
    assert last >= {"mAP", "mAP50", "mAP75", "mAP_small", "mAP_medium", "mAP_large", "mIoU", "aAcc"}
    assert last >= {"mAcc", "BLEU-1", "BLEU-4", "CIDEr", "ROUGE-L", "Acc@0.5", "mean_IoU"}


def test_per_class__names_the_classes():
    pairs = [example("detection", id, noise=0) for id in range(6)]
    results = results_of("detection", pairs, callback=BoxMAP(per_class=True))
    assert {f"val/digits/detection/mAP/{name}" for name in CLASSES} <= set(results)


def test_grounding__answer_without_a_box_is_wrong():
    pairs = [example("grounding", id, noise=0) for id in range(4)]
    pairs[0][0].boxes = None
    pairs[1][0].boxes = torch.zeros(1, 4)
    assert headline("grounding", results_of("grounding", pairs)) == 0.5


def test_records__do_not_keep_what_predictions_are_views_of():
    prediction, target = example("detection", 0, noise=0)
    prediction.boxes = torch.zeros(100_000, 4)[: len(prediction.boxes)]
    callback = BoxMAP()
    callback.collect([prediction], batch_of("detection", [(prediction, target)]))
    boxes = callback._sources["digits/detection"].records[0][0]
    assert boxes.untyped_storage().nbytes() == boxes.numel() * 4


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("detection", {"scores": None}, "Prediction has no scores"),
        ("detection", {"classes": CLASSES[::-1]}, "same order"),
        ("instance_segmentation", {"masks": torch.zeros(3, 9, 9) > 0}, "original image's size"),
        ("semantic_segmentation", {"semantic": torch.zeros(9, 9)}, "original image's size"),
        ("detection", {"labels": torch.tensor([0, 1, 4])}, "map them to 0..3"),
    ],
)
def test_errors__name_source_and_image(task: str, change: dict, message: str):
    prediction, target = example(task, 7, noise=0)
    for name, value in change.items():
        setattr(prediction, name, value)
    with pytest.raises(ValueError, match=f"digits/{task}, image 7(.jpg)?: .*{message}"):
        results_of(task, [(prediction, target)])


def test_errors__missing_truth_and_missing_predictions():
    prediction, target = example("caption", 0, noise=0)
    target.captions = None
    with pytest.raises(ValueError, match="Target has no captions"):
        results_of("caption", [(prediction, target)])
    pairs = [example("grounding", id, noise=0) for id in range(2)]
    with pytest.raises(ValueError, match="1 predictions for 2 targets"):
        GroundingAccuracy().collect([pairs[0][0]], batch_of("grounding", pairs))
    with pytest.raises(ValueError, match="100 among them"):
        MaskMAP(max_detections=(1, 2, 3))


# under Lightning


def loaders(*sources: tuple[str, str, range]) -> list[DataLoader]:
    return [
        DataLoader(
            [
                batch_of(task, [example(task, id, 0) for id in ids[i : i + 2]], source)
                for i in range(0, len(ids), 2)
            ],
            batch_size=None,
        )
        for task, source, ids in sources
    ]


def trainer(*callbacks: MetricCallback, **settings) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        accelerator="cpu",
        devices=1,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **quiet,
        **settings,
    )


def test_trainer__logs_every_task_from_several_loaders():
    callbacks = {task: CALLBACKS[task]() for task in TASKS}
    data = loaders(*[(task, f"digits/{task}", range(5)) for task in TASKS])
    t = trainer(*callbacks.values())
    for run, stage in ((t.validate, "val"), (t.test, "test")):
        run(Replay(0.3), data, verbose=False)
        logged = {key: float(value) for key, value in t.callback_metrics.items()}
        for task, callback in callbacks.items():
            pairs = [example(task, id, 0.3) for id in range(5)]
            expected = {
                key.replace("val/", f"{stage}/", 1): value for key, value in results_of(task, pairs).items()
            }
            assert callback.results == expected
            assert {key: logged[key] for key in expected} == pytest.approx(expected, abs=1e-6)


class Calls(MeanIoU):
    """Counts the epochs that were computed and the images of each."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[int] = []

    def compute(self, stage: str) -> dict[str, float]:
        self.images.append(sum(len(source.records) for source in self._sources.values()))
        return super().compute(stage)


def test_trainer__starts_every_epoch_anew_and_ignores_the_sanity_check():
    task, callback = "semantic_segmentation", Calls()
    data = loaders((task, "digits/s", range(6)))
    t = trainer(callback, max_epochs=2, num_sanity_val_steps=2, limit_val_batches=2)
    t.fit(Replay(0.3), loaders((task, "digits/s", range(2)))[0], data)
    assert callback.images == [4, 4]
    assert set(callback.results) == {f"val/digits/s/{name}" for name in ("mIoU", "aAcc", "mAcc")}


def test_hooks__sanity_check_leaves_no_trace():
    callback = BoxMAP()
    pairs = [example("detection", 0, noise=0)]
    t = SimpleNamespace(sanity_checking=True)
    callback.on_validation_batch_end(t, None, [pairs[0][0]], batch_of("detection", pairs), 0)
    callback.on_validation_epoch_end(t, None)
    assert callback.results == {} and callback.compute("val") == {}
