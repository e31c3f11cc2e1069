"""What `ufo data check` finds by decoding samples: what is trained on is counted, what looks wrong is named.

Boxes are xyxy pixels of the original image. A class map's pixels count as objects do in other data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from ufo.data.errors import DataError
from ufo.model import UFO
from ufo.types import IGNORE, Sample, Target

LARGE_SHARE = 0.1  # of the pixels: more of them without a class are worth a warning
MARGIN = 1.0  # pixels by which a box may leave its image: tools round


@dataclass
class Seen:
    """What the decoded samples hold."""

    whole: bool = True  # whether every sample was decoded
    failed: list[str] = field(default_factory=list)  # left out of training, scored as a black image
    refused: list[str] = field(default_factory=list)  # evaluation ends there: nothing says what is right
    sides: list[tuple[int, int]] = field(default_factory=list)  # height, width
    labels: Counter[int] = field(default_factory=Counter)  # objects or pixels by class
    objects: int = 0
    leaving: list[str] = field(default_factory=list)  # boxes that leave their image
    inverted: list[str] = field(default_factory=list)  # boxes whose right or lower side is before the other
    wordless: list[str] = field(default_factory=list)  # samples that are asked without words
    texts: list[tuple[str, str]] = field(default_factory=list)  # place, what is asked or said

    @property
    def ignored(self) -> float:
        """The share of the pixels that do not count."""
        return self.labels[IGNORE] / max(sum(self.labels.values()), 1)


def decode(data: Any, count: int | None) -> Seen:
    """Decode `count` samples spread over the data set (None: all)."""
    total = len(data)
    spread = np.linspace(0, total - 1, min(total, count or total))  # nothing of an empty data set
    chosen = np.unique(spread.astype(int))
    seen = Seen(whole=len(chosen) == total)
    console = Console(stderr=True)
    for i in track(chosen, "decoding", transient=True, console=console, disable=not console.is_terminal):
        target = None
        try:
            target = data.target(int(i))
            sample = data[int(i)]
            _check_size(target, sample)
        except DataError as error:
            ends = target is None and not getattr(data, "train", False)
            (seen.refused if ends else seen.failed).append(f"sample {i}: {error}")
            continue
        _count(seen, f"sample {i}", target, sample)
        if "expression" in data.provides and not sample["text"].strip():
            seen.wordless.append(f"sample {i}")
    return seen


def _check_size(target: Target, sample: Sample) -> None:
    """A map of another size than its image is an error at evaluation as it is in training."""
    size = tuple(sample["image"].shape[-2:])
    if target.semantic is not None and tuple(target.semantic.shape) != size:
        raise DataError(
            f"{target.image}: the image is {size} (height, width), its map {tuple(target.semantic.shape)}."
        )


def _count(seen: Seen, place: str, target: Target, sample: Sample) -> None:
    seen.sides.append(tuple(sample["image"].shape[-2:]))
    kept = slice(None) if target.iscrowd is None else ~target.iscrowd.bool()
    labels = sample.get("labels") if "labels" in sample else target.labels
    if labels is not None:
        seen.labels.update((labels if "labels" in sample else labels[kept]).tolist())
    if target.semantic is not None:
        values, pixels = target.semantic.unique(return_counts=True)
        seen.labels.update(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
    if target.boxes is not None:
        boxes = target.boxes[kept]
        seen.objects += len(sample["boxes"]) if "boxes" in sample else len(boxes)
        height, width = target.size
        low, high = boxes[:, :2].amin(1) < -MARGIN, boxes[:, 2:] > torch.tensor([width, height]) + MARGIN
        seen.leaving += [place] * int((low | high.any(1)).sum())
        seen.inverted += [place] * int((boxes[:, 2:] < boxes[:, :2]).any(1).sum())
    text = sample.get("text") or (target.captions or [""])[0]
    if text:
        seen.texts.append((place, text))


def map_warnings(data: Any, seen: Seen) -> Iterator[str]:
    """What is odd about class maps: pixels that do not count, 0 and 255 for two classes, lossy files."""
    found = {label for label, pixels in seen.labels.items() if pixels and label != IGNORE}
    unknown = any(kind.startswith("label number") for kind in data.problems.counts)
    binary = seen.ignored > 0 and found == {0} and not unknown
    if binary:
        hint = (
            "`numbers: [0, 255]` makes 255 the second class" if len(data.classes) == 2 else "is that meant?"
        )
        yield f"all maps hold nothing but 0 and 255, and 255 does not count: {hint}"
    if seen.ignored > LARGE_SHARE or binary:
        yield f"{seen.ignored:.0%} of the pixels are 255 or have no class: neither trained nor scored"


def text_warnings(model: UFO, task: str, seen: Seen) -> Iterator[str]:
    """Texts that the model cannot write whole, or whose words it does not know."""
    chosen = model.tasks[task]
    strange = [place for place, text in seen.texts if not model.tokenizer.can_write(text)]
    if strange:
        yield (
            f"{len(strange):,}x text with pieces that the vocabulary lacks: the model cannot tell them "
            f"from each other (first: {strange[0]})"
        )
    if chosen.needs_text or not seen.texts:  # questions: see `ufo.check.texts`
        return
    tokens = model.tokenizer.encode([text for _, text in seen.texts])
    lengths = {place: len(ids) for (place, _), ids in zip(seen.texts, tokens, strict=True)}
    long = [place for place, length in lengths.items() if length > chosen.max_length]
    if long:
        # a language model learns them whole, since they continue its prompt
        effect = "learned, not said" if model.backbone.answers_continue_prompt else "cut"
        yield (
            f"{len(long):,}x answer of more than {chosen.max_length} tokens, {effect} (first: {long[0]} with "
            f"{lengths[long[0]]}); raise tasks.{task}.max_length"
        )
