"""What was found, as JSON: records in the manner of COCO's results, and what a page draws.

Both come from the kind of result (`ufo.kinds`), so no task is known here by its name.
Shapes: `N` objects, `H W` pixels of the picture as it was asked about.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ufo.draw import color
from ufo.inference.asking import Request
from ufo.kinds import ImageInfo, Kind, Shown
from ufo.kinds.marks import Marks, class_name
from ufo.serve.arose import png
from ufo.serve.batcher import MOST_OBJECTS, Answered
from ufo.serve.question import Question
from ufo.types import IGNORE

MOST_CLASSES = 254  # of a class map that is sent, the largest ones


def result(question: Question, ask: Request, answered: Answered, kind: Kind) -> dict[str, Any]:
    """The answer to one task of a request."""
    height, width = question.pixels.shape[-2:]
    image = ImageInfo("upload", question.file_name, question.size)
    prediction = answered.prediction
    content: dict[str, Any] = {
        "task": ask.task,
        "summary": kind.summary(prediction, question.summary_score, ask.text),
        "text": prediction.text,
        "records": kind.records(prediction, image, (height, width), ask.text),
        "milliseconds": {name: round(1000 * value, 2) for name, value in answered.seconds.items()},
        "together": answered.together,
    }
    if question.layers:
        shown = Shown(prediction.classes, "", 0.0, MOST_OBJECTS)
        content["layers"] = layers(kind.predicted(prediction, shown), prediction.classes, (height, width))
    if answered.arose is not None:
        content["arose"] = answered.arose.content()
    return content


def layers(marks: Marks, classes: tuple[str, ...], size: tuple[int, int]) -> dict[str, Any]:
    """Marks as a page draws them: boxes from 0 to 1, masks and maps as pictures with clear pixels."""
    height, width = size
    boxes = (marks.boxes.float() / torch.tensor([width, height, width, height])).clamp(0, 1)
    objects: list[dict[str, Any]] = []
    for i, box in enumerate(boxes.tolist()):
        objects.append(
            {
                "box": [round(value, 5) for value in box],
                "color": hexadecimal(marks.colors[i]),
                "name": marks.names[i],
                "score": round(marks.scores[i], 4) if marks.scores else None,
                "row": marks.rows[i] if marks.rows else None,
                "mask": None if marks.masks is None else mask_picture(marks.masks[i], marks.colors[i]),
            }
        )
    found: dict[str, Any] = {"objects": objects, "notes": marks.notes, "map": None, "legend": []}
    if marks.semantic is not None:
        found["map"], found["legend"] = map_picture(marks.semantic, classes)
    return found


def hexadecimal(index: int) -> str:
    """The colour of a class as CSS says it."""
    return "#" + "".join(f"{value:02x}" for value in color(index))


def mask_picture(mask: Tensor, index: int) -> str:
    """A mask bool `[H, W]` in its colour; other pixels are clear."""
    return _palette(mask.to(torch.uint8).cpu().numpy(), [(0, 0, 0), color(index)])


def map_picture(semantic: Tensor, classes: tuple[str, ...]) -> tuple[str, list[dict[str, Any]]]:
    """A class map `[H, W]` in the colours of its classes, and its legend, the largest class first."""
    values, places, counts = semantic.cpu().unique(return_inverse=True, return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    kept = [i for i in order.tolist() if values[i] != IGNORE][:MOST_CLASSES]
    numbers = torch.zeros(len(values), dtype=torch.uint8)  # 0: clear
    for number, i in enumerate(kept, 1):
        numbers[i] = number
    labels = [int(values[i]) for i in kept]
    legend = [
        {
            "name": class_name(label, classes),
            "color": hexadecimal(label),
            "share": round(int(counts[i]) / semantic.numel(), 4),
        }
        for label, i in zip(labels, kept, strict=True)
    ]
    return _palette(numbers[places].numpy(), [(0, 0, 0), *map(color, labels)]), legend


def _palette(numbers: np.ndarray, colors: list[tuple[int, int, int]]) -> str:
    picture = Image.fromarray(numbers)
    picture.putpalette([value for rgb in colors for value in rgb])
    return png(picture, transparency=0)
