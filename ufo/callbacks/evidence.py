"""What a report needs of an evaluation: what was found, missed and mistaken for what, and pictures of it.

Written to `folder/evidence.json` at the end of a validation; `ufo.report` makes the page of it. Every image
counts once, whatever the number of processes. Shapes: `S` steps of a score from 0 to 1.
"""

from __future__ import annotations

import copy
import io
import logging
from base64 import b64encode
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer

from ufo.baselines import TrivialPredictor
from ufo.callbacks.pictures import Example
from ufo.callbacks.sources import sources_of
from ufo.data.errors import DataError
from ufo.draw import side_by_side
from ufo.evaluation_callback import EvaluationCallback
from ufo.files import write_json
from ufo.kinds.compared import Compared
from ufo.lightning_private import settings
from ufo.metrics.base import MetricCallback, metrics_of
from ufo.tasks import kind_of
from ufo.types import Batch, Prediction

log = logging.getLogger(__name__)

FILE = "evidence.json"
STEPS = 200  # S
MOST_OBJECTS = 100  # of an image that are compared
DRAWN_OBJECTS = 10  # of these, the most certain ones


@dataclass
class Seen:
    """One image of a source."""

    file: str
    score: float
    compared: Compared


class Evidence(EvaluationCallback):
    """Keeps what a report shows.

    Args:
        folder: where to write; None: nothing is kept.
        worst, best: pictures of each source.
        of_each: further pictures for each thing that can be wrong, so that each can be looked at.
        trivial_samples: training samples of each source from which the answer that has not looked is made;
            0: no such answer.
        max_side: longest side in pixels of one drawn image.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        worst: int = 12,
        best: int = 6,
        of_each: int = 4,
        trivial_samples: int = 100,
        max_side: int = 320,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.worst, self.best, self.of_each, self.max_side = worst, best, of_each, max_side
        self.trivial_samples = trivial_samples
        self._seen: dict[str, dict[int, Seen]] = {}
        self._examples: dict[str, dict[int, Example]] = {}
        self._trivial: TrivialPredictor | None = None
        self._metrics: list[MetricCallback] = []

    def start(self) -> None:
        self._seen, self._examples, self._trivial, self._metrics = {}, {}, None, []

    def see(self, trainer: Trainer, outputs: Any, batch: Batch) -> None:
        if self.folder is None or outputs is None:
            return
        self.collect(outputs, batch)
        if self.trivial_samples:
            self._see_trivial(trainer, batch)

    def collect(self, outputs: list[Prediction], batch: Batch) -> None:
        """Keep what a batch adds, and the examples that may be shown."""
        kind = kind_of(batch.task)
        seen = self._seen.setdefault(batch.source, {})
        examples = self._examples.setdefault(batch.source, {})
        for prediction, target in zip(outputs, batch.targets, strict=True):
            score = kind.score(prediction, target, batch.classes)
            if score is None or target.id in seen:
                continue
            small = kind.best(prediction, MOST_OBJECTS).to("cpu")
            compared = kind.compare(small, target, batch.classes)
            seen[target.id] = Seen(Path(target.image).name, score, compared)
            examples[target.id] = Example(kind.best(small, DRAWN_OBJECTS), target, batch.classes)
        if len(examples) > 2 * (self.worst + self.best + self.of_each):  # masks of photos fill memory
            shown = self._chosen(seen)
            self._examples[batch.source] = {id: e for id, e in examples.items() if id in shown}

    def _chosen(self, seen: dict[int, Seen]) -> list[int]:
        """The images that are shown: the worst, the best, and some of each thing that can be wrong."""
        order = sorted(seen, key=lambda id: (seen[id].score, id))
        chosen = dict.fromkeys([*order[: self.worst], *order[::-1][: self.best]])
        count: dict[str, int] = defaultdict(int)
        for id in order:
            for what in {what for what, _ in seen[id].compared.faults}:
                if count[what] < self.of_each:
                    chosen[id] = None
                    count[what] += 1
        return list(chosen)

    # --- the answer that has not looked

    def _see_trivial(self, trainer: Trainer, batch: Batch) -> None:
        if self._trivial is None:
            self._start_trivial(trainer)
        if self._trivial is not None and batch.source in self._trivial.usual:
            answers = self._trivial.predict_batch(batch)
            for metric in self._metrics:
                metric.collect(answers, batch)

    def _start_trivial(self, trainer: Trainer) -> None:
        self._trivial = TrivialPredictor([], 0)
        sources = sources_of(trainer)
        for source in sources:
            if not source.has("train"):
                continue
            try:  # an evaluation draws no training scenes, and needs no training data
                one = TrivialPredictor([source] if len(source.data("train")) else [], self.trivial_samples)
            except (DataError, OSError, ValueError) as error:
                log.debug("%s: %s", source.name, error)
                continue
            self._trivial.usual |= one.usual
        without = [s.name for s in sources if s.has("train") and s.name not in self._trivial.usual]
        if without:
            log.info(
                "The report has no trivial answer beside %s: no training data to make it from.",
                ", ".join(without),
            )
        metrics = metrics_of(settings(trainer).callbacks)
        self._metrics = [copy.copy(metric) for metric in metrics if not metric.beside]
        for metric in self._metrics:
            metric.start()

    # --- the end

    def finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.folder is None:
            return
        if self.trivial_samples and self._trivial is None:  # this process has seen no batch, others have
            self._start_trivial(trainer)
        trivial = {name: value for metric in self._metrics for name, value in metric.compute().items()}
        seen = _joined(self._seen)
        chosen = {source: self._chosen(images) for source, images in seen.items()}
        mine = {
            source: {id: self._examples[source][id] for id in ids if id in self._examples.get(source, {})}
            for source, ids in chosen.items()
        }
        examples = _joined(mine)
        if trainer.is_global_zero:
            sources = {
                name: {**tallies(images), "pictures": self._pictures(images, examples.get(name, {}))}
                for name, images in seen.items()
            }
            try:
                write_json(self.folder / FILE, {"trivial": trivial, "sources": sources})
            except OSError as error:
                log.warning("What a report needs could not be written to %s: %s", self.folder, error)
        self.start()

    def _pictures(self, images: dict[int, Seen], examples: dict[int, Example]) -> list[dict[str, Any]]:
        """Drawn examples, the worst one first."""
        found = []
        for id in sorted(examples, key=lambda id: (images[id].score, id)):
            example, seen = examples[id], images[id]
            answer, truth = example.kind.in_words(example.prediction, example.target, example.classes)
            picture = side_by_side(
                *(example.image(), example.prediction, example.target, example.classes),
                min_side=self.max_side // 2,
                max_side=self.max_side,
            )
            file = io.BytesIO()
            picture.save(file, "WEBP", quality=60)
            found.append(
                {
                    "file": seen.file,
                    "score": round(seen.score, 4),
                    "names": seen.compared.names,
                    "faults": sorted({what for what, _ in seen.compared.faults}),
                    "said": f"answer: {answer}; truth: {truth}",
                    "picture": "data:image/webp;base64," + b64encode(file.getvalue()).decode(),
                }
            )
        return found


def tallies(images: dict[int, Seen]) -> dict[str, Any]:
    """Counts of a source: predictions by class and score, objects by class and size, pairs, faults."""
    said: dict[str, list[list[int]]] = defaultdict(lambda: [[0] * STEPS, [0] * STEPS])
    there: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    pairs: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    faults: dict[str, int] = defaultdict(int)
    for seen in images.values():
        compared = seen.compared
        for name, score, right in compared.said:
            said[name][int(right)][min(int(score * STEPS), STEPS - 1)] += 1
        for name, size, found in compared.there:
            there[name][size][0] += int(found)
            there[name][size][1] += 1
        for name, other, weight in compared.pairs:
            pairs[name][other] += weight
        for what, _ in compared.faults:
            faults[what] += 1
    scores = [round(seen.score, 4) for seen in images.values()]
    return {
        "images": len(images),
        "scores": scores,
        "said": said,
        "there": there,
        "pairs": pairs,
        "faults": faults,
    }


def _joined(mine: dict[str, dict[int, Any]]) -> dict[str, dict[int, Any]]:
    """By source and image, what any process has; an image that padding repeats is there once."""
    parts: list[Any] = [mine]
    if dist.is_available() and dist.is_initialized():
        parts = [None] * dist.get_world_size()
        dist.all_gather_object(parts, mine)
    union: dict[str, dict[int, Any]] = {}
    for part in parts:
        for source, images in part.items():
            union.setdefault(source, {}).update(images)
    return {source: dict(sorted(images.items())) for source, images in sorted(union.items())}
