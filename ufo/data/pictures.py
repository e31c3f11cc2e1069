"""The one decoder of pictures and label maps: training, `ufo data check` and `ufo predict` see the same.

Any file becomes uint8 [3, H, W], RGB: grey is repeated, palettes are looked up, CMYK is converted.
Transparency is dropped, so that the colours are those of the file. Of several frames or pages the first one
counts. 16 bits a pixel become 8 (the upper ones), floats from 0 to 1 become 0 to 255. Everything else is
refused, and what is changed is said.
"""

from __future__ import annotations

import io
import logging
import math
import os
import stat
import warnings
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.TiffImagePlugin
import PIL.WebPImagePlugin
import torch
from torch import Tensor
from torchvision import tv_tensors

from ufo.data import urls
from ufo.data.errors import DataError
from ufo.data.pixels import CLEAR, DARK, SIXTEEN, Say, as_pixels

log = logging.getLogger(__name__)

MAX_PIXELS = 80_000_000
"""Images with more pixels than this are refused from their header, before they are decoded."""
# PIL warns of such images as well, at a bound of its own, before our sentence can be said. The filter stands
# last and for good: another one wins, and a filter around every image would show again what is shown once.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning, append=True)

# An explicit list: some of PIL's other plug-ins start external programs (EPS) or are rarely tested.
# (PIL itself loads only the commonest ones at first, hence the imports of the others.)
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAP_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm")
"""Of files that keep a number for each pixel; JPEG changes them at every edge."""
LOSSY = frozenset([".jpg", ".jpeg", ".jpe", ".jfif"])
EXIF_ORIENTATION = 0x0112
# what PIL converts well
DIRECT = frozenset(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"])
LABELS = frozenset(["1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N"])

FLOAT = "picture of floats from 0 to 1, scaled to 0 to 255"
FRAMES = "picture of several frames or pages, of which the first is used"

Picture = str | Path | bytes | bytearray | memoryview | PIL.Image.Image | np.ndarray | Tensor
"""The forms in which `as_image` takes one picture."""


_SAID: set[str] = set()


def _logged(kind: str, where: str) -> None:
    """Say a kind of change once, with the first file."""
    if kind not in _SAID:
        _SAID.add(kind)
        log.warning("%s: %s", where, kind)


def _open(path: str | Path, max_pixels: int, content: bytes | None = None) -> PIL.Image.Image:
    """A picture before it is decoded, of a file or of the bytes that would be in it."""
    try:
        if content is None and not stat.S_ISREG(os.stat(path).st_mode):
            # a pipe would be waited for, a device never ends
            raise DataError(f"{path}: this is not a file but a folder, pipe or device.")
        opened = path if content is None else io.BytesIO(content)
        image = PIL.Image.open(opened, formats=IMAGE_FORMATS)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such image file.{near(Path(path))}") from error
    except PIL.UnidentifiedImageError as error:
        if not (os.path.getsize(path) if content is None else content):
            raise DataError(f"{path}: there is nothing in it, it is empty.") from error
        raise DataError(f"{path}: not an image in one of {', '.join(IMAGE_FORMATS)}.") from error
    except PIL.Image.DecompressionBombError as error:  # twice its bound: it does not say how wide and high
        raise DataError(f"{path}: it has more than the {max_pixels} pixels allowed; shrink it.") from error
    except DataError:
        raise
    except Exception as error:  # PIL passes on whatever its plug-ins raise on broken headers
        raise DataError(f"{path}: the image can't be opened ({error}).") from error
    if image.width * image.height > max_pixels:
        width, height = image.size
        image.close()
        raise DataError(f"{path}: {width}x{height} is more than the {max_pixels} pixels allowed; shrink it.")
    return image


def _orientation(image: PIL.Image.Image) -> int:
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _sizes(image: PIL.Image.Image) -> list[tuple[int, int]]:
    """The (height, width) that an open picture may be read in: turned by its EXIF orientation, and as stored.

    PIL turns TIFF files itself, so that of these only the first is left.
    """
    if image.format == "TIFF":  # whether PIL has swapped the sides already depends on its version
        tags = image.tag_v2  # type: ignore[attr-defined]  # of this format
        width, height = int(tags[256]), int(tags[257])
    else:
        width, height = image.size
    turned = (width, height) if _orientation(image) >= 5 else (height, width)
    return [turned] if image.format == "TIFF" else list(dict.fromkeys([turned, (height, width)]))


def to_rgb(image: PIL.Image.Image, where: str, say: Say) -> np.ndarray:
    """The pixels of an open picture, uint8 [H, W, 3]; DataError if they cannot be shown without guessing."""
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # phones hide a preview behind the photo
        say(FRAMES, where)
    mode = image.mode
    if mode in DIRECT:
        if (mode in ("LA", "PA", "RGBA") or "transparency" in image.info) and _is_clear(image):
            say(CLEAR, where)
        if mode == "P" and "transparency" in image.info:
            image = image.copy()
            del image.info["transparency"]
        return np.array(image.convert("RGB"))
    values = np.array(image)
    if mode.startswith("I"):
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if low < 0 or high > 65535:
            raise DataError(
                f"{where}: its pixels are numbers from {low} to {high}; save it with 8 or 16 bits a pixel."
            )
        say(DARK if high < 4096 else SIXTEEN, where)
        grey = (values.astype(np.int64) >> 8).astype(np.uint8)
    elif mode == "F":
        if not values.size or not (values.min() >= 0 and values.max() <= 1):  # NaN fails too
            raise DataError(f"{where}: its pixels are floats beyond 0 to 1; save it with 8 bits a pixel.")
        say(FLOAT, where)
        grey = np.round(values * 255).astype(np.uint8)
    else:
        raise DataError(f"{where}: this is a picture in {mode} colours; save it in RGB or grey.")
    return np.repeat(grey[..., None], 3, axis=2)


def _say_if_deep(image: PIL.Image.Image, where: str, say: Say) -> None:
    """Say of a picture that is not decoded yet that its colours have 16 bits, which PIL makes 8."""
    if image.mode in DIRECT and any(";16" in str(tile) for tile in getattr(image, "tile", ())):
        say(SIXTEEN, where)


def _is_clear(image: PIL.Image.Image) -> bool:
    """Whether any pixel is transparent at all."""
    low, _ = image.convert("RGBA").getchannel("A").getextrema()
    return low < 255  # type: ignore[operator]  # one band has numbers, not pairs of them


def read_image(
    path: str | Path,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    say: Say | None = None,
    content: bytes | None = None,
) -> tv_tensors.Image:
    """Decode an image file: uint8 [3, H, W], RGB, turned as its EXIF orientation says.

    `size` is the (height, width) that the annotations were made for. If only the image as stored
    has it, the orientation is left alone. The channels stay interleaved as in the file: resizing is quicker.
    `say` is told what was changed; without, it is logged. With `content` no file is opened: these are its
    bytes and `path` is what messages call it. Raises DataError if the file is missing, corrupt, cut short,
    has more than `max_pixels`, another size, or pixels that are no colours.
    """
    with _open(path, max_pixels, content) as image:
        try:
            turned = image
            _say_if_deep(image, str(path), say or _logged)
            if _orientation(image) != 1:
                turned = PIL.ImageOps.exif_transpose(image)
                if size is not None and (turned.height, turned.width) != tuple(size):
                    turned = image
            pixels = to_rgb(turned, str(path), say or _logged)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{path}: the image is corrupt or cut short ({error}).") from error
    if size is not None and pixels.shape[:2] != tuple(size):
        raise DataError(
            f"{path}: the image is {pixels.shape[0]}x{pixels.shape[1]} (height x width), its "
            f"annotations are for {size[0]}x{size[1]}; take the picture that was annotated, or annotate "
            "this one."
        )
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))


