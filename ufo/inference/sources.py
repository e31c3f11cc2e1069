"""Where pictures come from: a file, a folder, a video, a camera, or anything that gives them one by one.

Shapes: `H W` pixels of a picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from torch import Tensor

from ufo.data import urls
from ufo.data.errors import DataError
from ufo.data.image_files import images_in, is_video
from ufo.data.pictures import Picture, as_image
from ufo.inference import video
from ufo.inference.results import Origin
from ufo.ops.resize import bounded

Skip = Callable[[str, DataError], None]
"""Told the name of a picture that cannot be used, and why."""


@dataclass(frozen=True)
class Source:
    """Pictures one by one."""

    origins: Iterator[Origin]
    total: int | None  # how many; None: it ends when it ends


def is_one(image: Any) -> bool:
    """Whether it is one picture; a tensor or an array of four dimensions is many, as a list is.

    So is an array of paths, which tables give.
    """
    if isinstance(image, (Tensor, np.ndarray)):
        return image.ndim < 4 and not (isinstance(image, np.ndarray) and image.dtype.kind in "OUS")
    return isinstance(image, (str, Path, bytes, bytearray, memoryview, PIL.Image.Image))


def many(images: Any) -> Iterable[Picture]:
    """The pictures of an iterable. Raises TypeError for what is none."""
    if hasattr(images, "read"):  # a loop over it would give lines
        raise TypeError("an open file is no picture; give its bytes, file.read(), or its path")
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise TypeError(
            f"pictures are one picture, or a list or iterator of them, not {type(images).__name__}"
        )
    return images


def open_source(source: Any, max_pixels: int | None, every: int, skip: Skip | None) -> Source:
    """The pictures of whatever a user calls a source, not yet decoded.

    Args:
        source: as in `UFO.stream`.
        max_pixels: larger pictures are shrunken to so many.
        every: only each n-th picture.
        skip: told what cannot be used; without it that is an error.

    Raises DataError for a path that is not there and a folder without pictures.
    """
    if isinstance(source, int) and not isinstance(source, bool):
        return Source(video.camera(source, max_pixels, every), None)
    if isinstance(source, (str, Path)) and not (isinstance(source, str) and urls.is_url(source)):
        path = Path(source)
        if is_video(path):
            return Source(video.frames(path, max_pixels, every), video.frame_count(path, every))
        source = images_in(path) if path.is_dir() else [path]
    elif is_one(source):
        source = [source]
    pictures = many(source)
    size = len(pictures) if isinstance(pictures, Sized) else None
    total = None if size is None else -(-size // every)
    return Source(_origins(pictures, max_pixels, every, skip), total)


def _origins(
    pictures: Iterable[Picture], max_pixels: int | None, every: int, skip: Skip | None
) -> Iterator[Origin]:
    for index, picture in enumerate(pictures):
        if index % every:
            continue
        try:
            yield read(picture, index, max_pixels)
        except DataError as error:
            if skip is None:
                raise
            skip(name_of(picture), error)


def read(picture: Picture, index: int = 0, max_pixels: int | None = None) -> Origin:
    """One picture, decoded; shrunken where it has more than `max_pixels`.

    Raises DataError where it cannot be read, with the method for what is no single picture.
    """
    if isinstance(picture, (str, Path)):
        if not str(picture):
            raise DataError("the path of the picture is empty")
        if not urls.is_url(str(picture)) and (is_video(Path(picture)) or os.path.isdir(picture)):
            raise DataError(
                f"{picture}: this is no single picture; model.stream gives an answer for each in it"
            )
    pixels = as_image(picture).as_subclass(Tensor)
    height, width = pixels.shape[-2:]
    return Origin(bounded(pixels, max_pixels), (height, width), name_of(picture), index)


def name_of(picture: Any) -> str:
    """Path or address; "" of pixels."""
    if isinstance(picture, str) and urls.is_url(picture):
        return urls.shown(picture)
    if isinstance(picture, (str, Path)):
        return str(picture)
    return str(getattr(picture, "filename", "") or "")  # of a PIL image that was opened from a file
