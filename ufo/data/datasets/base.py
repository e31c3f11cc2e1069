"""What all data sets share: bounded image reading, JSON with clear errors.

A data set is map-style and memory-light: it holds numpy arrays and packed text instead of the
parsed JSON, and decodes images, polygons and RLE only when a sample is asked for.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.TiffImagePlugin
import PIL.WebPImagePlugin
import torch
from torch import BoolTensor, Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ufo.data.errors import DataError
from ufo.data.json_stream import json_error, loads
from ufo.data.problems import Problems
from ufo.types import Sample, Target

MAX_PIXELS = 80_000_000
"""Images with more pixels than this are refused from their header, before they are decoded."""

# An explicit list: some of PIL's other plug-ins start external programs (EPS) or are rarely tested.
# (PIL itself loads only the commonest ones at first, hence the imports of the others.)
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
EXIF_ORIENTATION = 0x0112


class Strings:
    """An immutable list of texts in two flat arrays.

    A Python list of a million `str` costs 60 bytes each and, because reading one writes its
    reference count, is copied page by page into every forked worker.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        self.ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self.bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    @classmethod
    def of(cls, ends: np.ndarray, content: np.ndarray) -> Strings:
        """The list whose arrays (`ends` int64 [len + 1], `bytes` uint8) are these."""
        strings = cls.__new__(cls)
        strings.ends, strings.bytes = ends, content
        return strings

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        start, end = self.ends[i], self.ends[i + 1]
        return self.bytes[start:end].tobytes().decode("utf-8", "surrogatepass")


class ImageDataset(Dataset[Sample], ABC):
    """The interface of every data set: what the data module and the task mixer rely on.

    `classes` are the names behind `labels` and `semantic`. `provides` says what it knows about its images
    (`ufo.types.ANNOTATIONS`): it serves every task that needs no more.
    `wordings` are other ways to say the same classes: a training batch uses one of them.
    `problems` counts and names what is left out (`ufo.data.problems`).
    """

    classes: tuple[str, ...] = ()
    wordings: tuple[tuple[str, ...], ...] = ()
    provides: frozenset[str] = frozenset()
    problems: Problems

    def serve(self, needs: frozenset[str], *, pasting: bool = False) -> None:
        """Get ready for a task and log what is left out: called once, when a source has built its data.

        Args:
            needs: the annotations that the task needs (`ufo.types.ANNOTATIONS`); an object is left out only
                if one of these is unusable.
            pasting: masks are used if there are any, since the transform pastes objects.
        """
        self.problems.announce()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, i: int) -> Sample:
        """Decode sample `i`; for evaluation it holds what a model may see, `target` has the rest.

        Raises DataError, naming the file and the reason, if it can't be used.
        """

    @abstractmethod
    def target(self, i: int) -> Target:
        """Ground truth of sample `i` in original pixels; the image need not be readable."""

    @abstractmethod
    def portrait(self) -> BoolTensor:
        """bool [len]: width < height, from the annotations or the image headers."""


def require(path: str | Path, argument: str, *, folder: bool = False) -> Path:
    """`path`, or DataError in one sentence that names it and the data set's argument to change."""
    path = Path(path)
    if path.is_dir() if folder else path.is_file():
        return path
    what = "folder" if folder else "file"
    state = f"is not a {what}" if path.exists() else "does not exist"
    raise DataError(
        f"The {argument} {what} {path} {state}: set this data set's `{argument}` (or the data "
        "folder it is built from) to where it is."
    )


def prepared(path: str | Path, argument: str, name: str) -> Path:
    """`path`, a file that `ufo data prepare <name>` writes, or DataError that says so."""
    if not Path(path).is_file():
        raise DataError(
            f"The {argument} file {path} does not exist: run `ufo data prepare {name}`, which writes it, or "
            f"set this data set's `{argument}` to where it is."
        )
    return Path(path)


def stamp(path: Path) -> list[Any]:
    """What tells whether a file has changed, as JSON can hold it: path, size, time of its last change."""
    stat = path.stat()
    return [str(path), stat.st_size, stat.st_mtime_ns]


def require_images(images: Path, names: Strings) -> None:
    """DataError if none of the first images is in the folder: then the folder is the wrong one."""
    first = [images / names[i] for i in range(min(len(names), 10))]
    if first and not any(path.is_file() for path in first):
        raise DataError(
            f"The annotations name images such as {names[0]}, but {first[0]} does not exist: set "
            "this data set's `images` to the folder those names start from."
        )