def as_image(image: Picture) -> tv_tensors.Image:
    """A picture in any of the forms that users have it in: uint8 [3, H, W], RGB.

    Args:
        image: a path or an address (`http:`, `https:`, `data:`); the bytes of an image file; a PIL image; an
            array uint8 [H, W, 3] or [H, W] (grey), RGB; a tensor uint8 [3, H, W], RGB; or either as
            `ufo.data.pixels` takes it: uint16, floats from 0 to 1, one channel, RGBA.

    All files are read as by `read_image`. Raises DataError for a file, an address or a PIL image that can't
    be used, ValueError for another array or tensor, TypeError for the rest.
    """
    if isinstance(image, str) and urls.is_url(image):
        return read_image(urls.shown(image), content=urls.fetch(image))
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return read_image("the bytes", content=bytes(image))
    if isinstance(image, PIL.Image.Image):
        return _from_pil(image)
    if not isinstance(image, Tensor | np.ndarray):
        raise TypeError(
            "an image is a path, an address, bytes, a PIL image, a NumPy array uint8 [H, W, 3] or a tensor "
            f"uint8 [3, H, W], not {type(image).__name__}; convert it to one of them"
        )
    _check_bounds(image)
    return tv_tensors.Image(as_pixels(image, _logged))


def _check_bounds(image: np.ndarray | Tensor) -> None:
    """DataError if a picture has more pixels than a file may have, before anything is copied."""
    sides = image.shape[:2] if isinstance(image, np.ndarray) else image.shape[-2:]
    if math.prod(sides) > MAX_PIXELS:
        kind = "array" if isinstance(image, np.ndarray) else "tensor"
        size = f"{sides[-1]}x{sides[0]}"
        raise DataError(f"The {kind} of {size} has more than the {MAX_PIXELS} pixels allowed; shrink it.")


