"""One (data set, task) pair of a mixture: its data, its transforms, what happens to bad samples.

A bad training sample is replaced by another one; at evaluation it is scored on a blank image, so
that it counts as a miss instead of disappearing. Both are counted and named once in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from ufo.data.absent import WithAbsent
from ufo.data.contract import Dataset, check_filled, check_provided, check_sizes, complete, key_of
from ufo.data.errors import DataError
from ufo.data.sampling import capped, class_balanced
from ufo.tasks import task_class
from ufo.types import Sample, Target

log = logging.getLogger(__name__)

Transform = Callable[[Sample], "Sample | None"]

MAX_BLANK = 1024
"""Longest side, in pixels, of the image that stands in for an unreadable one at evaluation."""
_SEEN = ("image", "text", "sentence")  # what a model may see of an evaluation sample
MAX_NAMED = 20
"""So many unusable samples of a split are named in the log; further ones are only counted."""


@dataclass
class Source:
    """One (data set, task) pair of a mixture; data sets are built on first use only.

    Args:
        name: `<data set>/<task>`, unique in the mixture; the prefix of every metric's name.
        task: the task this source is used for; its data sets must provide what it needs.
        train, val: factories of the two data sets; `None` if the source lacks that split.
        train_transform, val_transform: applied to every sample; random numbers come from torch's
            default CPU generator. A training transform may return `None` to reject a sample; one
            that has a method `bind` is given the training data (copy-paste draws from it).
        weight: share of the training batches, relative to the other sources' weights.
        batch_size: images per training batch and rank.
        val_batch_size: images per evaluation batch and rank; `None`: as in training.
        group_by_orientation: a training batch holds only portrait or only landscape images.
        absent: share of the samples of both splits that ask for what is not there, with an expression of
            another image (`ufo.data.absent`); these come beside the data set's own.
        also_ask: names that an evaluation asks for beside the data set's classes, and that no image shows:
            what is found under them is invented (`ufo.metrics.presence`).
        max_samples: so many of the training samples are used, always the same ones; `None`: all.
        repeat_threshold: training images of classes in a smaller share of the images than this come several
            times per pass (`ufo.data.sampling.class_balanced`); `None`: every image comes once.
        max_tries: bad samples in a row after which training stops with an error.
    """

    name: str
    task: str
    train: Callable[[], Dataset] | None = None
    val: Callable[[], Dataset] | None = None
    train_transform: Transform | None = None
    val_transform: Transform | None = None
    weight: float = 1.0
    batch_size: int = 1
    val_batch_size: int | None = None
    group_by_orientation: bool = False
    absent: float = 0.0
    also_ask: Sequence[str] = ()
    max_samples: int | None = None
    repeat_threshold: float | None = None
    max_tries: int = 20
    _data: dict[str, Dataset] = field(default_factory=dict, init=False, repr=False)
    _bad: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _limits: dict[str, dict[int, str]] = field(default_factory=dict, init=False, repr=False)
    _keys: frozenset[str] = field(default=frozenset(), init=False, repr=False)  # of a training sample
    _groups: list[np.ndarray] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for key, size in (("batch_size", self.batch_size), ("val_batch_size", self.val_batch_size)):
            if size is not None and size < 1:
                raise ValueError(f"Source {self.name!r}: {key} must be at least 1, not {size}.")
        if not (np.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"Source {self.name!r}: weight must be zero or positive, not {self.weight}.")

    def has(self, split: str) -> bool:
        """Whether this source has a data set for `split` ("train" or "val")."""
        return getattr(self, split) is not None

    def data(self, split: str) -> Dataset:
        """The data set of `split` ("train" or "val"), built on the first call.

        Raises:
            ValueError: the split is missing or empty, or its data lack what the task needs.
        """
        if split not in self._data:
            factory = getattr(self, split)
            if factory is None:
                raise ValueError(f"Source {self.name!r} has no {split} data; set its {split!r}.")
            data = self._data[split] = self._sampled(self._usable(factory(), split), split)
            # unusable, rejected: shared memory, so that the main process sees what workers met
            self._bad[split] = torch.zeros(2, len(data), dtype=torch.uint8).share_memory_()
            bind = getattr(self.train_transform, "bind", None)
            if split == "train" and bind is not None:
                bind(data)
        return self._data[split]

    def classes(self, split: str) -> tuple[str, ...]:
        """The names that a prompt asks for: those of the data of `split`, at evaluation `also_ask` as well.

        Raises ValueError where `also_ask` repeats a class, or the task asks for none.
        """
        names = self.data(split).classes
        if split == "train" or not self.also_ask:
            return names
        if isinstance(self.also_ask, str):  # its letters would be asked for
            raise ValueError(
                f"Source {self.name!r}: also_ask={self.also_ask} must be a list: also_ask=[{self.also_ask}]."
            )
        repeated = sorted({*names} & {*self.also_ask})
        why = ""
        if not names:
            why = f"its task {self.task!r} asks for no class names; leave it out"
        elif repeated:
            why = f"{repeated[0]!r} is a class of its data; take it out of the list"
        elif len({*self.also_ask}) < len(self.also_ask):
            why = "a name is there twice; name each once"
        if why:
            raise ValueError(f"Source {self.name!r}: also_ask={list(self.also_ask)}: {why}.")
        return (*names, *self.also_ask)

    @property
    def built(self) -> tuple[str, ...]:
        """The splits whose data sets are there."""
        return tuple(self._data)

    def limit(self, split: str, texts: Mapping[int, str]) -> None:
        """Let samples, by number, be asked with other texts: the model cannot read their own.

        Training takes other samples in their place. They are counted already, where that was found out.
        """
        self._limits[split] = dict(texts)

    def _sampled(self, data: Dataset, split: str) -> Dataset:
        """The training data with their cap and repeats; evaluation always has every sample once.

        What is absent is asked for in either.
        """
        if self.absent:
            data = WithAbsent(data, self.absent)
        if split == "train" and self.max_samples is not None:
            data = capped(data, self.max_samples)
        if split == "train" and self.repeat_threshold is not None:
            data = class_balanced(data, self.repeat_threshold)
        return data

    def _usable(self, data: Dataset, split: str) -> Dataset:
        """The data, told what is asked of them. Raises ValueError where they do not have it."""
        needs = task_class(self.task).needs
        self._keys = frozenset(map(key_of, needs))
        check_provided(data, needs, f"Source {self.name!r}: ", self.task, split)
        if hasattr(data, "serve"):
            data.serve(needs, pasting=split == "train" and hasattr(self.train_transform, "bind"))
        check_filled(data, needs, f"Source {self.name!r}: ", split)
        return data

    def groups(self) -> list[np.ndarray]:
        """Indices of the training samples that may share a batch, one int64 array per group."""
        if self._groups is None:
            data = self.data("train")
            self._groups = [np.arange(len(data))]
            if self.group_by_orientation:
                portrait = data.portrait().numpy().astype(bool)
                groups = np.flatnonzero(portrait), np.flatnonzero(~portrait)
                self._groups = [group for group in groups if len(group)]
        return self._groups

    def sample(self, index: int, seed: int) -> Sample:
        """One augmented training sample; everything random about it follows from `seed`.

        A sample that is unusable or that the transform rejects is counted, named once in the log,
        and replaced by another one drawn with the same seed.

        Raises:
            DataError: `max_tries` samples in a row were unusable.
        """
        data, reason = self.data("train"), ""
        unreadable = self._limits.get("train", {})
        with _seeded(seed):
            for _ in range(self.max_tries):
                try:
                    if index in unreadable:
                        raise DataError("the model cannot read its text")
                    found = complete(data[index], self._keys, f"Source {self.name!r}: train sample {index}")
                    sample = found if self.train_transform is None else self.train_transform(found)
                    if sample is not None:
                        return sample
                    reason = "the training transform rejected it"
                    self._note("train", index, reason, rejected=True)
                except DataError as error:
                    reason = str(error)
                    self._note("train", index, reason)
                index = self._another(index)
        raise DataError(
            f"Source {self.name!r}: {self.max_tries} training samples in a row were unusable, the "
            f"last one because: {reason}. Check the data set's paths and the training transform."
        )

    def evaluation_sample(self, index: int) -> Sample:
        """One evaluation sample: what a model may see (image, text and its kind) and the `target`.

        An unusable image is counted, named once in the log, and replaced by a blank one, so that
        its objects count as missed.
        """
        data = self.data("val")
        target = data.target(index)
        try:
            whole: dict[str, Any] = {**data[index]}
            check_sizes(whole, f"Source {self.name!r}: val sample {index}")
            seen = cast(Sample, {"text": "", **{k: whole[k] for k in _SEEN if k in whole}})
            if (said := self._limits.get("val", {}).get(index)) is not None:
                seen["text"] = said
        except DataError as error:
            self._note("val", index, f"scored as a blank image: {error}")
            seen = _blank(target)
        with _seeded(index):
            sample = seen if self.val_transform is None else self.val_transform(seen)
        if sample is None:
            raise DataError(
                f"Source {self.name!r}: the evaluation transform rejected sample {index}; "
                "evaluation must score every sample, so use a transform that keeps them all."
            )
        return {**sample, "target": target}

    def problems(self, split: str) -> tuple[int, int]:
        """How many different samples were unusable, and were rejected by the transform, so far."""
        unusable, rejected = self._bad[split].sum(1).tolist() if split in self._bad else (0, 0)
        return unusable, rejected

    def _another(self, index: int) -> int:
        """A random training sample of the same group."""
        group = next(group for group in self.groups() if index in group)
        return int(group[torch.randint(len(group), ())])

    def _note(self, split: str, index: int, reason: str, rejected: bool = False) -> None:
        bad = self._bad[split][int(rejected)]
        if bad[index]:
            return
        bad[index] = 1
        # a random crop may lose the objects of any sample now and then: one example is enough
        named = int(bad.sum())
        if named <= (1 if rejected else MAX_NAMED):
            more = ", more are only counted" if rejected or named == MAX_NAMED else ""
            log.warning("%s: %s sample %d: %s%s", self.name, split, index, reason, more)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's CPU generator starts at `seed` inside and is as before outside."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also reseed the GPUs, which fork_rng(devices=[]) does not restore
        torch.default_generator.manual_seed(seed)
        yield


def _blank(target: Target) -> Sample:
    """A black image of the target's aspect ratio."""
    scale = min(1.0, MAX_BLANK / max(target.size))
    height, width = (max(1, round(side * scale)) for side in target.size)
    image = tv_tensors.Image(torch.zeros(3, height, width, dtype=torch.uint8))
    blank: Sample = {"image": image, "text": target.text}
    return blank if target.sentence is None else {**blank, "sentence": target.sentence}
