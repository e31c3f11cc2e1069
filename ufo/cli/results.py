"""Predictions as COCO-style results (JSON records) and as one line of text.

What a record holds follows from what the prediction holds, not from its task's name. Boxes in
records are `[x, y, width, height]` in pixels of the original image, masks are compressed RLE.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ufo.cli import CommandError
from ufo.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

    from ufo.types import Prediction


@dataclass(frozen=True)
class ImageInfo:
    """What the records of one image say about it."""

    id: int | str
    file_name: str
    size: tuple[int, int]  # original (height, width)


def image_id(path: Path) -> int | str:
    """The file's stem; as a number where it is one, as in COCO's files."""
    return int(path.stem) if path.stem.isascii() and path.stem.isdigit() else path.stem


def confident(prediction: Prediction, min_score: float) -> Prediction:
    """Only the objects with at least `min_score`, best first; another prediction is left alone."""
    if prediction.labels is None:
        return prediction
    order = prediction.scores.argsort(descending=True, stable=True)
    keep = order[prediction.scores[order] >= min_score]
    names = ("boxes", "scores", "labels", "masks")
    parts = {n: getattr(prediction, n) for n in names}
    return replace(prediction, **{n: v[keep] for n, v in parts.items() if v is not None})


def records(
    prediction: Prediction, image: ImageInfo, predicted_size: tuple[int, int], text: str = ""
) -> list[dict[str, Any]]:
    """JSON records of one image.

    Args:
        prediction: on the CPU, in pixels of an image of `predicted_size` (height, width).
        image: the original, in whose pixels the records are.
        text: the expression or question that was asked.

    Returns:
        objects: one record each, `category_id` counts from 1; class map: one per class present;
        expression: one with the box, zeros if the answer holds none, and the mask of a segmentation;
        question: one with the answer; caption: one with the text.
    """
    head = {"image_id": image.id, "file_name": image.file_name}
    if prediction.semantic is not None:
        return [
            {**head, **_category(label, prediction), "segmentation": rle}
            for label, rle in _regions(prediction.semantic, image.size)
        ]
    if prediction.boxes is None:
        return [
            {**head, "question": text, "answer": prediction.text}
            if text
            else {**head, "caption": prediction.text}
        ]
    boxes = _boxes(prediction.boxes, predicted_size, image.size)
    scores = [round(score, 5) for score in prediction.scores.tolist()]
    if prediction.labels is None:
        found = {"text": text, "bbox": boxes[0], "score": scores[0], "answer": prediction.text}
        if prediction.masks is not None:
            found["segmentation"] = _rle(prediction.masks[0], image.size)
        return [{**head, **found}]
    objects = [
        {**head, **_category(label, prediction), "bbox": box, "score": score}
        for label, box, score in zip(prediction.labels.tolist(), boxes, scores, strict=True)
    ]
    if prediction.masks is not None:
        for record, mask in zip(objects, prediction.masks, strict=True):
            rle = _rle(mask, image.size)
            record |= {"bbox": _around(rle), "segmentation": rle}
    return objects


def summary(prediction: Prediction, min_score: float, text: str = "") -> str:
    """One line for a person: how many of what, shares of the image, the caption, or where it is."""
    names = prediction.classes
    if prediction.semantic is not None:
        labels, counts = prediction.semantic.unique(return_counts=True)
        pairs = zip((counts / counts.sum()).tolist(), labels.tolist(), strict=True)
        shares = sorted(pairs, reverse=True)
        return ", ".join(f"{names[label]} {share:.0%}" for share, label in shares)
    if prediction.boxes is None:
        return prediction.text or "(an empty answer)"
    if prediction.labels is None:
        x1, y1, x2, y2 = prediction.boxes[0].tolist()
        if x2 <= x1 or y2 <= y1:
            what = "box" if prediction.masks is None else "mask"
            return f'"{text}": no {what} in the answer "{prediction.text}"'
        score = prediction.scores[0].item()
        where = f"x {x1:.0f}, y {y1:.0f}, width {x2 - x1:.0f}, height {y2 - y1:.0f}"
        if prediction.masks is not None:
            where += f", {int(prediction.masks.sum())} pixels"
        return f'"{text}" at {where} (score {score:.2f})'
    kept = confident(prediction, min_score)
    hidden = len(prediction.labels) - len(kept.labels)
    counts = Counter(names[label] for label in kept.labels.tolist())
    line = ", ".join(f"{n} {name}" for name, n in counts.items()) or "nothing"
    if counts:
        line += f" (best score {kept.scores[0].item():.2f})"
    return line + (f"; {hidden} more below {min_score:g}" if hidden else "")


def write_results(path: Path, content: Any) -> None:
    """Write whole or not at all, so that a kill or a full disk leaves no half file."""
    try:
        write_json(path, content)
    except OSError as error:
        raise CommandError(f"the results could not be written to {path}: {error}") from error


def _category(label: int, prediction: Prediction) -> dict[str, Any]:
    return {"category_id": label + 1, "category": prediction.classes[label]}


def _boxes(boxes: Tensor, predicted: tuple[int, int], size: tuple[int, int]) -> list[list[float]]:
    """xyxy `[N, 4]` in one size -> N of `[x, y, width, height]` in another."""
    down, right = (new / old for new, old in zip(size, predicted, strict=True))
    return [
        [round(v, 2) for v in (x1 * right, y1 * down, (x2 - x1) * right, (y2 - y1) * down)]
        for x1, y1, x2, y2 in boxes.tolist()
    ]


def _regions(semantic: Tensor, size: tuple[int, int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Label and RLE of each class of a map `[H, W]`, in the order of the classes."""
    for label in semantic.unique().tolist():
        yield label, _rle(semantic == label, size)


def _rle(mask: Tensor, size: tuple[int, int]) -> dict[str, Any]:
    """RLE at `size` of one mask bool `[H, W]`; one at a time, as all of a photo's fill memory."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    from ufo.ops.masks import rle_encode

    if tuple(mask.shape) != size:
        mask = resize(mask[None], list(size), InterpolationMode.NEAREST)[0]
    return rle_encode(mask[None])[0]


def _around(rle: dict[str, Any]) -> list[float]:
    """The box of a mask, as COCO counts it: the last pixel belongs to it."""
    from pycocotools.mask import toBbox

    return toBbox(rle).tolist()
