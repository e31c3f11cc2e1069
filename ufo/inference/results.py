"""One answer with its picture (`Result`), and those of several tasks to one picture (`Results`).

What can be done with an answer is the business of its kind (`ufo/kinds/`); here is only what a picture adds.
Shapes: `N` objects, `H W` pixels of the picture that was predicted.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from ufo.data.image_files import PICTURE_SUFFIXES, image_id
from ufo.draw import contact_sheet, draw, panel, photo_with_notes
from ufo.files import save_picture, write_json
from ufo.kinds import Found, ImageInfo, Kind, Shown, Text
from ufo.types import Prediction

if TYPE_CHECKING:
    from PIL import Image

SHOWN = 0.3
"""Objects below this score are counted and not drawn, where none was named."""
LINE = 160  # letters of a summary


@dataclass(frozen=True)
class Origin:
    """Where the picture of an answer came from."""

    pixels: Tensor  # uint8 [3, H, W], RGB, that the answer's boxes and masks refer to
    size: tuple[int, int]  # (height, width) of the file or frame, before it was shrunken
    name: str = ""  # path, address, or what it is
    index: int = 0  # its place among the pictures that were asked about; the number of a frame
    time: float | None = None  # of a frame, seconds from the start of the video


@dataclass(repr=False, eq=False)
class Result(Prediction):
    """A `Prediction` with its picture: to look at, to loop over, to save, to hand on.

    All fields of `Prediction` are here: `boxes [N, 4]` xyxy in pixels of `image`, `scores [N]`, `labels
    [N]`, `masks [N, H, W]`, `semantic [H, W]`, `text`, `classes`. `len(result)` is the number of objects (of
    classes in a class map, 0 of a text) and a loop gives each of them as a `ufo.kinds.Found`. A result is
    always true: ask for `len(result)`.
    """

    origin: Origin | None = None
    kind: Kind | None = None
    asked: str = ""  # the expression or question
    score: float | None = None  # objects below it were left out; None: none were

    @classmethod
    def of(
        cls, prediction: Prediction, origin: Origin, kind: Kind, asked: str, score: float | None
    ) -> Result:
        """The prediction for a picture, without the objects below `score`."""
        parts = {f.name: getattr(prediction, f.name) for f in fields(Prediction)}
        result = cls(**parts, origin=origin, kind=kind, asked=asked)
        return result if score is None else result.above(score)

    # --- what it is

    @property
    def image(self) -> Tensor:
        """The picture uint8 `[3, H, W]` whose pixels boxes and masks refer to."""
        return self._origin.pixels

    @property
    def source(self) -> str:
        """Path or address of the picture; of pixels that were given "image N"."""
        return self._origin.name or f"image {self._origin.index}"

    @property
    def index(self) -> int:
        """The picture's place among those asked about, or the number of a frame."""
        return self._origin.index

    @property
    def time(self) -> float | None:
        """Of a frame, seconds from the start of the video; None of other pictures."""
        return self._origin.time

    # an answer is itself: those of `Prediction` would compare tensors, which are neither equal nor not
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def summary(self, score: float | None = None) -> str:
        """One line: how many of what, shares of the picture, the text, or where it is.

        Args:
            score: as in `plot`.
        """
        return self._kind.summary(self, self._shown if score is None else score, self.asked)

    def __repr__(self) -> str:
        line = self.summary()
        return f"<{self.task} of {self.source}: {line if len(line) <= LINE else line[: LINE - 3] + '...'}>"

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        """True, also without objects: nothing found is an answer."""
        return True

    def __iter__(self) -> Iterator[Found]:
        return self._kind.found(self, self.asked)

    def notes(self) -> list[str]:
        """The paragraphs that stand below the drawing: texts, questions, what was referred to."""
        return self._kind.predicted(self, Shown(self.classes, self.asked, self._shown)).notes

    def above(self, score: float) -> Result:
        """The same without the objects below `score`; of other kinds nothing is left out.

        Raises ValueError for what is no number from 0 to 1.
        """
        if not 0 <= score <= 1:
            raise ValueError(f"score={score} is not a number from 0 to 1")
        kept = cast(Result, self._kind.confident(self, score))
        return replace(kept, score=score)

    # --- to look at

    def plot(self, score: float | None = None, **options: Any) -> Image.Image:
        """The picture with what was found, as an RGB image of PIL; a notebook shows it.

        Args:
            score: objects below it are only counted; default: those that were asked for, else 0.3.
            options: of `ufo.draw.draw`: `max_objects`, `min_side`, `max_side` (pixels of the drawing).
        """
        shown = self._shown if score is None else score
        return draw(self.image, self, text=self.asked, min_score=shown, **options)

    def _repr_png_(self) -> bytes:
        return _png(self.plot())

    def save(self, path: str | Path) -> Path:
        """Write the drawing (.png, .jpg, .webp) or `to_dict` (.json), whole or not at all; gives the path.

        Raises ValueError for another ending.
        """
        return _save(self, path)

    # --- to hand on

    def to_coco(self, image_id: int | str | None = None) -> list[dict[str, Any]]:
        """Records as COCO's results have them: `[x, y, width, height]` and compressed RLE, categories from 1.

        Args:
            image_id: default: the file's name without its ending, as a number where it is one; of other
                pictures their place among those asked about, of a frame its number.
        """
        origin = self._origin
        name = Path(origin.name).name if origin.name else self.source
        info = ImageInfo(_id(origin) if image_id is None else image_id, name, origin.size)
        height, width = self.image.shape[-2:]
        return self._kind.records(self, info, (height, width), self.asked)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON: `task`, `source`, `height`, `width`, and `results` as in `to_coco`.

        A frame has its number (`frame`) and its `time` in seconds, too.
        """
        height, width = self._origin.size
        head = {"task": self.task, "source": self.source, "height": height, "width": width}
        if self._origin.time is not None:
            head |= {"frame": self._origin.index, "time": round(self._origin.time, 4)}
        if self.asked:
            head["text"] = self.asked
        names = ImageInfo("", "", (0, 0)).head
        return head | {"results": [{k: v for k, v in r.items() if k not in names} for r in self.to_coco()]}

    def to_supervision(self) -> Any:
        """`supervision.Detections` with `class_name` in its data; a class map is one detection per class.

        Raises ImportError that says how to install it, if the library is not there.
        """
        from ufo.inference.supervision import detections

        return detections(self)

    @property
    def _shown(self) -> float:
        return SHOWN if self.score is None else self.score

    @property
    def _kind(self) -> Kind:
        assert self.kind is not None, "made by Result.of"
        return self.kind

    @property
    def _origin(self) -> Origin:
        assert self.origin is not None, "made by Result.of"
        return self.origin


class Results(dict[str, Result]):
    """What several tasks said about one picture, by the names of the tasks."""

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.values()))

    def __getattr__(self, name: str) -> Any:
        """Only asked for what is not there: the boxes of which task?"""
        known = {*dir(Result), *(f.name for f in fields(Result))}
        if name.startswith("_") or name not in known:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        one = ", ".join(f"found['{task}'].{name}" for task in self)
        raise AttributeError(f"these are answers by task; ask one of them: {one}")

    def __missing__(self, task: object) -> Result:
        raise KeyError(f"no answer of {task!r}; there are those of {', '.join(self)}")

    @property
    def source(self) -> str:
        """Path or address of the picture."""
        return self._any.source

    @property
    def index(self) -> int:
        """The picture's place among those asked about, or the number of a frame."""
        return self._any.index

    @property
    def time(self) -> float | None:
        """Of a frame, seconds from the start of the video; None of other pictures."""
        return self._any.time

    def above(self, score: float) -> Results:
        """The same without objects below `score`."""
        return Results({task: result.above(score) for task, result in self.items()})

    def plot(self, score: float | None = None, **options: Any) -> Image.Image:
        """What was found on one sheet; answers in words share one photo. Arguments as in `Result.plot`."""
        if len(self) == 1:
            return self._any.plot(score, **options)
        said = {task: result for task, result in self.items() if isinstance(result.kind, Text)}
        cards = [panel(task, r.plot(score, **options)) for task, r in self.items() if task not in said]
        if said:
            notes = {task: result.notes() for task, result in said.items()}
            sides = {name: options[name] for name in ("min_side", "max_side") if name in options}
            cards.append(photo_with_notes(self._any.image, notes, **sides))
        return contact_sheet(cards)

    def _repr_png_(self) -> bytes:
        return _png(self.plot())

    def save(self, path: str | Path) -> Path:
        """As `Result.save`, of all tasks."""
        return _save(self, path)

    def to_coco(self, image_id: int | str | None = None) -> dict[str, list[dict[str, Any]]]:
        """`Result.to_coco` by task."""
        return {task: result.to_coco(image_id) for task, result in self.items()}

    def to_dict(self) -> dict[str, Any]:
        """`Result.to_dict` by task."""
        return {task: result.to_dict() for task, result in self.items()}

    @property
    def _any(self) -> Result:
        return next(iter(self.values()))


def _save(found: Result | Results, path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() == ".json":
        content: Mapping[str, Any] = found.to_dict()
        write_json(path, content)
    elif path.suffix.lower() in PICTURE_SUFFIXES:
        save_picture(found.plot(), path)
    else:
        raise ValueError(
            f"'{path.name}' is no picture and no .json; pictures are {', '.join(PICTURE_SUFFIXES)} files"
        )
    return path


def _png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _id(origin: Origin) -> int | str:
    """The stem of a file's name; else the picture's index."""
    if not origin.name or origin.time is not None:
        return origin.index
    return image_id(Path(origin.name))
