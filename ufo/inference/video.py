"""Videos and cameras read and written with PyAV, an extra: `pip install 'ufo-vision[video]'`.

A frame becomes uint8 `[3, H, W]`, RGB, turned as the video says. A file decides neither how much memory a
frame takes nor what else is opened: sizes are bounded, and formats that name other files (playlists) are not
read.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ufo.data.errors import DataError
from ufo.data.image_files import CONTAINERS
from ufo.data.pictures import MAX_PIXELS
from ufo.files import scratch_for
from ufo.inference.results import Origin
from ufo.ops.resize import bounded

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

READ = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,flv"
"""FFmpeg's names of the formats that are read; `hls`, `concat` and `dash` would open what a file names."""
SHARE = 0.9  # of the frames that a header promises, which is often a guess
CLOCK = Fraction(1, 1000)  # what times in written videos are counted in


def frames(path: Path, max_pixels: int | None = None, every: int = 1) -> Iterator[Origin]:
    """The frames of a video, each `every`-th, decoded one by one.

    A video whose end is damaged or missing gives those before, and the log says so. Raises DataError if there
    is no frame that can be read.
    """
    expected, last = frame_count(path), -1
    with open_video(path) as (container, stream):
        for origin in _decoded(container, stream, str(path), max_pixels, every):
            last = origin.index
            yield origin
    if expected and last + every < SHARE * expected:
        log.warning("%s: it ends after %d of about %d frames", path, last + 1, expected)


def camera(number: int, max_pixels: int | None = None, every: int = 1) -> Iterator[Origin]:
    """The frames of a camera until the reader stops. Raises DataError if there is no such camera."""
    av = _av()
    if sys.platform.startswith("linux"):
        place, format = f"/dev/video{number}", "v4l2"
    elif sys.platform == "darwin":
        place, format = str(number), "avfoundation"
    else:
        raise DataError("cameras are read on Linux and macOS; give the frames as an iterator of arrays")
    try:
        container = av.open(place, format=format)
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"camera {number}: it cannot be opened ({_reason(error)})") from error
    with container:
        yield from _decoded(
            container, _video_stream(container, f"camera {number}"), f"camera {number}", max_pixels, every
        )


def frame_count(path: Path, every: int = 1) -> int | None:
    """About how many frames `frames` will give, from the header; None where it does not say."""
    with open_video(path) as (_, stream):
        count = stream.frames
        if not count and stream.duration and stream.average_rate:
            count = int(stream.duration * stream.time_base * stream.average_rate)
        return -(-count // every) if count else None


def frame_rate(path: Path) -> Fraction:
    """Frames a second; 25 where the header does not say."""
    with open_video(path) as (_, stream):
        return Fraction(stream.average_rate or 25)


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its video stream, nothing decoded. Raises DataError for what is no video."""
    av = _av()
    if not path.is_file():
        raise DataError(f"{path}: there is no such video file")
    if not path.stat().st_size:
        raise DataError(f"{path}: the file is empty")
    with path.open(
        "rb"
    ) as file:  # FFmpeg is given an open file, never a name that it may take for an address
        try:
            container = av.open(file, options={"format_whitelist": READ})
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DataError(f"{path}: this is no video that can be read ({_reason(error)})") from error
        with container:
            yield container, _video_stream(container, str(path))


def _video_stream(container: Any, name: str) -> Any:
    if not container.streams.video:
        raise DataError(f"{name}: there is no picture in it; was it written to its end?")
    stream = container.streams.video[0]
    _check_size(stream.codec_context.width, stream.codec_context.height, name)
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    stream.thread_type = "AUTO"
    return stream


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{name}: frames of {width}x{height} are more than the {MAX_PIXELS} pixels allowed")


def _decoded(container: Any, stream: Any, name: str, max_pixels: int | None, every: int) -> Iterator[Origin]:
    av = _av()
    rate, number = float(stream.average_rate or 25), -1
    try:
        for number, frame in enumerate(container.decode(stream)):
            if number % every:
                continue
            _check_size(frame.width, frame.height, name)
            values = frame.to_ndarray(format="rgb24")  # [H, W, 3]
            turns = round(getattr(frame, "rotation", 0) / 90) % 4
            pixels = torch.from_numpy(np.rot90(values, turns).copy()).permute(2, 0, 1)
            height, width = pixels.shape[-2:]
            time = number / rate if frame.time is None else float(frame.time)
            yield Origin(bounded(pixels, max_pixels), (height, width), name, number, time)
    except (av.FFmpegError, OSError) as error:
        if number < 0:
            raise DataError(f"{name}: the video is damaged ({_reason(error)})") from error
        log.warning(
            "%s: damaged after %d frames (%s); the rest is left out", name, number + 1, _reason(error)
        )
    if number < 0:
        raise DataError(f"{name}: the video has no frames")


# ---------------------------------------------------------------- writing


@contextmanager
def writing_video(path: Path, rate: Fraction) -> Iterator[Callable[[Image.Image, float], None]]:
    """A function that appends a picture, shown from a time in seconds on; the file appears at a good end.

    The first picture's size is that of the video: what others have beyond it is cut, what they lack is white.

    Args:
        path: ends with one of `CONTAINERS`.
        rate: frames a second, roughly: the times decide.
    """
    av = _av()
    with (
        scratch_for(path) as scratch,
        av.open(str(scratch), "w", format=CONTAINERS[path.suffix.lower()]) as container,
    ):
        writer = _Writer(container, path.suffix.lower(), rate)
        yield writer.write
        writer.finish()


class _Writer:
    """Encodes pictures into the one stream of a container, which is made for the first of them."""

    def __init__(self, container: Any, suffix: str, rate: Fraction):
        self.container, self.suffix, self.rate = container, suffix, rate
        self.stream: Any = None
        self.start, self.last = 0.0, -1

    def write(self, picture: Image.Image, time: float) -> None:
        av = _av()
        from PIL import Image

        if self.stream is None:
            self._begin(picture.width, picture.height)
            self.start = time
        canvas = Image.new("RGB", (self.stream.width, self.stream.height), "white")
        canvas.paste(picture, (0, 0))
        frame = av.VideoFrame.from_image(canvas)
        self.last = max(self.last + 1, round((time - self.start) / CLOCK))  # times must grow
        frame.pts, frame.time_base = self.last, CLOCK
        self.container.mux(self.stream.encode(frame))

    def finish(self) -> None:
        if self.stream is None:
            raise DataError("there was no frame to write into the video")
        self.container.mux(self.stream.encode())

    def _begin(self, width: int, height: int) -> None:
        av = _av()
        options = {}
        if self.suffix == ".webm":
            codec, options = "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}
        else:
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self.stream = self.container.add_stream(codec, rate=self.rate, options=options)
        self.stream.width, self.stream.height = width + width % 2, height + height % 2  # colours are halved
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = CLOCK


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise DataError("videos and cameras need PyAV: pip install 'ufo-vision[video]'") from error
    return av


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
