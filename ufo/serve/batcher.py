"""The model's one thread: it asks about all waiting pictures with the same task and classes together.

The oldest job is always in the next batch, so none waits for ever. Each job has a future of its own, which is
the only place its answer goes to. Shapes: `S` pixels per side of the network's image.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ufo.head.casting import casting_once
from ufo.model import UFO
from ufo.serve.arose import Arose, arose
from ufo.serve.limits import Refused
from ufo.types import Batch, Prediction

log = logging.getLogger(__name__)

MOST_OBJECTS = 100  # of one picture
STOPPING = "the server is stopping; ask again when it is back"


@dataclass(frozen=True)
class Answered:
    """What the model said about one picture, on the CPU."""

    prediction: Prediction  # in pixels of `Job.size`
    seconds: dict[str, float]  # of each stage; those of a batch are the same for all of its pictures
    together: int  # pictures of the batch
    arose: Arose | None = None


@dataclass(eq=False)
class Job:
    """One task about one picture."""

    task: str
    classes: tuple[str, ...]
    text: str
    image: Tensor  # uint8 [3, S, S], as the network gets it
    size: tuple[int, int]  # (height, width) that masks and boxes refer to
    score: float = 0.0
    explain: bool = False
    done: Future[Answered] = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """Jobs with the same key can be asked together."""
        return self.task, self.classes


class Batcher:
    """Answers jobs until it is closed.

    Args:
        answer: from jobs with the same key to their answers, in order.
        most: jobs of one batch.
    """

    def __init__(self, answer: Callable[[Sequence[Job]], list[Answered]], most: int = 8) -> None:
        self.answer, self.most = answer, most
        self.batches = 0
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def closing(self) -> bool:
        """Whether nothing more is answered."""
        return self._closing

    def submit(self, jobs: Sequence[Job]) -> list[Future[Answered]]:
        """Let jobs wait. Raises Refused (503) when the server is stopping."""
        with self._changed:
            if self._closing:
                raise Refused(503, STOPPING)
            self._waiting.extend(jobs)
            self._changed.notify()
        return [job.done for job in jobs]

    def close(self, seconds: float = 30.0) -> bool:
        """Answer nothing more: what waits is refused, what runs may end. Whether it did end."""
        with self._changed:
            self._closing = True
            left = list(self._waiting)
            self._waiting.clear()
            self._changed.notify()
        for job in left:
            if job.done.set_running_or_notify_cancel():
                job.done.set_exception(Refused(503, STOPPING))
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while jobs := self._next():
            self._answer(jobs)
            self.batches += 1
            del jobs  # pictures of an answered batch must not wait for the next one

    def _next(self) -> list[Job]:
        """The oldest job and those that can be asked with it; none when the server is closing."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return []
                key = self._waiting[0].key
                chosen = [job for job in self._waiting if job.key == key][: self.most]
                for job in chosen:
                    self._waiting.remove(job)
            # whose user has gone is not answered
            if jobs := [job for job in chosen if job.done.set_running_or_notify_cancel()]:
                return jobs

    def _answer(self, jobs: Sequence[Job]) -> None:
        try:
            answers = self.answer(jobs)
        except Exception as error:
            if len(jobs) > 1:  # one user's picture must not spoil the others' answers
                for job in jobs:
                    self._answer([job])
                return
            log.warning("a request could not be answered: %s: %s", type(error).__name__, error)
            jobs[0].done.set_exception(error)
            return
        for job, answered in zip(jobs, answers, strict=True):
            job.done.set_result(answered)


class Clock:
    """Seconds of each stage since the one before."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._before = time.perf_counter()

    def lap(self, stage: str) -> None:
        """A stage has ended."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage] = now - self._before
        self._before = now


def ask_model(model: UFO, jobs: Sequence[Job]) -> list[Answered]:
    """Ask a model (in `eval` mode) about the pictures of jobs with the same key."""
    first, device = jobs[0], model.backbone.device
    task, clock = model.task(first.task), Clock(device)
    waited = [time.perf_counter() - job.since for job in jobs]
    batch = Batch(
        task=first.task,
        source="serve",
        classes=first.classes,
        images=torch.stack([job.image for job in jobs]).to(device),
        texts=[job.text for job in jobs],
        sizes=[job.size for job in jobs],
    )
    found = []
    with casting_once(model):
        for job, wait, answers in zip(jobs, waited, model.answer_batch(batch, clock.lap), strict=True):
            clock.lap("others")  # of the batch, before this one
            how = arose(answers, task.mask_tokens) if job.explain else None
            clock.lap("explain")
            kept = task.kind.confident(task.read(answers), job.score)
            prediction = task.kind.best(kept, MOST_OBJECTS).to("cpu")
            clock.lap("parse")
            stages = {name: clock.seconds[name] for name in ("encode", "decode", "parse")}
            found.append(Answered(prediction, {"wait": wait, **stages}, len(jobs), how))
    return found
