"""Pictures of predictions and ground truth: boxes, masks, class maps, captions, expressions.

Everything is drawn with PIL on a copy whose sides are within bounds, so that a 112-pixel image
becomes readable and a huge one does not become a huge file. The same input gives the same pixels.
Shapes: N objects, `H W` pixels of the image; boxes are xyxy in its pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageOps
from torch import Tensor

from ufo.draw.blocks import (
    GAP,
    GREY,
    MIN_TEXT_WIDTH,
    PALETTE,
    SHEET,
    WHITE,
    color,
    heading,
    legend_block,
    row,
    stack,
    text_block,
)
from ufo.draw.paint import paint, resized
from ufo.kinds import Shown
from ufo.kinds.marks import REFERRED, Marks, annotated, class_name
from ufo.tasks import kind_of
from ufo.types import IGNORE, Prediction, Target

__all__ = [
    "PALETTE",
    "REFERRED",
    "color",
    "contact_sheet",
    "draw",
    "panel",
    "photo_with_notes",
    "side_by_side",
]


def draw(
    image: Tensor,
    prediction: Prediction | None = None,
    target: Target | None = None,
    classes: tuple[str, ...] = (),
    *,
    task: str | None = None,
    text: str = "",
    min_score: float = 0.3,
    max_objects: int = 50,
    min_side: int = 400,
    max_side: int = 1024,
) -> Image.Image:
    """A picture of one image with what was predicted or annotated.

    With both, the prediction is drawn and the target's boxes are added as dashed lines.

    Args:
        image: uint8 `[3, H, W]`, RGB, the original image that boxes and masks refer to.
        classes: names of the labels; by default those of the prediction.
        task: whose truth a target alone is drawn as; by default all that the target holds.
        text: the expression of a grounding query, if there is no target that knows it.
        min_score: detections below it are only counted (below the image).
        max_objects: so many of the best detections are drawn.
        min_side, max_side: bounds in pixels of the drawn image's shorter and longer side; the
            second one wins.

    Returns:
        RGB; the image, below it captions, expressions and the legend of a class map.

    Raises:
        ValueError: the image has no pixels, or a mask or class map is not of its size.
    """
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"the image is {tuple(image.shape)}; draw needs [3, H, W] with pixels")
    classes = classes or (() if prediction is None else prediction.classes)
    marks = Marks()
    if prediction is not None:
        kind, found = kind_of(prediction.task), prediction.to("cpu")
        text = text or (target.text if target else "")
        marks = kind.predicted(found, Shown(classes, text, min_score, max_objects, target))
    elif target is not None:
        marks = annotated(target, classes) if task is None else kind_of(task).annotated(target, classes)
    picture = resized(image, min_side, max_side)
    height, width = image.shape[-2:]
    picture, legend = paint(picture, marks, (height, width))
    width = max(picture.width, MIN_TEXT_WIDTH)
    blocks = [picture, *(text_block(note, width) for note in marks.notes)]
    if marks.hidden:
        blocks.append(text_block(marks.hidden, width, rgb=GREY))
    if legend:
        named = [(color(i), class_name(i, classes)) for i in legend if i != IGNORE]
        blocks.append(legend_block(named + [(GREY, "no class")] * (IGNORE in legend), width))
    return stack(blocks)


def side_by_side(
    image: Tensor,
    prediction: Prediction,
    target: Target,
    classes: tuple[str, ...] = (),
    **options: Any,
) -> Image.Image:
    """Ground truth on the left, the prediction on the right; a caption beside its references.

    Args:
        image: uint8 `[3, H, W]`, RGB.
        options: those of `draw`.

    Returns:
        RGB, two headed panels on white.

    Raises:
        ValueError: as `draw`.
    """
    classes = classes or prediction.classes
    kind, found = kind_of(prediction.task), prediction.to("cpu")
    if kind.beside:
        plain = draw(image, **options)
        width = max(plain.width, MIN_TEXT_WIDTH)
        right = [text_block(text, width) for text in kind.annotated(target, classes).notes]
        predicted = [text_block(text, width) for text in kind.predicted(found, Shown(classes)).notes]
        texts = [heading("ground truth"), *right, heading(""), heading("prediction"), *predicted]
        return row([plain, stack(texts)])
    truth = draw(image, target=target, classes=classes, task=prediction.task, **options)
    answer = draw(image, found, classes=classes, text=target.text, **options)
    note = kind.note(found, target)
    notes = [text_block(note, answer.width, rgb=GREY)] if note else []
    left = stack([heading("ground truth"), truth])
    return row([left, stack([heading("prediction"), answer, *notes])])


def panel(title: str, picture: Image.Image) -> Image.Image:
    """A picture under its heading."""
    return stack([heading(title), picture])


def photo_with_notes(
    image: Tensor, notes: Mapping[str, Sequence[str]], min_side: int = 400, max_side: int = 1024
) -> Image.Image:
    """The photo `[3, H, W]` once, and below it what was said in words, each under its heading."""
    photo = resized(image, min_side, max_side)
    width = max(photo.width, MIN_TEXT_WIDTH)
    texts = [block for title, said in notes.items() for block in _said(title, said, width)]
    return stack([heading(""), photo, *texts])


def _said(title: str, said: Sequence[str], width: int) -> list[Image.Image]:
    return [heading(title), *(text_block(text, width) for text in said)]


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 2, title: str = "") -> Image.Image:
    """Many pictures in rows of `columns`, as white cards on grey.

    Raises:
        ValueError: there are no pictures or no columns.
    """
    if not pictures or columns < 1:
        raise ValueError("a contact sheet needs at least one picture and one column")
    cards = [ImageOps.expand(picture, GAP, WHITE) for picture in pictures]
    rows = [row(cards[i : i + columns], SHEET) for i in range(0, len(cards), columns)]
    head = [text_block(title, max(row.width for row in rows), 20, paper=SHEET)] if title else []
    return ImageOps.expand(stack([*head, *rows], gap=GAP, paper=SHEET), GAP, SHEET)
