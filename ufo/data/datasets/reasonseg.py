"""ReasonSeg: an image with one mask, and several texts that need reasoning to find it.

See docs/published_system.md#reasonseg.
An image `<name>` of any suffix lies beside `<name>.json` with `shapes` (polygons), `text` and `is_sentence`;
every text is a sample of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision import tv_tensors

from ufo.data.datasets.base import ImageDataset, require
from ufo.data.errors import DataError
from ufo.data.image_files import IMAGE_SUFFIXES
from ufo.data.json_stream import loads
from ufo.data.pictures import image_size
from ufo.data.problems import DOUBTFUL, LEFT_OUT, Problems
from ufo.data.texts import usable_text
from ufo.ops.masks import rle_encode
from ufo.types import IGNORE, Sample, Target

_MAX_POINTS = 100_000  # per polygon
_MAX_SIDE = 8192  # of an image that cannot be read
KINDS = ("all", "short", "long")


class ReasonSegDataset(ImageDataset):
    """Texts about images of one folder, in the order of the files' names.

    Args:
        folder: holds the images and their JSON files.
        train: samples carry the mask, uint8 [1, H, W]; regions that do not count are background in it.
        kind: "all" texts, or only phrases ("short") or whole sentences ("long").

    A `target` keeps the regions that do not count in `ignore`. An image without polygons has an empty mask. A
    file that can't be used is left out of training and an error in evaluation.

    Raises DataError if the folder has no usable pair of image and JSON, or `kind` is none of these.
    """

    provides = frozenset({"expression", "masks", "sentence"})

    def __init__(
        self, folder: str | Path, *, train: bool = False, kind: Literal["all", "short", "long"] = "all"
    ) -> None:
        self.train, self.folder = train, require(folder, "folder", folder=True)
        self.images = self.folder
        if kind not in KINDS:
            raise DataError(
                f"ReasonSeg has no texts of kind {kind!r}; set `kind` to one of {', '.join(KINDS)}."
            )
        self.problems = Problems(str(self.folder), quiet=True)
        self._records: list[tuple[str, list[Any], bool]] = []  # name, shapes, whole sentences
        self._samples: list[tuple[int, str]] = []  # record, text
        files = sorted(self.folder.iterdir(), reverse=True)  # of several of a name the first one stays
        self._pictures = {file.stem: file.name for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
        for path in sorted(file for file in files if file.suffix.lower() == ".json"):
            try:
                shapes, said, sentence = _read(path)
                texts = self._readable(said, path)
            except DataError as error:
                if not train:
                    raise
                self.problems.report("unusable file", str(error))
                continue
            if kind != "all" and sentence != (kind == "long"):
                continue
            if not shapes:
                self.problems.report("no polygons", path.name)
            self._samples += [(len(self._records), text) for text in texts]
            self._records.append((path.stem, shapes, sentence))
        if not self._samples:
            which = "" if kind == "all" else f" with {kind} texts"
            raise DataError(
                f"{self.folder} has no JSON file of ReasonSeg{which}: set this data set's `folder` to the "
                "folder of one split."
            )
        self._portrait: Tensor | None = None

    def _readable(self, said: list[Any], path: Path) -> list[str]:
        """The texts that a model can be asked with; the others are counted. DataError if there is none."""
        checked = [usable_text(value, self.train) for value in said]
        texts = [text.strip() for text, _ in checked if text.strip()]
        if not texts:
            raise DataError(f"{path} has no usable text in `text`.")
        for text, problem in checked:
            if problem:
                effect = LEFT_OUT if self.train or not text else DOUBTFUL
                self.problems.report(problem, path.name, effect=effect)
        return texts

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, i: int) -> Sample:
        record, text = self._samples[i]
        name, shapes, sentence = self._records[record]
        image = self._picture(self._image(name).name)
        sample: Sample = {"image": image, "text": text, "sentence": sentence}
        if self.train:
            marked = paint(shapes, tuple(image.shape[-2:]))
            sample["masks"] = tv_tensors.Mask((marked == 1).to(torch.uint8)[None])
        return sample

    def said(self, i: int) -> list[str]:
        return [self._samples[i][1]]

    def target(self, i: int) -> Target:
        record, text = self._samples[i]
        name, shapes, sentence = self._records[record]
        try:
            size = image_size(self._image(name))
        except DataError as error:  # as large as the polygons need, so that the object counts as missed
            self.problems.report("unreadable image", str(error))
            size = _extent(shapes)
        marked = paint(shapes, size)
        ignored = marked == IGNORE
        return Target(
            id=i,
            size=size,
            image=str(self._image(name)),
            image_id=name,
            masks=rle_encode((marked == 1)[None]),
            ignore=rle_encode(ignored[None])[0] if ignored.any() else None,
            text=text,
            sentence=sentence,
        )

    def portrait(self) -> Tensor:
        if self._portrait is None:
            tall = []
            for name, _, _ in self._records:
                try:
                    height, width = image_size(self._image(name))
                except DataError:  # the sample itself will say so
                    height = width = 1
                tall.append(width < height)
            self._portrait = torch.tensor([tall[record] for record, _ in self._samples], dtype=torch.bool)
        return self._portrait

    def _image(self, name: str) -> Path:
        return self.folder / self._pictures.get(name, f"{name}.jpg")


def paint(shapes: list[Any], size: tuple[int, int]) -> Tensor:
    """An image's pixels: 1 the object, `IGNORE` what does not count, 0 the rest; uint8 `[H, W]`.

    Polygons with the label "flag" are none; those whose label says "ignore" do not count. Larger ones are
    painted first, so that of two on each other the smaller one wins. Outlines belong to their polygons.
    """
    height, width = size
    picture = Image.new("L", (width, height))
    drawer = ImageDraw.Draw(picture)
    kept = [
        (str(s["label"]).lower(), _points(s["points"])) for s in shapes if str(s["label"]).lower() != "flag"
    ]
    for label, points in sorted(kept, key=lambda shape: -_area(shape[1])):
        value = IGNORE if "ignore" in label else 1
        drawer.polygon([(x, y) for x, y in points.round().astype(int).tolist()], fill=value, outline=value)
    return torch.from_numpy(np.array(picture))


def _extent(shapes: list[Any]) -> tuple[int, int]:
    """(height, width) of the smallest image that all points lie in; the files do not say the size."""
    points = np.concatenate([np.zeros((1, 2)), *(_points(shape["points"]) for shape in shapes)])
    width, height = (points.max(axis=0).clip(0, _MAX_SIDE).round().astype(int) + 1).tolist()
    return height, width


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def _points(points: Any) -> np.ndarray:
    """float64 [n, 2], bounded so that nothing far outside the image is drawn for ages."""
    return np.asarray(points, dtype=np.float64).reshape(-1, 2).clip(-100_000, 100_000)


def _read(path: Path) -> tuple[list[Any], list[Any], bool]:
    """Shapes, texts and whether these are sentences. Raises DataError that says what is wrong."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:  # some official files were written on Windows
        text = raw.decode("cp1252", errors="replace")
    content = _loads(text, path)
    texts = content.get("text") if isinstance(content, dict) else None
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or "is_sentence" not in content:
        raise DataError(
            f"{path} is not a ReasonSeg file: it needs `text` (a list of texts) and `is_sentence`."
        )
    return _usable_shapes(content.get("shapes"), path), texts, bool(content["is_sentence"])


def _loads(text: str, path: Path) -> Any:
    try:
        return loads(text.encode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); fetch it again.") from error


def _usable_shapes(shapes: Any, path: Path) -> list[Any]:
    """The shapes that are polygons. Raises DataError for a list of something else."""
    try:
        kept = [s for s in shapes or [] if 3 <= len(s["points"]) <= _MAX_POINTS and str(s["label"])]
        finite = all(np.isfinite(_points(s["points"])).all() for s in kept)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise DataError(f"{path}: a shape needs `label` and `points`, a list of [x, y].") from error
    if not finite:
        raise DataError(f"{path}: a polygon has points that are no numbers.")
    return kept
