"""Pictures of predictions and ground truth: boxes, masks, class maps, captions, expressions.

Everything is drawn with PIL on a copy whose sides are within bounds, so that a 112-pixel image
becomes readable and a huge one does not become a huge file. The same input gives the same pixels.
Shapes: N objects, `H W` pixels of the image; boxes are xyxy in its pixels.
"""

from __future__ import annotations

import colorsys
import functools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps
from torch import Tensor
from torchvision.ops import box_iou, masks_to_boxes

from ufo.ops.masks import rle_decode
from ufo.types import IGNORE, Prediction, Target

RGB = tuple[int, int, int]
Region = tuple[int, int, int, int]  # left, top, right, bottom

# Okabe and Ito's colours and some of Paul Tol's: told apart with any common colour blindness
PALETTE: tuple[RGB, ...] = tuple(
    (value >> 16, value >> 8 & 255, value & 255)
    for value in (
        *(0x0072B2, 0xE69F00, 0x009E73, 0xD55E00, 0x56B4E9, 0xCC79A7),
        *(0xF0E442, 0x882255, 0x44AA99, 0x999933, 0x8C8C96, 0x332288),
    )
)
WHITE, INK, GREY, SHEET = (255, 255, 255), (32, 33, 36), (112, 117, 122), (236, 239, 241)
REFERRED = 6  # yellow: the box of an expression
GAP = 14
MIN_TEXT_WIDTH = 240
MAX_LINES = 8
MAX_CHARACTERS = 1500
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
    notes: list[str] = field(default_factory=list)  # paragraphs below the image
    hidden: str = ""  # what is not drawn
    dashed: Tensor | None = None  # float32 [M, 4], more boxes, without labels


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
        if target is not None:
            marks.notes += [f"reference: {caption}" for caption in target.captions or []]
            marks.dashed = target.boxes
    elif target is not None:
        marks = _annotated(target, classes)
    picture = _resized(image, min_side, max_side)
    picture, legend = _paint(picture, marks, tuple(image.shape[-2:]))
    width = max(picture.width, MIN_TEXT_WIDTH)
    blocks = [picture, *(_text(note, width) for note in marks.notes)]
    if marks.hidden:
        blocks.append(_text(marks.hidden, width, rgb=GREY))
    if legend:
        blocks.append(_legend([(color(i), _name(i, classes)) for i in legend], width))
    return _stack(blocks)


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
        width = max(plain.width, MIN_TEXT_WIDTH)
        said = [_text(prediction.text, width)]
        references = [_text(caption, width) for caption in target.captions or []]
        texts = [_heading("ground truth"), *references, _heading(""), _heading("prediction"), *said]
        return _row([plain, _stack(texts)])
    if prediction.masks is None:  # boxes were asked for, although the data set may know masks too
        target = replace(target, masks=None)
    truth = draw(image, target=target, classes=classes, **options)
    answer = draw(image, prediction, classes=classes, text=target.text, **options)
    note = _referred_note(prediction.to("cpu"), target)
    notes = [_text(note, answer.width, rgb=GREY)] if note else []
    left = _stack([_heading("ground truth"), truth])
    return _row([left, _stack([_heading("prediction"), answer, *notes])])


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 2, title: str = "") -> Image.Image:
    """Many pictures in rows of `columns`, as white cards on grey.

    Raises:
        ValueError: there are no pictures or no columns.
    """
    if not pictures or columns < 1:
        raise ValueError("a contact sheet needs at least one picture and one column")
    cards = [ImageOps.expand(picture, GAP, WHITE) for picture in pictures]
    rows = [_row(cards[i : i + columns], SHEET) for i in range(0, len(cards), columns)]
    head = [_text(title, max(row.width for row in rows), 20, paper=SHEET)] if title else []
    return ImageOps.expand(_stack([*head, *rows], gap=GAP, paper=SHEET), GAP, SHEET)


