"""What stands beside an image: colours, wrapped text, legends, and blocks in rows and stacks."""

from __future__ import annotations

import colorsys
import functools
import math
import re
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

RGB = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont  # the second where PIL was built without FreeType

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
MAX_CHARACTERS = 1500
MAX_LEGEND = 24
BREAKS = re.compile(r"(\s+)|(?<=,)(?=\S)")  # where lines end: lists of classes have commas without spaces
FALLBACK_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf")


def color(index: int) -> RGB:
    """The colour of a class: of `PALETTE`, then hues a golden section apart."""
    if index < len(PALETTE):
        return PALETTE[index]
    hue = index * 0.618034 % 1
    red, green, blue = colorsys.hls_to_rgb(hue, (0.38, 0.52, 0.66)[index % 3], 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


@functools.cache
def _load_font(size: int, plain: bool) -> Font:
    for name in () if plain else FALLBACK_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def font(size: int, text: str) -> Font:
    """PIL's own font; it has little but ASCII, so other text takes a system font if possible."""
    return _load_font(size, text.isascii())


def clean(text: str) -> str:
    """One line of printable text: no line breaks, no half surrogates from a broken file."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines of about `width` pixels; what does not fit into `MAX_LINES` is cut off."""
    text = clean(text)[:MAX_CHARACTERS]
    per_line = 0.92 * width * len(text) / max(1, font(size, text).getlength(text))
    wrapper = textwrap.TextWrapper(max(8, int(per_line)), max_lines=MAX_LINES, placeholder=" ...")
    wrapper.wordsep_re = BREAKS
    return wrapper.wrap(text)


def text_block(text: str, width: int, size: int = 16, rgb: RGB = INK, paper: RGB = WHITE) -> Image.Image:
    """A block of wrapped text."""
    letters, lines = font(size, text), wrapped(text, size, width)
    block = Image.new("RGB", (width, len(lines) * (size + 6)), paper)
    pen = ImageDraw.Draw(block)
    for i, line in enumerate(lines):
        pen.text((0, (i + 0.5) * (size + 6)), line, rgb, letters, anchor="lm")
    return block


def heading(text: str) -> Image.Image:
    return text_block(text or " ", MIN_TEXT_WIDTH, 16, GREY)


def legend_block(entries: Sequence[tuple[RGB, str]], width: int) -> Image.Image:
    """Swatches with names, line by line."""
    names = [clean(name)[:24] for _, name in entries[:MAX_LEGEND]]
    if more := len(entries) - len(names):
        names.append(f"and {more} more")
    places, x, y = [], 0, 0
    for name in names:
        length = 24 + math.ceil(font(15, name).getlength(name)) + 14
        if x and x + length > width:
            x, y = 0, y + 22
        places.append((x, y))
        x += length
    block = Image.new("RGB", (width, y + 22), WHITE)
    pen = ImageDraw.Draw(block)
    for i, (name, (x, y)) in enumerate(zip(names, places, strict=True)):
        if i < MAX_LEGEND:
            pen.rounded_rectangle((x, y + 4, x + 17, y + 17), 3, entries[i][0])
        pen.text((x + 24, y + 11), name, INK, font(15, name), anchor="lm")
    return block


def stack(blocks: Sequence[Image.Image], gap: int = 4, paper: RGB = WHITE) -> Image.Image:
    """Blocks below each other."""
    size = max(b.width for b in blocks), sum(b.height for b in blocks) + gap * (len(blocks) - 1)
    stacked, y = Image.new("RGB", size, paper), 0
    for block in blocks:
        stacked.paste(block, (0, y))
        y += block.height + gap
    return stacked


def row(blocks: Sequence[Image.Image], paper: RGB = WHITE) -> Image.Image:
    """Blocks beside each other."""
    size = sum(b.width for b in blocks) + GAP * (len(blocks) - 1), max(b.height for b in blocks)
    row, x = Image.new("RGB", size, paper), 0
    for block in blocks:
        row.paste(block, (x, 0))
        x += block.width + GAP
    return row