def _from_pil(image: PIL.Image.Image) -> tv_tensors.Image:
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise DataError(
            f"The PIL image of {width}x{height} pixels is empty or has more than the {MAX_PIXELS} "
            "allowed; shrink it."
        )
    try:
        _say_if_deep(image, "the PIL image", _logged)
        turned = PIL.ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
        pixels = to_rgb(turned, "the PIL image", _logged)
    except DataError:
        raise
    except Exception as error:  # PIL decodes a file only now
        raise DataError(f"The PIL image is corrupt or cut short ({error}).") from error
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())


def image_size(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of the image that `read_image` would return, from the header alone."""
    with _open(path, max_pixels) as image:
        return _sizes(image)[0]


def image_sizes(path: str | Path, max_pixels: int = MAX_PIXELS) -> list[tuple[int, int]]:
    """The (height, width) that `read_image` may give: turned as its EXIF orientation says, and as stored."""
    with _open(path, max_pixels) as image:
        return _sizes(image)


def map_size(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of a label map or a mask file, from its header: as stored, as its numbers are read."""
    with _open(path, max_pixels) as image:
        return _sizes(image)[-1]


def read_label_map(path: str | Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode a label image (grey or palette) to its raw numbers: int64 [H, W].

    Raises DataError if it is missing, corrupt, too large, a colour picture or has several pages.
    """
    with _open(path, max_pixels) as image:
        if image.mode not in LABELS:
            raise DataError(
                f"{path}: a label map needs one number per pixel, this is a {image.mode} picture; save the "
                "class numbers as a grey PNG."
            )
        if getattr(image, "n_frames", 1) > 1:
            raise DataError(f"{path}: a label map is one picture, this file has {image.n_frames} pages.")
        try:
            return torch.from_numpy(np.array(image).astype(np.int64))
        except Exception as error:
            raise DataError(f"{path}: the image is corrupt or cut short ({error}).") from error


# --- where a file is


def find_file(folder: Path, name: str) -> Path:
    """Where a file that annotations name is: below `folder`, or under the same name in another spelling.

    Spellings are backslashes, URL codes ("%20") and the case of letters. If there is none, `folder / name`.
    """
    path = folder / name
    if is_file(path):
        return path
    for other in _spellings(name):
        if is_file(folder / other):
            return folder / other
        parent = _folder(folder, other)
        if len(found := _listing(parent).get(PurePosixPath(other).name.lower(), [])) == 1:
            return parent / found[0]
    return path


def find_map(folder: Path, name: str) -> Path:
    """As `find_file`, for a map or mask: also one of another suffix that keeps its numbers."""
    found = find_file(folder, name)
    if is_file(found):
        return found
    for other in _spellings(name):
        parent, stem = _folder(folder, other), PurePosixPath(other).stem.lower()
        there = (file for names in _listing(parent).values() for file in names)
        for file in sorted(there):
            path = PurePosixPath(file)
            if path.stem.lower() == stem and path.suffix.lower() in MAP_SUFFIXES:
                return parent / file
    return found


def _spellings(name: str) -> list[str]:
    """A name with slashes for backslashes, without URL codes, and with neither."""
    slashed = name.replace("\\", "/")
    return list(dict.fromkeys((slashed, name, unquote(name), unquote(slashed))))


def _folder(folder: Path, name: str) -> Path:
    """The folder of a file below `folder`, with the case of letters that it has there."""
    for part in PurePosixPath(name).parent.parts:
        there = _listing(folder).get(part.lower(), [])
        folder = folder / (there[0] if len(there) == 1 else part)
    return folder


def near(path: Path) -> str:
    """What the folder has instead of a missing file, as a sentence; empty if it has nothing like it."""
    name = path.name.replace("\\", "/").rsplit("/", 1)[-1]
    same = _stems(path.parent).get(name.rsplit(".", 1)[0].lower())
    other = same and same != name
    return f" Its folder has {same}; correct the name in the annotations." if other else ""


def is_file(path: Path) -> bool:
    """Whether there is such a file; no error for a name that none can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


@cache
def _stems(folder: Path) -> dict[str, str]:
    """A name in a folder by its lower-case form without suffix."""
    names = (name for names in _listing(folder).values() for name in names)
    return {name.rsplit(".", 1)[0].lower(): name for name in names}


@cache
def _listing(folder: Path) -> dict[str, list[str]]:
    """The names in a folder by their lower-case form."""
    found: dict[str, list[str]] = {}
    try:
        for name in os.listdir(folder):
            found.setdefault(name.lower(), []).append(name)
    except (OSError, ValueError):
        pass
    return found