def read_json(path: str | Path) -> Any:
    """Parsed JSON, or DataError with the file and the position of what is wrong."""
    try:
        return loads(Path(path).read_bytes())
    except json.JSONDecodeError as error:
        # Nothing but white space left: the writer was interrupted or the disk was full.
        cut = not error.doc[error.pos :].strip() or error.msg.startswith("Unterminated string")
        raise json_error(path, error.msg, cut, error.lineno, error.colno, error.pos) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text at byte {error.start} ({error.reason}): save it as UTF-8."
        ) from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply to be an annotation file.") from error


def _open(path: str | Path, max_pixels: int) -> PIL.Image.Image:
    try:
        image = PIL.Image.open(path, formats=IMAGE_FORMATS)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such image file.") from error
    except PIL.UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image in one of {', '.join(IMAGE_FORMATS)}.") from error
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


def read_image(
    path: str | Path, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> tv_tensors.Image:
    """Decode an image file: uint8 [3, H, W], RGB, turned as its EXIF orientation says.

    `size` is the (height, width) that the annotations were made for. If only the image as stored
    has it, the orientation is left alone. The channels stay interleaved as in the file: resizing is quicker.
    Raises DataError if the file is missing, corrupt, cut short, has more than `max_pixels`, or has another
    size.
    """
    with _open(path, max_pixels) as image:
        try:
            turned = image
            if _orientation(image) != 1:
                turned = PIL.ImageOps.exif_transpose(image)
                if size is not None and (turned.height, turned.width) != size:
                    turned = image
            pixels = np.array(turned.convert("RGB"))
        except Exception as error:
            raise DataError(f"{path}: the image is corrupt or cut short ({error}).") from error
    if size is not None and pixels.shape[:2] != tuple(size):
        raise DataError(
            f"{path}: the image is {pixels.shape[0]}x{pixels.shape[1]} (height x width), its "
            f"annotations are for {size[0]}x{size[1]}."
        )
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))


def as_image(image: str | Path | PIL.Image.Image | Tensor) -> tv_tensors.Image:
    """A picture in any of the forms that users have it in: uint8 [3, H, W], RGB.

    A path is read as by `read_image`; a tensor must have this form already. Raises DataError for a
    file or PIL image that can't be used, ValueError for another tensor, TypeError for the rest.
    """
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, PIL.Image.Image):
        return _from_pil(image)
    if not isinstance(image, Tensor):
        raise TypeError(
            "an image is a path, a PIL image or a uint8 tensor [3, H, W], not "
            f"{type(image).__name__}; convert it, for example with PIL.Image.fromarray(array)"
        )
    shape = tuple(image.shape)
    if image.dtype != torch.uint8 or len(shape) != 3 or shape[0] != 3 or 0 in shape:
        raise ValueError(
            f"an image tensor is uint8 [3, H, W] (RGB, 0 to 255), not {image.dtype} {list(shape)}"
        )
    return tv_tensors.Image(image)


def _from_pil(image: PIL.Image.Image) -> tv_tensors.Image:
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise DataError(
            f"The PIL image of {width}x{height} pixels is empty or has more than the {MAX_PIXELS} "
            "allowed; shrink it."
        )
    try:
        turned = PIL.ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
        pixels = np.array(turned.convert("RGB"))
    except Exception as error:  # PIL decodes a file only now
        raise DataError(f"The PIL image is corrupt or cut short ({error}).") from error
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())


def image_size(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of the image that `read_image` would return, from the header alone."""
    with _open(path, max_pixels) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def read_label_map(path: str | Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode a label image (grey or palette) to its raw numbers: int64 [H, W].

    Raises DataError if it is missing, corrupt, too large or a colour picture.
    """
    with _open(path, max_pixels) as image:
        if image.mode not in {"1", "L", "P", "I", "I;16"}:
            raise DataError(
                f"{path}: a label map needs one number per pixel, this is a {image.mode} picture."
            )
        try:
            return torch.from_numpy(np.array(image).astype(np.int64))
        except Exception as error:
            raise DataError(f"{path}: the image is corrupt or cut short ({error}).") from error
