"""Pictures of predictions and ground truth: boxes, masks, class maps, captions, grounded expressions.

Everything is drawn with PIL on a copy whose sides are within bounds, so that a 112-pixel image
becomes readable and a huge one does not become a huge file. The same input gives the same pixels.
Shapes: N objects, `H W` pixels of the image; boxes are xyxy in its pixels.
"""

from __future__ import annotations

import colorsys
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from torch import Tensor
from torchvision.ops import box_iou

from ufo.ops.masks import rle_decode
from ufo.types import IGNORE, Prediction, Target

RGB = tuple[int, int, int]

# Okabe and Ito's colours and some of Paul Tol's: told apart with any common colour blindness
PALETTE: tuple[RGB, ...] = tuple(
    (value >> 16, value >> 8 & 255, value & 255)
    for value in (
        *(0x0072B2, 0xE69F00, 0x009E73, 0xD55E00, 0x56B4E9, 0xCC79A7),
        *(0xF0E442, 0x882255, 0x44AA99, 0x999933, 0x8C8C96, 0x332288),
    )
)
WHITE, INK, GREY, SHEET = (255, 255, 255), (32, 33, 36), (112, 117, 122), (236, 239, 241)
GAP = 14
MIN_TEXT_WIDTH = 240
MAX_LINES = 8
MAX_LEGEND = 24
FALLBACK_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf")


def color(index: int) -> RGB:
    """The colour of a class: of `PALETTE`, then hues a golden section apart."""
    if index < len(PALETTE):
        return PALETTE[index]
    hue = index * 0.618034 % 1
    parts = colorsys.hls_to_rgb(hue, (0.38, 0.52, 0.66)[index % 3], 0.75)
    return tuple(round(255 * part) for part in parts)


@dataclass
class Marks:
    """What is drawn on one image, of a prediction and of ground truth alike."""

    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))  # float32 [N, 4]
    colors: list[int] = field(default_factory=list)  # N colour indices
    names: list[str] = field(default_factory=list)  # N texts on the labels
    masks: Tensor | None = None  # bool or uint8 [N, H, W]
    semantic: Tensor | None = None  # integer [H, W], class index or IGNORE
    notes: list[str] = field(default_factory=list)  # lines below the image