def _predicted(
    prediction: Prediction, classes: tuple[str, ...], text: str, min_score: float, max_objects: int
) -> Marks:
    """Marks of a prediction on the CPU: its best objects, best first."""
    marks = Marks(semantic=prediction.semantic)
    if prediction.task == "caption":
        marks.notes = [prediction.text]
    elif text:
        marks.notes = [text]
    if prediction.task == "vqa":
        marks.notes.append(f"answer: {prediction.text}")
    if prediction.boxes is None and prediction.masks is None:
        return marks
    boxes = prediction.boxes
    if prediction.masks is not None:
        boxes = _mask_boxes(prediction.masks)
    scores = prediction.scores if prediction.scores is not None else torch.ones(len(boxes))
    scores = scores.float()
    if prediction.labels is None:  # what an expression means: one box or mask, whatever its score
        keep = ((boxes[:, 2:] > boxes[:, :2]).all(1)).nonzero()[:, 0]
        marks.boxes, marks.colors = boxes[keep], [REFERRED] * len(keep)
        marks.names = [f"{s:.2f}" for s in scores[keep].tolist()]
        marks.masks = None if prediction.masks is None else prediction.masks[keep]
        return marks
    order = scores.argsort(descending=True, stable=True)
    keep = order[scores[order] >= min_score][:max_objects]
    marks.boxes, marks.colors = boxes[keep], prediction.labels[keep].tolist()
    named = zip(marks.colors, scores[keep].tolist(), strict=True)
    marks.names = [f"{_name(label, classes)} {score:.2f}" for label, score in named]
    marks.masks = None if prediction.masks is None else prediction.masks[keep]
    if hidden := len(boxes) - len(keep):
        below = int((scores < min_score).sum())
        reason = f"scores below {min_score:g}" if below == hidden else "lower scores"
        marks.hidden = f"{hidden} more with {reason}"
    return marks


def _annotated(target: Target, classes: tuple[str, ...]) -> Marks:
    """Marks of ground truth."""
    marks = Marks(semantic=target.semantic, notes=list(target.captions or []))
    if target.text:
        marks.notes = [target.text]
    marks.notes += [f"answer: {answer}" for answer in dict.fromkeys(target.answers or [])]
    if target.masks is not None:
        marks.masks = rle_decode(target.masks, target.size)
    if marks.masks is not None:
        marks.boxes = _mask_boxes(marks.masks)
    elif target.boxes is not None:
        marks.boxes = target.boxes
    marks.colors, marks.names = [REFERRED] * len(marks.boxes), [""] * len(marks.boxes)
    if target.labels is not None:
        marks.colors = target.labels.tolist()
        marks.names = [_name(label, classes) for label in marks.colors]
    if target.iscrowd is not None:
        crowd = target.iscrowd.tolist()
        marks.names = [n + " (crowd)" * c for n, c in zip(marks.names, crowd, strict=True)]
    return marks


def _referred_note(prediction: Prediction, target: Target) -> str:
    """How well one box or mask fits what an expression means; "" for other tasks."""
    if prediction.masks is not None and prediction.labels is None and target.masks is not None:
        found, wanted = prediction.masks.bool().any(0), rle_decode(target.masks, target.size).any(0)
        if not found.any():
            return f"no mask in the answer {prediction.text!r}"
        return f"IoU {float((found & wanted).sum() / (found | wanted).sum()):.2f}"
    if prediction.task != "grounding" or target.boxes is None or not len(target.boxes):
        return ""
    box = prediction.boxes
    if box is None or not len(box) or not (box[0, 2:] > box[0, :2]).all():
        return f"no box in the answer {prediction.text!r}"
    return f"IoU {float(box_iou(box[:1].float(), target.boxes[:1].float())):.2f}"


def _mask_boxes(masks: Tensor) -> Tensor:
    """Boxes `[N, 4]` around masks `[N, H, W]`; zeros if empty, which torchvision refuses."""
    boxes = torch.zeros(len(masks), 4)
    visible = masks.bool().flatten(1).any(1)
    if visible.any():
        boxes[visible] = masks_to_boxes(masks[visible])
    return boxes


def _name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if 0 <= label < len(classes) else str(label)


# --- on the image ---------------------------------------------------------------------------------


def _paint(picture: Image.Image, marks: Marks, size: tuple[int, int]) -> tuple[Image.Image, list[int]]:
    """Marks on the resized picture of an image of `size` (H, W), and the classes of its legend."""
    for part in (marks.masks, marks.semantic):
        if part is not None and tuple(part.shape[-2:]) != size:
            raise ValueError(
                f"a mask is {tuple(part.shape[-2:])} (height, width) but the image is {size}; "
                "predictions and targets are drawn in the original image's pixels"
            )
    scale = torch.tensor([picture.width / size[1], picture.height / size[0]]).repeat(2)
    boxes = (marks.boxes.float() * scale).tolist()
    legend: list[int] = []
    if marks.semantic is not None:
        picture, legend = _paint_semantic(picture, marks.semantic)
    # the best object last, on top
    for i in reversed(range(len(boxes))):
        if marks.masks is not None:
            _paint_mask(picture, marks.masks[i], boxes[i], color(marks.colors[i]))
        else:
            _paint_box(picture, boxes[i], color(marks.colors[i]))
    for box in [] if marks.dashed is None else (marks.dashed * scale).tolist():
        _paint_dashes(picture, box)
    _paint_labels(picture, boxes, marks)
    return picture, legend


