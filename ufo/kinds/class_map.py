"""A class map: one class for every pixel (semantic segmentation). Shapes: `H W` pixels, `C` classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ufo.kinds.base import ImageInfo, Kind, Shown, Usual
from ufo.kinds.coco import category, scaled_rle
from ufo.kinds.compared import EXTRA, GOOD, MISSED, NOTHING, POOR, Compared
from ufo.kinds.found import Found
from ufo.kinds.marks import Marks, class_name
from ufo.kinds.overlays import class_map, mask_layers
from ufo.ops.masks import mask_boxes
from ufo.ops.overlap import class_histograms, mean_iou
from ufo.types import IGNORE, Prediction, Target, given


@dataclass(frozen=True, kw_only=True)
class ClassMap(Kind):
    """The class of every pixel."""

    masks: bool = True

    def records(
        self, prediction: Prediction, image: ImageInfo, predicted_size: tuple[int, int], text: str = ""
    ) -> list[dict[str, Any]]:
        """One record per class that is there, in the order of the classes."""
        semantic = given(prediction.semantic, "semantic maps")
        return [
            {
                **image.head,
                **category(label, prediction),
                "segmentation": scaled_rle(semantic == label, image.size),
            }
            for label in semantic.unique().tolist()
            if label != IGNORE
        ]

    def found(self, prediction: Prediction, text: str = "") -> Iterator[Found]:
        """All pixels of a class as one, for each class that is there."""
        semantic = given(prediction.semantic, "semantic maps")
        for label in semantic.unique().tolist():
            if label != IGNORE:
                mask = semantic == label
                x1, y1, x2, y2 = mask_boxes(mask[None])[0].tolist()
                yield Found(class_name(label, prediction.classes), (x1, y1, x2, y2), label, mask=mask)

    def summary(self, prediction: Prediction, min_score: float, text: str = "") -> str:
        labels, counts = given(prediction.semantic, "semantic maps").unique(return_counts=True)
        pairs = zip((counts / counts.sum()).tolist(), labels.tolist(), strict=True)
        names = {label: prediction.classes[label] for label in labels.tolist() if label != IGNORE}
        return ", ".join(f"{names.get(label, 'unknown')} {s:.0%}" for s, label in sorted(pairs, reverse=True))

    def in_words(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> tuple[str, str]:
        found, truth = (given(part.semantic, "semantic maps") for part in (prediction, target))
        return _names(found, classes), _names(truth, classes)

    def predicted(self, prediction: Prediction, shown: Shown) -> Marks:
        return Marks(semantic=prediction.semantic, notes=shown.notes)

    def overlays(
        self,
        prediction: Prediction,
        target: Target,
        classes: tuple[str, ...],
        size: tuple[int, int],
        min_score: float = 0.0,
    ) -> dict[str, Any]:
        truth = None if target.semantic is None else class_map(target.semantic)
        found = class_map(given(prediction.semantic, "semantic maps"))
        return mask_layers(found, truth, classes, size)

    def score(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> float | None:
        """The mean IoU of the classes in this image."""
        if target.semantic is None:
            return None
        found = given(prediction.semantic, "semantic maps")
        histograms = class_histograms(found, target.semantic, len(classes), IGNORE)
        return float(mean_iou(histograms))

    def compare(
        self, prediction: Prediction, target: Target, classes: tuple[str, ...], certain: float = 0.3
    ) -> Compared:
        """A class is found where the IoU of its pixels is 0.5 or more; pairs count pixels."""
        if target.semantic is None:
            return Compared()
        result, found = Compared(), given(prediction.semantic, "semantic maps").long()
        truth = target.semantic.long()
        known = truth != IGNORE
        pairs, counts = torch.stack([truth[known], found[known]]).unique(dim=1, return_counts=True)
        table = {(t, f): n for (t, f), n in zip(pairs.T.tolist(), counts.tolist(), strict=True)}
        for (t, f), n in table.items():
            said = NOTHING if f == IGNORE else class_name(f, classes)
            result.pairs.append((class_name(t, classes), said, float(n)))
        annotated, predicted = {t for t, _ in table}, {f for _, f in table} - {IGNORE}
        for label in sorted(annotated | predicted):
            name = class_name(label, classes)
            union = sum(n for (t, f), n in table.items() if label in (t, f))
            good = table.get((label, label), 0) >= GOOD * union
            if label in annotated:
                result.there.append((name, "", good))
            if not good:
                missed, extra = label not in predicted, label not in annotated
                result.faults.append((MISSED if missed else EXTRA if extra else POOR, name))
        return result

    def trivial(self, usual: Usual, size: tuple[int, int]) -> dict[str, Any]:
        """The most frequent class everywhere."""
        return {"semantic": torch.full(size, usual.label)}


def _names(semantic: Tensor, classes: tuple[str, ...]) -> str:
    return ", ".join(class_name(label, classes) for label in semantic.unique().tolist() if label != IGNORE)
