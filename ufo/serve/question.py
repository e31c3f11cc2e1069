"""What a request asks, read from its JSON: a picture, tasks, words, and what the answer shall hold.

Nothing but the uploaded bytes is read: a path or an address in the place of the picture is refused.
Shapes: `H W` pixels of the picture, which may be smaller than the uploaded one.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from dataclasses import dataclass, field
from typing import Any

import PIL.Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from ufo.data.errors import DataError
from ufo.data.pictures import IMAGE_FORMATS, as_image
from ufo.inference.asking import Request, RequestError, make_requests
from ufo.model import UFO
from ufo.ops.nearest import instead
from ufo.serve.limits import Limits, Refused
from ufo.tasks.base import Task

KEYS = ("image", "file_name", "tasks", "text", "classes", "score", "summary_score", "explain", "layers")
LETTERS = 2000  # of a text, and of a class name
NAMES = 2000  # class names


@dataclass(frozen=True)
class Question:
    """One request."""

    pixels: Tensor  # uint8 [3, H, W]
    size: tuple[int, int]  # (height, width) of the uploaded picture
    asks: list[Request] = field(default_factory=list)
    file_name: str = "upload"
    score: float = 0.3  # objects below it are left out
    summary_score: float = 0.3  # and those below it are only counted in the summary
    explain: bool = False  # add how each answer arose
    layers: bool = False  # add what a page draws


def read_question(body: bytes, model: UFO, limits: Limits) -> Question:
    """A request's JSON. Raises Refused, in one sentence, where it cannot be answered."""
    given = _parsed(body)
    strange = [key for key in given if key not in KEYS]
    if strange:
        key = strange[0][:40]
        raise Refused(422, f"there is no key '{key}'; {instead(key, KEYS, 'there are')}")
    asks = _asks(given, model)
    pixels = _picture(_typed(given, "image", str, ""), limits)
    height, width = pixels.shape[-2:]
    score = _score(given, "score", 0.3)
    name = "".join(c for c in _typed(given, "file_name", str, "upload") if c.isprintable())
    return Question(
        pixels=_shrunken(pixels, limits.predicted_pixels),
        size=(height, width),
        asks=asks,
        file_name=name[-200:] or "upload",
        score=score,
        summary_score=_score(given, "summary_score", score),
        explain=_typed(given, "explain", bool, False),
        layers=_typed(given, "layers", bool, False),
    )


def reads_classes(task: Task) -> bool:
    """Whether class names are part of a task's question."""
    return task.prompt(["x"], "") != task.prompt([], "")


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the request is not JSON; send an object with 'image' and 'tasks'") from error
    if not isinstance(given, dict):
        raise Refused(400, "the request is JSON, but no object; send one with 'image' and 'tasks'")
    return given


def _typed(given: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = given.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise Refused(422, f"'{key}' is a {type(value).__name__}; send a {kind.__name__}")
    return value


def _texts(given: dict[str, Any], key: str) -> list[str]:
    texts = _typed(given, key, list, [])
    if len(texts) > NAMES or not all(isinstance(text, str) for text in texts):
        raise Refused(422, f"'{key}' must be a list of at most {NAMES} texts")
    return [_readable(text.strip(), key) for text in texts]


def _readable(text: str, key: str) -> str:
    if len(text) > LETTERS:
        raise Refused(422, f"'{key}' has more than {LETTERS} letters; shorten it")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise Refused(422, f"'{key}' is not UTF-8 text")
    return text


def _score(given: dict[str, Any], key: str, default: float) -> float:
    score = given.get(key, default)
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
        raise Refused(422, f"'{key}' must be a number from 0 to 1")
    return float(score)


# --- the tasks


def _asks(given: dict[str, Any], model: UFO) -> list[Request]:
    tasks = list(dict.fromkeys(_texts(given, "tasks")))
    if not tasks:
        raise Refused(422, f"'tasks' names no task; the model has {', '.join(model.tasks)}")
    text = _readable(_typed(given, "text", str, "").strip(), "text")
    classes = _texts(given, "classes")
    if not all(classes) or len({name.lower() for name in classes}) < len(classes):
        raise Refused(422, "'classes' has an empty or a repeated name")
    try:
        return make_requests(model, tasks, [text], classes or None)[0]
    except RequestError as error:
        raise Refused(422, str(error)) from error


# --- the picture


def _picture(image: str, limits: Limits) -> Tensor:
    """The pixels uint8 `[3, H, W]` of base64, with or without `data:image/...;base64,` before it."""
    if not image:
        raise Refused(422, "there is no picture; send its file in base64 as 'image'")
    head, comma, rest = image.partition(",")
    if comma and not (head.startswith("data:image/") and head.endswith(";base64")):
        raise Refused(422, "'image' is no picture in base64; send the bytes of its file, not where it is")
    try:
        content = base64.b64decode(rest if comma else image, validate=True)
    except (binascii.Error, ValueError) as error:
        message = "'image' is no picture in base64; send the bytes of its file, not where it is"
        raise Refused(422, message) from error
    if len(content) > limits.upload_bytes:
        raise Refused(413, f"the picture has more than {limits.upload_mb:g} MB; shrink it")
    too_large = Refused(413, f"the picture has more than the {limits.pixels} pixels allowed; shrink it")
    try:
        with PIL.Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as opened:
            if opened.width * opened.height > limits.pixels:
                raise too_large
            return as_image(opened)
    except Refused:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise too_large from error
    except DataError as error:
        raise Refused(422, f"the picture cannot be used: {error}") from error
    except Exception as error:  # PIL passes on whatever its plug-ins raise on broken files
        raise Refused(422, f"this is no picture in one of {', '.join(IMAGE_FORMATS)}") from error


def _shrunken(pixels: Tensor, most: int) -> Tensor:
    """The picture `[3, H, W]` with at most so many pixels."""
    height, width = pixels.shape[-2:]
    factor = (most / (height * width)) ** 0.5
    if factor >= 1:
        return pixels
    return resize(pixels, [max(1, int(height * factor)), max(1, int(width * factor))])