def _resized(image: Tensor, min_side: int, max_side: int) -> Image.Image:
    """The image as a picture: small ones grow by a whole factor, large ones shrink."""
    height, width = image.shape[-2:]
    factor = min(max(1, math.ceil(min_side / min(height, width))), max_side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    pixels = image.detach().cpu().permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def _soft(mask: Tensor, size: tuple[int, int], region: Region | None = None) -> Image.Image:
    """The part of a mask in `region` of a picture of `size`, 0..255, smooth instead of in steps."""
    scale = size[0] / mask.shape[1], size[1] / mask.shape[0]
    left, top, right, bottom = region or (0, 0, *size)
    part = (left / scale[0], top / scale[1], right / scale[0], bottom / scale[1])
    small = Image.fromarray(mask.to(torch.uint8).mul(255).cpu().numpy())
    large = small.resize((right - left, bottom - top), Image.Resampling.BOX, part)
    return large.filter(ImageFilter.GaussianBlur(0.5 * scale[0])) if scale[0] > 1 else large


def _paint_mask(picture: Image.Image, mask: Tensor, box: Sequence[float], rgb: RGB) -> None:
    """Half-transparent inside, opaque at the contour, a thin light line around it."""
    margin = 4 + 3 * picture.width // mask.shape[1]
    x1, y1, x2, y2 = _inside(box, picture.size)
    region = (
        *(max(0, x1 - margin), max(0, y1 - margin)),
        *(min(picture.width, x2 + margin), min(picture.height, y2 + margin)),
    )
    soft = _soft(mask, picture.size, region)
    soft = soft.point([min(max((v - 96) * 4, 0), 255) for v in range(256)])
    inner = ImageChops.subtract(soft, soft.filter(ImageFilter.MinFilter(7)))
    outer = ImageChops.subtract(soft.filter(ImageFilter.MaxFilter(3)), soft)
    picture.paste(rgb, region, soft.point([round(v * 0.45) for v in range(256)]))
    picture.paste(rgb, region, inner)
    picture.paste(WHITE, region, outer.point([round(v * 0.8) for v in range(256)]))


def _paint_semantic(picture: Image.Image, semantic: Tensor) -> tuple[Image.Image, list[int]]:
    """The picture under the colours of its class map, and the classes present, largest first."""
    present, counts = semantic.unique(return_counts=True)
    present = present[counts.argsort(descending=True, stable=True)]
    indices = present.tolist()
    shape = picture.height, picture.width
    best, most = np.zeros(shape, dtype=np.uint16), np.zeros(shape, dtype=np.uint8)
    for k, index in enumerate(indices):
        votes = np.asarray(_soft(semantic == index, picture.size))
        best[votes > most] = k
        most = np.maximum(most, votes)
    rgb = np.array([color(i) for i in indices], dtype=np.uint8)
    opacity = np.array([0 if i == IGNORE else 140 for i in indices], dtype=np.uint8)
    colored, alpha = Image.fromarray(rgb[best]), Image.fromarray(opacity[best])
    picture = Image.composite(colored, picture, alpha)
    # a light line between regions
    edge = np.zeros(best.shape, dtype=bool)
    edge[1:] |= best[1:] != best[:-1]
    edge[:, 1:] |= best[:, 1:] != best[:, :-1]
    lines = Image.fromarray(edge.astype(np.uint8) * 210).filter(ImageFilter.MaxFilter(3))
    lines = lines.filter(ImageFilter.GaussianBlur(0.8))
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
    """A label at every object, where it hides as little of better objects' labels as possible."""
    size = 15 if len(boxes) <= 12 else 12  # pixels
    labels, taken = [], []
    for box, index, name in zip(boxes, marks.colors, marks.names, strict=True):
        if not (name := _clean(name)[:40]):
            continue
        width, height = math.ceil(_font(size, name).getlength(name)) + 8, size + 5
        x, y = _free_spot(_inside(box, picture.size), (width, height), picture.size, taken)
        taken.append((x, y, x + width, y + height))
        labels.append((name, color(index)))
    pen = ImageDraw.Draw(picture)
    for (name, rgb), (left, up, right, low) in zip(labels[::-1], taken[::-1], strict=True):
        pen.rectangle((left, up, right - 1, low - 1), rgb)
        dark = rgb[0] * 0.299 + rgb[1] * 0.587 + rgb[2] * 0.114 > 135
        at = left + 4, (up + low) / 2
        pen.text(at, name, INK if dark else WHITE, _font(size, name), anchor="lm")


def _free_spot(
    box: Sequence[int],
    label: tuple[int, int],
    picture: tuple[int, int],
    taken: Sequence[Sequence[int]],
) -> tuple[int, int]:
    """The first of some places around `box` where the label covers least of the `taken` ones."""
    (x1, y1, x2, y2), (width, height) = box, label
    places = [
        (x, y) for y in (y1 - height, y1, y2, y2 - height) for x in (x1, x2 - width, (x1 + x2 - width) // 2)
    ]
    places = [(max(0, min(x, picture[0] - width)), max(0, min(y, picture[1] - height))) for x, y in places]

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
    """PIL's own font; it has little but ASCII, so other text takes a system font if possible."""
    return _load_font(size, text.isascii())


def _clean(text: str) -> str:
    """One line of printable text: no line breaks, no half surrogates from a broken file."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _wrap(text: str, size: int, width: int) -> list[str]:
    """Lines of about `width` pixels; what does not fit into `MAX_LINES` is cut off."""
    text = _clean(text)[:MAX_CHARACTERS]
    per_line = 0.92 * width * len(text) / max(1, _font(size, text).getlength(text))
    return textwrap.wrap(text, max(8, int(per_line)), max_lines=MAX_LINES, placeholder=" ...")


def _text(text: str, width: int, size: int = 16, rgb: RGB = INK, paper: RGB = WHITE) -> Image.Image:
    """A block of wrapped text."""
    font, lines = _font(size, text), _wrap(text, size, width)
    block = Image.new("RGB", (width, len(lines) * (size + 6)), paper)
    pen = ImageDraw.Draw(block)
    for i, line in enumerate(lines):
        pen.text((0, (i + 0.5) * (size + 6)), line, rgb, font, anchor="lm")
    return block


def _heading(text: str) -> Image.Image:
    return _text(text or " ", MIN_TEXT_WIDTH, 16, GREY)


def _legend(entries: Sequence[tuple[RGB, str]], width: int) -> Image.Image:
    """Swatches with names, line by line."""
    names = [_clean(name)[:24] for _, name in entries[:MAX_LEGEND]]
    if more := len(entries) - len(names):
        names.append(f"and {more} more")
    places, x, y = [], 0, 0
    for name in names:
        length = 24 + math.ceil(_font(15, name).getlength(name)) + 14
        if x and x + length > width:
            x, y = 0, y + 22
        places.append((x, y))
        x += length
    block = Image.new("RGB", (width, y + 22), WHITE)
    pen = ImageDraw.Draw(block)
    for i, (name, (x, y)) in enumerate(zip(names, places, strict=True)):
        if i < MAX_LEGEND:
            pen.rounded_rectangle((x, y + 4, x + 17, y + 17), 3, entries[i][0])
        pen.text((x + 24, y + 11), name, INK, _font(15, name), anchor="lm")
    return block


def _stack(blocks: Sequence[Image.Image], gap: int = 4, paper: RGB = WHITE) -> Image.Image:
    """Blocks below each other."""
    size = max(b.width for b in blocks), sum(b.height for b in blocks) + gap * (len(blocks) - 1)
    stacked, y = Image.new("RGB", size, paper), 0
    for block in blocks:
        stacked.paste(block, (0, y))
        y += block.height + gap
    return stacked


def _row(blocks: Sequence[Image.Image], paper: RGB = WHITE) -> Image.Image:
    """Blocks beside each other."""
    size = sum(b.width for b in blocks) + GAP * (len(blocks) - 1), max(b.height for b in blocks)
    row, x = Image.new("RGB", size, paper), 0
    for block in blocks:
        row.paste(block, (x, 0))
        x += block.width + GAP
    return row
