"""The base of all metrics: collect per image, gather once, compute on the union, log.

torchmetrics' own synchronisation stops or hangs when processes hold different numbers of images,
and counts the repeats that pad a distributed sampler's last batch. So each process keeps a small record per
image, one `all_gather_object` joins them, and repeats are dropped.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from ufo.evaluation_callback import EvaluationCallback
from ufo.kinds import Kind
from ufo.lightning_private import settings
from ufo.tasks import kind_of, task_class
from ufo.types import Batch, Prediction, Target

Record = tuple[Any, ...]


class _Source(NamedTuple):
    classes: tuple[str, ...]
    records: dict[int, Record]  # by Target.id


def required(record: Prediction | Target, *names: str) -> list[Any]:
    """The named attributes of a prediction or a target.

    Raises:
        ValueError: one of them is None.
    """
    missing = [name for name in names if getattr(record, name) is None]
    if missing:
        kind = type(record).__name__
        raise ValueError(f"its {kind} has no {' and no '.join(missing)}; set them, empty if none")
    return [getattr(record, name) for name in names]


def _in_a_group() -> bool:
    """Whether processes of this run, one or more, can speak to each other."""
    return dist.is_available() and dist.is_initialized()


@contextmanager
def _naming(source: str, image: int | str) -> Iterator[None]:
    """Say in a ValueError which image of which source it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source}, image {image}: {error}") from None