def draw(
    image: Tensor,
    prediction: Prediction | None = None,
    target: Target | None = None,
    classes: tuple[str, ...] = (),
    *,
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
    classes = classes or (prediction.classes if prediction else ())
    marks = Marks()
    if prediction is not None:
        text = text or (target.text if target else "")
        marks = _predicted(prediction.to("cpu"), classes, text, min_score, max_objects)
    elif target is not None:
        marks = _annotated(target, classes)
    size = tuple(image.shape[-2:])
    for part in (marks.masks, marks.semantic):
        if part is not None and tuple(part.shape[-2:]) != size:
            raise ValueError(
                f"a mask is {tuple(part.shape[-2:])} (height, width) but the image is {size}; "
                "predictions and targets are drawn in the original image's pixels"
            )
    picture = _resized(image, min_side, max_side)
    scale = torch.tensor([picture.width / size[1], picture.height / size[0]]).repeat(2)
    legend: list[int] = []
    if marks.semantic is not None:
        picture, legend = _paint_semantic(picture, marks.semantic)
    if marks.masks is not None:
        # the best object last, on top; as with boxes and labels below
        for mask, index in reversed(list(zip(marks.masks, marks.colors, strict=True))):
            picture = _paint_mask(picture, mask, color(index))
    boxes = (marks.boxes.float() * scale).tolist()
    if marks.masks is None:
        for box, index in reversed(list(zip(boxes, marks.colors, strict=True))):
            _paint_box(picture, box, color(index))
    if prediction is not None and target is not None and target.boxes is not None:
        for box in (target.boxes * scale).tolist():
            _paint_dashes(picture, box)
    if prediction is not None and target is not None and target.captions:
        marks.notes += [f"reference: {c}" for c in target.captions]
    _paint_labels(picture, boxes, marks)
    footer = _footer(picture.width, marks.notes, [(color(i), _name(i, classes)) for i in legend])
    return _stack([picture, *footer])


def side_by_side(
    image: Tensor,
    prediction: Prediction,
    target: Target,
    classes: tuple[str, ...] = (),
    **options: float,
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
    if prediction.task == "caption":
        plain = draw(image, **options)
        blocks = [_heading("ground truth"), *_footer(plain.width, target.captions or [], [])]
        blocks += [_heading(""), _heading("prediction")]
        blocks += _footer(plain.width, [prediction.text], [])
        return _row([plain, _stack(blocks, width=plain.width)])
    if prediction.masks is None:  # boxes were asked for, although the data set may know masks too
        target = replace(target, masks=None)
    truth = draw(image, target=target, classes=classes, **options)
    answer = draw(image, prediction, classes=classes, text=target.text, **options)
    notes = _grounding_notes(prediction.to("cpu"), target)
    left = _stack([_heading("ground truth"), truth])
    right = _stack([_heading("prediction"), answer, *_footer(answer.width, notes, [])])
    return _row([left, right])


def contact_sheet(
    pictures: Sequence[Image.Image], columns: int = 2, title: str = ""
) -> Image.Image:
    """Many pictures in rows of `columns`, as white cards on grey.

    Raises:
        ValueError: there are no pictures or no columns.
    """
    if not pictures or columns < 1:
        raise ValueError("a contact sheet needs at least one picture and one column")
    columns = min(columns, len(pictures))
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    widths = [max(p.width for p in pictures[c::columns]) + 2 * GAP for c in range(columns)]
    heights = [max(p.height for p in row) + 2 * GAP for row in rows]
    top = 0
    header = _text_lines(title, 18, sum(widths)) if title else []
    if header:
        top = GAP + 24 * len(header)
    size = (sum(widths) + GAP * (columns + 1), top + sum(heights) + GAP * (len(rows) + 1))
    sheet = Image.new("RGB", size, SHEET)
    pen = ImageDraw.Draw(sheet)
    for i, line in enumerate(header):
        pen.text((GAP, GAP + 24 * i), line, INK, _font(18, line))
    y = top + GAP
    for row, height in zip(rows, heights, strict=True):
        x = GAP
        for picture, width in zip(row, widths, strict=False):
            pen.rounded_rectangle((x, y, x + width - 1, y + height - 1), 6, WHITE)
            sheet.paste(picture, (x + GAP, y + GAP))
            x += width + GAP
        y += height + GAP
    return sheet


def _predicted(
    prediction: Prediction, classes: tuple[str, ...], text: str, min_score: float, max_objects: int
) -> Marks:
    """Marks of a prediction on the CPU: its best objects, best first."""
    marks = Marks(semantic=prediction.semantic)
    if prediction.task == "caption":
        marks.notes = [prediction.text]
    elif text:
        marks.notes = [text]
    if prediction.boxes is None and prediction.masks is None:
        return marks
    boxes = prediction.boxes
    if boxes is None:
        boxes = _mask_boxes(prediction.masks)
    scores = prediction.scores if prediction.scores is not None else torch.ones(len(boxes))
    scores = scores.float()
    if prediction.labels is None:  # grounding: one box, whatever its score
        keep = ((boxes[:, 2:] > boxes[:, :2]).all(1)).nonzero()[:, 0]
        marks.boxes, marks.colors = boxes[keep], [0] * len(keep)
        marks.names = [f"{s:.2f}" for s in scores[keep].tolist()]
        return marks
    order = scores.argsort(descending=True, stable=True)
    keep = order[scores[order] >= min_score][:max_objects]
    marks.boxes, marks.colors = boxes[keep], prediction.labels[keep].tolist()
    named = zip(marks.colors, scores[keep].tolist(), strict=True)
    marks.names = [f"{_name(label, classes)} {score:.2f}" for label, score in named]
    marks.masks = None if prediction.masks is None else prediction.masks[keep]
    if hidden := len(boxes) - len(keep):
        below = int((scores < min_score).sum())
        reason = f"below {min_score:g}" if below == hidden else "with lower scores"
        marks.notes.append(f"{hidden} more {reason}")
    return marks


def _annotated(target: Target, classes: tuple[str, ...]) -> Marks:
    """Marks of ground truth."""
    marks = Marks(semantic=target.semantic, notes=list(target.captions or []))
    if target.text:
        marks.notes = [target.text]
    if target.masks is not None and target.labels is not None:
        marks.masks = rle_decode(target.masks, target.size)
    if target.boxes is not None:
        marks.boxes = target.boxes
    elif marks.masks is not None:
        marks.boxes = _mask_boxes(marks.masks)
    marks.colors, marks.names = [0] * len(marks.boxes), [""] * len(marks.boxes)
    if target.labels is not None:
        marks.colors = target.labels.tolist()
        marks.names = [_name(label, classes) for label in marks.colors]
    if target.iscrowd is not None:
        crowd = target.iscrowd.tolist()
        marks.names = [n + " (crowd)" * c for n, c in zip(marks.names, crowd, strict=True)]
    return marks


def _grounding_notes(prediction: Prediction, target: Target) -> list[str]:
    if prediction.task != "grounding" or target.boxes is None or not len(target.boxes):
        return []
    box = prediction.boxes
    if box is None or not len(box) or not (box[0, 2:] > box[0, :2]).all():
        return [f"no box in the answer {prediction.text!r}"]
    return [f"IoU {float(box_iou(box[:1].float(), target.boxes[:1].float())):.2f}"]


def _mask_boxes(masks: Tensor) -> Tensor:
    """Boxes `[N, 4]` around masks `[N, H, W]`; zero for an empty mask, which torchvision refuses."""
    boxes = torch.zeros(len(masks), 4)
    for box, mask in zip(boxes, masks, strict=True):
        y, x = mask.nonzero(as_tuple=True)
        if len(x):
            box[:] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return boxes


def _name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if 0 <= label < len(classes) else str(label)


# --- on the image ---------------------------------------------------------------------------------


def _resized(image: Tensor, min_side: int, max_side: int) -> Image.Image:
    """The image as a picture: small ones grow by a whole factor, large ones shrink."""
    height, width = image.shape[-2:]
    factor = min(max(1, math.ceil(min_side / min(height, width))), max_side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    pixels = image.detach().cpu().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def _soft(mask: Tensor, size: tuple[int, int]) -> Image.Image:
    """A mask at `size` (width, height), 0..255, with smooth edges instead of steps."""
    large = Image.fromarray(mask.to(torch.uint8).mul(255).cpu().numpy())
    return large.resize(size, Image.Resampling.BILINEAR)


def _paint_mask(picture: Image.Image, mask: Tensor, rgb: RGB) -> Image.Image:
    """Half-transparent inside, opaque at the contour."""
    soft = _soft(mask, picture.size).point(lambda v: min(max((v - 96) * 4, 0), 255))
    ring = ImageChops.subtract(soft, soft.filter(ImageFilter.MinFilter(5)))
    plain = Image.new("RGB", picture.size, rgb)
    picture = Image.composite(plain, picture, soft.point(lambda v: v * 0.45))
    return Image.composite(plain, picture, ring)


def _paint_semantic(picture: Image.Image, semantic: Tensor) -> tuple[Image.Image, list[int]]:
    """The picture under the colours of its class map, and the classes present, largest first."""
    present, counts = semantic.unique(return_counts=True)
    present = present[counts.argsort(descending=True, stable=True)]
    votes = np.stack([np.asarray(_soft(semantic == p, picture.size)) for p in present])
    best = votes.argmax(0)
    indices = present.tolist()
    rgb = np.array([color(i) for i in indices], dtype=np.uint8)
    opacity = np.array([0 if i == IGNORE else 140 for i in indices], dtype=np.uint8)
    colored, alpha = Image.fromarray(rgb[best]), Image.fromarray(opacity[best])
    picture = Image.composite(colored, picture, alpha)
    # two pixels of light between regions
    edge = np.zeros(best.shape, dtype=bool)
    edge[1:] |= best[1:] != best[:-1]
    edge[:, 1:] |= best[:, 1:] != best[:, :-1]
    lines = Image.fromarray(edge.astype(np.uint8) * 190).filter(ImageFilter.MaxFilter(3))
    picture.paste(WHITE, (0, 0), lines)
    return picture, [i for i in indices if i != IGNORE]


def _paint_box(picture: Image.Image, box: Sequence[float], rgb: RGB) -> None:
    pen = ImageDraw.Draw(picture)
    x1, y1, x2, y2 = _inside(box, picture.size)
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=INK, width=5)
    pen.rectangle((x1, y1, x2, y2), outline=rgb, width=3)


def _paint_dashes(picture: Image.Image, box: Sequence[float], dash: int = 7) -> None:
    pen = ImageDraw.Draw(picture)
    x1, y1, x2, y2 = _inside(box, picture.size)
    for rgb, width in ((INK, 4), (WHITE, 2)):
        for x in range(x1, x2, 2 * dash):
            for y in (y1, y2):
                pen.line((x, y, min(x + dash, x2), y), rgb, width)
        for y in range(y1, y2, 2 * dash):
            for x in (x1, x2):
                pen.line((x, y, x, min(y + dash, y2)), rgb, width)


def _paint_labels(picture: Image.Image, boxes: Sequence[Sequence[float]], marks: Marks) -> None:
    """A label at every object, where it hides as little of other labels as possible."""
    pen, taken = ImageDraw.Draw(picture), []
    for box, index, name in zip(boxes, marks.colors, marks.names, strict=True):
        if not name:
            continue
        name = _clean(name)[:40]
        font = _font(15, name)
        width, height = math.ceil(font.getlength(name)) + 8, 20
        x, y = _free_spot(_inside(box, picture.size), (width, height), picture.size, taken)
        taken.append((x, y, x + width, y + height))
        rgb = color(index)
        pen.rectangle((x, y, x + width - 1, y + height - 1), rgb)
        dark = rgb[0] * 0.299 + rgb[1] * 0.587 + rgb[2] * 0.114 > 135
        pen.text((x + 4, y + height / 2), name, INK if dark else WHITE, font, anchor="lm")


def _free_spot(
    box: Sequence[int],
    label: tuple[int, int],
    picture: tuple[int, int],
    taken: Sequence[Sequence[int]],
) -> tuple[int, int]:
    """The first of some places around `box` where the label covers least of the `taken` ones."""
    (x1, y1, x2, y2), (width, height) = box, label
    places = [
        (x, y)
        for y in (y1 - height, y1, y2, y2 - height)
        for x in (x1, x2 - width, (x1 + x2 - width) // 2)
    ]
    places = [
        (max(0, min(x, picture[0] - width)), max(0, min(y, picture[1] - height)))
        for x, y in places
    ]

    def covered(place: tuple[int, int]) -> int:
        x, y = place
        return sum(
            max(0, min(x + width, right) - max(x, left)) * max(0, min(y + height, low) - max(y, up))
            for left, up, right, low in taken
        )

    return min(places, key=covered)


def _inside(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Whole pixels of the picture, ordered, whatever numbers a box has."""
    x1, y1, x2, y2 = (
        round(min(max(v, 0), limit - 1)) if math.isfinite(v) else 0
        for v, limit in zip(box, (*size, *size), strict=True)
    )
    return x1, y1, max(x1, x2), max(y1, y2)


# --- beside the image -----------------------------------------------------------------------------


@functools.cache
def _load_font(size: int, plain: bool) -> ImageFont.FreeTypeFont:
    for name in () if plain else FALLBACK_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _font(size: int, text: str) -> ImageFont.FreeTypeFont:
    """PIL's own font; it has ASCII only, so other text takes a common system font if there is one."""
    return _load_font(size, text.isascii())


def _clean(text: str) -> str:
    """One line of printable text: no line breaks, no half surrogates from a broken file."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _wrap(text: str, size: int, width: int, max_lines: int = MAX_LINES) -> list[str]:
    """Lines of at most `width` pixels; what does not fit into `max_lines` is cut off."""
    text = _clean(text)[: 40 * max_lines * 4]
    font, lines = _font(size, text), [""]
    for word in text.split():
        while word:
            joined = f"{lines[-1]} {word}".strip()
            if font.getlength(joined) <= width:
                lines[-1], word = joined, ""
            elif lines[-1]:
                lines.append("")
            else:  # one long word, or a script without blanks
                n = max(1, next(k for k in range(len(word)) if font.getlength(word[: k + 1]) > width))
                lines[-1], word = word[:n], word[n:]
                lines.append("")
    lines = [line for line in lines if line]
    return lines if len(lines) <= max_lines else [*lines[: max_lines - 1], lines[max_lines - 1] + " ..."]
