"""Which files are pictures and videos, by their endings; needs no library, as every command looks here."""

from __future__ import annotations

from pathlib import Path

from ufo.data.errors import DataError

_COMMON = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".tif", ".tiff")
_RARE = (".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
IMAGE_SUFFIXES = frozenset([*_COMMON, *_RARE])
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Of drawings that are written."""
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Videos that are written, and FFmpeg's names of their formats."""
VIDEO_SUFFIXES = frozenset([*CONTAINERS, ".m4v", ".avi", ".mpg", ".mpeg", ".ts", ".ogv", ".3gp", ".flv"])


def is_video(path: Path) -> bool:
    """Whether a path is a video by its ending."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def images_in(folder: Path) -> list[Path]:
    """The images in a folder by their endings, sorted; hidden files and folders inside are left out.

    Raises DataError if there are none.
    """
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise DataError(
            f"there are no images in the folder {folder} (looked for {' '.join(sorted(IMAGE_SUFFIXES))}, "
            "not in subfolders)"
        )
    return found


def image_id(path: Path) -> int | str:
    """What results call an image: its file's stem; as a number where it is one, as in COCO's files."""
    return int(path.stem) if path.stem.isascii() and path.stem.isdigit() else path.stem
