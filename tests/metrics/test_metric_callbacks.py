"""Properties that every metric callback has, and the hooks under a real Trainer."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
import yaml
from commands import ROOT
from hydra.utils import get_class
from lightning.pytorch import Trainer
from metric_examples import CLASSES, METRICS, Replay, batch_of, example, metric_for
from torch.utils.data import DataLoader
from trainers import quiet_trainer

from ufo.metrics.base import MetricCallback, scoring
from ufo.metrics.box_map import BoxMAP
from ufo.metrics.grounding import GroundingAccuracy
from ufo.metrics.mask_map import MaskMAP
from ufo.metrics.mean_iou import MeanIoU
from ufo.tasks import kind_of, task_names

TASKS = task_names()
every_task = pytest.mark.parametrize("task", TASKS)


def results_of(
    task: str, pairs: list, size: int = 2, callback: MetricCallback | None = None
) -> dict[str, float]:
    callback = callback or metric_for(task)
    for start in range(0, len(pairs), size):
        part = pairs[start : start + size]
        callback.collect([prediction for prediction, _ in part], batch_of(task, part))
    return callback.compute()


def headline(task: str, results: dict[str, float]) -> float:
    return results[f"val/digits/{task}/{metric_for(task).headline}"]


@every_task
def test_perfect_predictions__give_one(task: str):
    results = results_of(task, [example(task, id, noise=0) for id in range(4)])
    assert headline(task, results) == pytest.approx(1)
    assert all(value is None or value > 0.5 for value in results.values())  # None: no large objects


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
    callback = metric_for(task)
    for source, noise in (("digits/" + task, 0.0), ("shifted/" + task, 0.8)):
        # the same ids in both: they are unique only within a source
        pairs = [example(task, id, noise) for id in range(4)]
        callback.collect([p for p, _ in pairs], batch_of(task, pairs, source))
    results, name = callback.compute(), metric_for(task).headline
    assert results[f"val/digits/{task}/{name}"] == pytest.approx(1)
    assert results[f"val/shifted/{task}/{name}"] < 0.9
    assert {key.split("/")[1] for key in results} == {"digits", "shifted"}


@every_task
def test_other_tasks_and_steps_without_predictions__are_left_out(task: str):
    callback = metric_for(task)
    callback.collect(None, batch_of(task, [example(task, 0, 0)]))
    for other in TASKS:
        if other != task:
            pairs = [example(other, 0, 0)]
            callback.collect([p for p, _ in pairs], batch_of(other, pairs))
            assert (callback.compute() == {}) == (not callback.scores(other))
            callback.start()


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


def test_errors__two_samples_of_one_id():
    """The second one would not count, as a repeat that pads a batch does not."""
    pairs = [example("grounding", 3, noise=0) for _ in range(2)]
    results_of("grounding", pairs)
    pairs[1][1].text = "another one"
    with pytest.raises(ValueError, match=r"Target\.id 3 is that of another sample"):
        results_of("grounding", pairs)


def test_errors__a_metric_that_would_score_nothing_or_be_compared_by_nothing():
    changes = [
        ({"task": "detectoin"}, "did you mean 'detection'"),
        ({"task": "", "kind": None}, "Changed scores nothing; name its `task` or its `kind`"),
        ({"headline": "AP"}, "no number 'AP', .* gives: mAP, "),
        ({"lower_is_better": frozenset({"error"})}, "no number 'error'"),
        ({"record": lambda self, *given: 1}, "Changed.record gave a int"),
    ]
    for change, said in changes:
        with pytest.raises(ValueError, match=said):
            metric = type("Changed", (BoxMAP,), change)()
            metric.check()
            results_of("detection", [example("detection", 0, noise=0)], callback=metric)


# who scores what


@every_task
def test_a_task_is_scored_by_exactly_one_metric_in_any_order(task: str):
    """Its own, if there is one, otherwise that of its kind."""
    for seed in range(3):
        metrics = [metric() for metric in METRICS]
        random.Random(seed).shuffle(metrics)
        (found,) = scoring(task, metrics)
        assert found.task == task or found.kind.is_like(kind_of(task))
        assert found.task == task or not any(metric.task == task for metric in metrics)


def test_the_metrics_of_the_project_lack_nothing():
    for metric in METRICS:
        metric().check()


@every_task
def test_the_headline_is_one_of_the_numbers(task: str):
    metric = metric_for(task)
    results = results_of(task, [example(task, id, 0.1) for id in range(3)], callback=metric)
    assert metric.headlines == {f"val/digits/{task}/{metric.headline}"} <= results.keys()
    assert metric.numbers[0] == metric.headline
    assert {f"val/digits/{task}/{number}" for number in metric.numbers} <= results.keys()
    other = metric.shown[0]
    assert metric_for(task, headline=other).numbers[0] == other
    with pytest.raises(ValueError, match=f"choose one of: {metric.headline}"):
        metric_for(task, headline="mAP5")


def test_every_metric_has_one_name():
    """`conf/metric/<name>.yaml` names a class of `ufo/metrics/<name>.py`; so is its key in `callbacks`."""
    files = sorted((ROOT / "conf" / "metric").glob("*.yaml"))
    assert len(files) >= len(METRICS)
    for file in files:
        target = yaml.safe_load(file.read_text())["_target_"]
        assert target.rpartition(".")[0] == f"ufo.metrics.{file.stem}"
        assert issubclass(get_class(target), MetricCallback)
    listed = yaml.safe_load((ROOT / "conf" / "callbacks" / "metrics.yaml").read_text())["defaults"]
    assert all(entry == {f"/metric@{name}": name} for entry in listed for name in entry.values())


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
    return quiet_trainer(
        devices=1,
        callbacks=list(callbacks),
        **settings,
    )


def test_trainer__logs_every_task_from_several_loaders():
    metrics = [metric() for metric in METRICS]
    callbacks = {task: scoring(task, metrics)[0] for task in TASKS}
    data = loaders(*[(task, f"digits/{task}", range(5)) for task in TASKS])
    t = trainer(*metrics)
    t.validate(Replay(0.3), data, verbose=False)
    logged = {key: float(value) for key, value in t.callback_metrics.items()}
    for task, callback in callbacks.items():
        expected = results_of(task, [example(task, id, 0.3) for id in range(5)])
        assert expected.items() <= callback.results.items()
        defined = {key: value for key, value in expected.items() if value is not None}
        assert {key: logged[key] for key in defined} == pytest.approx(defined, abs=1e-6)
        assert not (expected.keys() - defined.keys()) & logged.keys()  # never plotted as a number


class Calls(MeanIoU):
    """Counts the epochs that were computed and the images of each."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[int] = []

    def compute(self) -> dict[str, float]:
        self.images.append(sum(len(source.records) for source in self._sources.values()))
        return super().compute()


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
    assert callback.results == {} and callback.compute() == {}