class MetricCallback(EvaluationCallback):
    """Log `val/{source}/{number}` after every validation.

    It wants `validation_step` to take a `Batch` with `targets` and to return one
    `Prediction` per image in original pixels; batches of other tasks, and steps that return None,
    are left out. Nothing is logged for a sanity check. `results` holds the last epoch's values by
    their full names; they are the same on every process.

    A metric is a subclass that says what it scores (one `task` by name; or a `kind`: all tasks of that kind
    of result that no other metric of the trainer names), which of its numbers is the `headline`, and which
    are `shown` beside it on a dashboard; with a `record` that boils an image down to the few arguments of
    the metric's `update`, and a `make_metric`.

    Args:
        headline: another one of the `numbers` as the headline: demo, sweep report and dashboard put it first.

    Raises:
        ValueError: there is no such number.
    """

    task: ClassVar[str] = ""
    kind: ClassVar[Kind | None] = None
    beside: ClassVar[bool] = False  # it says something of every task, beside the metrics that score it
    lower_is_better: ClassVar[frozenset[str]] = frozenset()  # those of its numbers that should be small
    headline: str
    shown: tuple[str, ...] = ()

    def __init__(self, headline: str | None = None) -> None:
        if headline is not None and headline not in self.numbers:
            raise ValueError(
                f"headline={headline} is none of the numbers of {type(self).__name__}; choose one of: "
                f"{', '.join(self.numbers)}"
            )
        self.headline = headline or self.headline
        self.results: dict[str, float | None] = {}  # None: these data do not define it
        self.headlines: set[str] = set()  # full names of those among the `results` that are headlines
        self.named: frozenset[str] = frozenset()  # tasks that other metrics name
        self._sources: dict[str, _Source] = {}
        self._shown: dict[tuple[str, int], int] = {}  # source and Target.id -> what tells its image and text

    def check(self) -> None:
        """Raises ValueError where a metric would score nothing, or be compared by a number that it lacks."""
        name = type(self).__name__
        if self.task:
            task_class(self.task)  # one that is not there is said with the nearest name
        elif self.kind is None and not self.beside:
            raise ValueError(f"the metric {name} scores nothing; name its `task` or its `kind`")
        known = self.given(())
        strange = sorted({self.headline, *self.lower_is_better} - {*known}) if known else []
        if strange:
            raise ValueError(
                f"the metric {name} has no number '{strange[0]}', which its headline or lower_is_better "
                f"names; it gives: {', '.join(known)}"
            )

    def scores(self, task: str) -> bool:
        """Whether this metric scores a task."""
        if self.beside:
            return True
        if self.task:
            return task == self.task
        return task not in self.named and self.kind is not None and self.kind.is_like(kind_of(task))

    @property
    def numbers(self) -> tuple[str, ...]:
        """What a dashboard shows, the headline first."""
        return tuple(dict.fromkeys((self.headline, *self.shown)))

    def given(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """The names of all its numbers; empty where only data can tell."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torchmetrics expects images first
                return tuple(self.make_metric(classes).compute())
        except Exception:  # a metric need not be defined without any image
            return ()

    def make_metric(self, classes: tuple[str, ...]) -> Metric | MetricCollection:
        """A new metric that does not synchronise and whose `compute` gives a dict of scalars.

        Args:
            classes: names of the labels of the source to evaluate.
        """
        raise NotImplementedError

    def record(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> Record:
        """The arguments of the metric's `update` for one image; tensors may be on any device."""
        raise NotImplementedError

    def collect(self, outputs: list[Prediction] | None, batch: Batch) -> None:
        """Record the images of a batch; an image whose `Target.id` is known already counts once.

        Raises:
            ValueError: a prediction is missing, has other classes or does not fit its target.
        """
        if outputs is None or not self.scores(batch.task):
            return
        if len(outputs) != len(batch.targets):
            raise ValueError(
                f"{batch.source}: {len(outputs)} predictions for {len(batch.targets)} targets; "
                "return one Prediction per image from validation_step"
            )
        source = self._sources.setdefault(batch.source, _Source(batch.classes, {}))
        for prediction, target in zip(outputs, batch.targets, strict=True):
            with _naming(batch.source, target.image or target.id):
                self._check_classes(prediction, source.classes)
                self._check_id(target, batch.source)
                record = self.record(prediction, target, source.classes)
                if not isinstance(record, tuple):
                    raise ValueError(
                        f"{type(self).__name__}.record gave a {type(record).__name__}; return the arguments "
                        "of the metric's `update` as a tuple"
                    )
            # a clone, since pickling a view would send all of the tensor it is a view of
            record = tuple(v.detach().cpu().clone() if isinstance(v, Tensor) else v for v in record)
            source.records.setdefault(target.id, record)

    def compute(self) -> dict[str, float | None]:
        """Values of everything collected on all processes: `val/{source}/{metric}` to number.

        Every process of a distributed run must call it; each gets the same values.
        """
        values: dict[str, float | None] = {}
        self.headlines = set()
        for source, (classes, records) in self._gather().items():
            metric = self.make_metric(classes)
            for id, record in sorted(records.items()):  # a fixed order: AP breaks ties by it
                with _naming(source, id):
                    metric.update(*record)
            for name, value in metric.compute().items():
                values[f"val/{source}/{name}"] = None if math.isnan(value) else float(value)
            if not self.beside:
                self.headlines.add(f"val/{source}/{self.headline}")
        return values

    def _check_id(self, target: Target, source: str) -> None:
        """Raises ValueError where an image has the id of another one: it would count as its repeat."""
        shown = hash((target.image, target.image_id, target.text))
        if self._shown.setdefault((source, target.id), shown) != shown:
            raise ValueError(
                f"its Target.id {target.id} is that of another sample, beside which it would not count; give "
                "every sample an id of its own, such as its index"
            )

    def _gather(self) -> dict[str, _Source]:
        """The records of all processes, each image once."""
        parts: list[Any] = [self._sources]
        if _in_a_group():
            parts = [None] * dist.get_world_size()
            dist.all_gather_object(parts, self._sources)
        union: dict[str, _Source] = {}
        for part in parts:
            for name, (classes, records) in part.items():
                known = union.setdefault(name, _Source(classes, {})).records
                known.update({id: record for id, record in records.items() if id not in known})
        return dict(sorted(union.items()))

    @staticmethod
    def _check_classes(prediction: Prediction, classes: tuple[str, ...]) -> None:
        if prediction.classes and classes and tuple(prediction.classes) != tuple(classes):
            raise ValueError(
                f"its Prediction's {len(prediction.classes)} classes are not the {len(classes)} of "
                "the data set in the same order; predict with the data set's class names"
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        share(metrics_of(settings(trainer).callbacks))

    def start(self) -> None:
        self._sources, self._shown = {}, {}

    def see(self, trainer: Trainer, outputs: Any, batch: Batch) -> None:
        self.collect(outputs, batch)

    def finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.results = self.compute()
        # All processes have the same numbers. "max" leaves them as they are and keeps Lightning
        # from warning that they are not synchronised, as it does in a group of one process, too.
        # What these data do not define (no object of that size) is not a number and would be plotted as one.
        values = {name: value for name, value in self.results.items() if value is not None}
        pl_module.log_dict(values, sync_dist=_in_a_group(), reduce_fx="max")
        self._sources, self._shown = {}, {}


def metrics_of(callbacks: Iterable[Any]) -> list[MetricCallback]:
    """The metrics among a trainer's callbacks."""
    return [callback for callback in callbacks if isinstance(callback, MetricCallback)]


def share(metrics: Iterable[MetricCallback]) -> None:
    """Tell each metric of a kind which tasks others name, so that their order does not matter."""
    metrics = list(metrics)
    for metric in metrics:
        metric.named = frozenset(other.task for other in metrics if other.task)


def scoring(task: str, callbacks: Iterable[Any], beside: bool = False) -> list[MetricCallback]:
    """Those of some callbacks that score a task; none: its sources have no metric.

    With `beside` also those that say something of every task.
    """
    metrics = metrics_of(callbacks)
    share(metrics)
    return [metric for metric in metrics if metric.scores(task) and (beside or not metric.beside)]
