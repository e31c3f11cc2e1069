"""What a mixture expects of a data set and of its samples, and the errors of those that do not give it.

How to write one: docs/extending.md. `where` begins a message.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ufo.types import Sample, Target


@runtime_checkable
class Dataset(Protocol):
    """What a source needs of a data set (map-style)."""

    classes: tuple[str, ...]
    provides: frozenset[str]  # some of `ufo.types.ANNOTATIONS`

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def target(self, index: int) -> Target: ...

    def portrait(self) -> Tensor: ...


def key_of(annotation: str) -> str:
    """Where a `Sample` holds an annotation."""
    return "text" if annotation in ("expression", "caption") else annotation


def check_provided(data: Dataset, needs: Set[str], where: str, task: str, split: str) -> None:
    """Raises ValueError where data do not have what a task needs."""
    missing = needs - data.provides
    if missing:
        raise ValueError(
            f"{where}the task {task!r} needs {', '.join(sorted(missing))}, which its {split} data do not "
            f"have; they have: {', '.join(sorted(data.provides)) or 'nothing'}."
        )


def check_filled(data: Any, needs: Set[str], where: str, split: str) -> None:
    """Raises ValueError where data have no sample, or nothing in them that a task could use."""
    if not len(data):
        raise ValueError(f"{where}its {split} data has no samples.")
    lacks = None
    if hasattr(data, "label_sets") and not len(data.label_sets()[1]):
        lacks = "object"
    if "semantic" in needs and hasattr(data, "any_pixel") and not data.any_pixel():
        lacks = "pixel"
    if lacks:
        use = "learn from" if split == "train" else "score"
        found = f" ({data.problems.summary()})" if hasattr(data, "problems") else ""
        raise ValueError(
            f"{where}none of the {len(data)} images of its {split} data has a usable {lacks}, so there is "
            f"nothing to {use}{found}; correct them, or set {split} to null."
        )


def complete(sample: Sample, keys: Set[str], where: str) -> Sample:
    """A training sample as its format gave it; ValueError where it lacks one of the keys."""
    lacking = sorted(key for key in keys if key not in sample)
    if lacking:
        raise ValueError(
            f"{where} has no {' and no '.join(lacking)}, although its data set provides what the task needs; "
            "give them in `__getitem__` where `train` is true"
        )
    check_sizes(sample, where)
    return sample


def check_sizes(sample: Mapping[str, Any], where: str) -> None:
    """Raises ValueError where maps are not of their image's size, to which they would be stretched.

    And where there is not one of each annotation for every object.
    """
    size = tuple(sample["image"].shape[-2:])
    for key in ("masks", "semantic"):
        found = tuple(sample[key].shape[-2:]) if key in sample else size
        if found != size:
            raise ValueError(
                f"{where}: its {key} are {found} (height, width) and its image is {size}; a data set gives "
                "both in pixels of the file"
            )
    lengths = {key: len(sample[key]) for key in ("boxes", "labels", "masks") if key in sample}
    if len({*lengths.values()}) > 1:
        raise ValueError(f"{where} has {lengths}; give one of each for every object")
