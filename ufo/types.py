"""The records that cross module boundaries: what data yields, what models answer.

Shapes: `B` images, `N` objects of one image, `H W` pixels, `Q` queries. Boxes are `xyxy` in absolute
pixels; of the network's image in a `Batch`, of the original image in `Target` and `Prediction`.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict, TypeVar

import torch
from torch import Tensor
from torchvision import tv_tensors

IGNORE = 255
"""Label of pixels in a semantic map that count neither in the loss nor in a metric."""

MASK_TOKEN = "<MASK>"
"""The token whose hidden states find the pixels of a mask (paper section 3.2)."""

Segment = tuple[str, bool]
"""A piece of a conversation, and whether the model learns to say it."""

T = TypeVar("T")
P = TypeVar("P", bound="Prediction")


def given(value: T | None, what: str) -> T:
    """A value that a record of this module may lack, such as `given(batch.boxes, "boxes")`.

    Raises ValueError that names what is missing.
    """
    if value is None:
        raise ValueError(
            f"there are no {what} here; use a data set that provides, and a task that answers with, {what}"
        )
    return value


ANNOTATIONS = frozenset(
    ["boxes", "labels", "masks", "semantic", "expression", "caption", "conversation", "sentence"]
)
"""What a data set may know about an image: `provides` of data sets and `needs` of tasks are made of these.

Most are keys of a `Sample`; its `text` is an expression (what to look for) or a caption (what to say).
"""


class Sample(TypedDict, total=False):
    """One annotated image as a data set yields it: a dict, so that `torchvision.transforms.v2` sees into it.

    A data set fills what it has. `boxes`, `labels` and `masks` always have the same length.
    """

    image: tv_tensors.Image  # uint8 [3, H, W], RGB
    boxes: tv_tensors.BoundingBoxes  # float32 [N, 4], xyxy pixels
    labels: Tensor  # int64 [N], index into the data set's classes
    masks: tv_tensors.Mask  # uint8 [N, H, W], 0 or 1
    semantic: tv_tensors.Mask  # uint8 [H, W], class index or IGNORE
    text: str  # the referring expression, the caption to learn, or the first question of a conversation
    conversation: list[str]  # question, answer, question, answer, ...
    sentence: bool  # whether the text is a whole sentence or a phrase
    target: Target  # evaluation only; in the original image, untouched by transforms


@dataclass
class Target:
    """Ground truth of one image in its original pixels: what a metric compares a `Prediction` with."""

    id: int  # unique within its source; duplicates made by distributed padding share it
    size: tuple[int, int]  # original (height, width)
    image: str = ""  # path of the image file, for pictures and error messages
    image_id: int | str = -1  # the annotation file's own id
    boxes: Tensor | None = None  # float32 [N, 4] xyxy
    labels: Tensor | None = None  # int64 [N]
    masks: list[dict[str, Any]] | None = None  # N COCO RLE dicts (compressed counts)
    iscrowd: Tensor | None = None  # bool [N]
    area: Tensor | None = None  # float32 [N], from the annotation file
    semantic: Tensor | None = None  # uint8 [H, W]
    captions: list[str] | None = None  # all reference captions
    ignore: dict[str, Any] | None = None  # COCO RLE of the pixels that do not count
    answers: list[str] | None = None  # all answers to the question in `text` that count as right
    text: str = ""  # the referring expression or the question
    sentence: bool | None = None  # whether `text` is a whole sentence or a phrase


@dataclass(repr=False)
class Prediction:
    """What a model says about one image, in the image's original pixels.

    `UFO.predict` gives them together with their images: `ufo.inference.results.Result`.
    """

    task: str
    boxes: Tensor | None = None  # float32 [N, 4] xyxy
    scores: Tensor | None = None  # float32 [N], 0..1
    labels: Tensor | None = None  # int64 [N]
    masks: Tensor | None = None  # bool [N, H, W]
    semantic: Tensor | None = None  # int64 [H, W]
    presence: Tensor | None = None  # float32 [], probability that what a text refers to is in the image
    text: str = ""  # the caption, the answer to a question, or the raw answer to an expression
    classes: tuple[str, ...] = ()  # names of `labels` and `semantic`
    rows: Tensor | None = None  # int64 [N], which of the image's answers each object was read from
    answers: int = 0  # how many answers it was read from; counted in evaluations only
    broken: int = 0  # of these, the ones that are not what the task promises
    under: dict[str, Prediction] | None = None  # the same under other scores, for who compares them

    def __repr__(self) -> str:
        """Shapes in place of tensors, whose values would fill the screen."""
        parts = {f.name: getattr(self, f.name) for f in fields(Prediction) if f.name != "under"}
        shown = {k: list(v.shape) if isinstance(v, Tensor) else v for k, v in parts.items()}
        words = [f"{k}={v!r}" for k, v in shown.items() if v is not None and v not in ("", (), 0)]
        return f"Prediction({', '.join(words)})"

    def to(self: P, device: torch.device | str) -> P:
        """The same prediction with its tensors on `device`."""
        moved = {
            f.name: getattr(self, f.name).to(device)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


@dataclass
class Batch:
    """`B` samples of one task from one source, at one network size. Boxes are in the network's pixels."""

    task: str
    source: str  # "<data set>/<task>", the prefix of every metric's name
    classes: tuple[str, ...]
    images: Tensor  # uint8 [B, 3, H, W], RGB, not normalised
    texts: list[str]  # B expressions, captions or first questions, "" where the task has none
    boxes: list[Tensor] | None = None  # B x float32 [N, 4]
    labels: list[Tensor] | None = None  # B x int64 [N]
    masks: list[Tensor] | None = None  # B x uint8 [N, H, W]
    semantic: Tensor | None = None  # uint8 [B, H, W]
    conversations: list[list[str]] | None = None  # B x (question, answer, question, answer, ...)
    sentences: list[bool] | None = None  # B, whether the text is a whole sentence
    targets: list[Target] = field(default_factory=list)  # B, evaluation only, always on the CPU
    sizes: list[tuple[int, int]] = field(default_factory=list)  # B original (height, width), prediction only
    ids: list[int] = field(default_factory=list)  # B indices into the source's training data, training only
    seed: int = 0  # drawn by the mixer: everything random about this batch's targets follows from it

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the network's images."""
        height, width = self.images.shape[-2:]
        return height, width

    def check(self, needs: Set[str] = frozenset()) -> None:
        """For batches that were not made by the data sets here. Raises ValueError that says what is wrong.

        `needs` are the annotations that a task learns from; of others there may be none.
        """
        shape = list(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
            raise ValueError(
                f"the images of a batch are uint8 [B, 3, H, W], RGB from 0 to 255 and not normalised, not "
                f"{self.images.dtype} {shape}"
            )
        lists = {"texts": self.texts, "boxes": self.boxes, "labels": self.labels, "masks": self.masks}
        for name, values in lists.items():
            if values is None or (not len(values) and name not in {"texts", *needs}):
                continue
            if len(values) != len(self):
                raise ValueError(
                    f"the batch has {len(self)} images and {len(values)} {name}; give one for each"
                )
        for boxes in () if self.boxes is None else self.boxes:
            _check_boxes(boxes, *self.image_size)
        for i, labels in enumerate(() if self.labels is None else self.labels):
            if self.boxes is not None and len(self.boxes) and len(labels) != len(self.boxes[i]):
                raise ValueError(
                    f"image {i} of the batch has {len(self.boxes[i])} boxes, {len(labels)} labels"
                )
            known = not len(labels) or 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes)
            if self.classes and (labels.is_floating_point() or not known):
                raise ValueError(
                    f"labels are whole numbers from 0 to {len(self.classes) - 1}, the places of names in the "
                    f"batch's classes, not {labels.tolist()}"
                )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its images on `device`.

        Annotations stay on the CPU, where answers are written (matching and text need no accelerator);
        the masks that a loss needs are sent when it needs them.
        """
        return replace(self, images=self.images.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Page-locked images, for `DataLoader(pin_memory=True)`."""
        return replace(self, images=self.images.pin_memory())


def _check_boxes(boxes: Tensor, height: int, width: int) -> None:
    """Raises ValueError for boxes that are not xyxy pixels of a network's image of this size."""
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"the boxes of an image are [N, 4], not {list(boxes.shape)}")
    wrong = (boxes[:, 2:] < boxes[:, :2]).any(1) | (boxes < -1).any(1)
    wrong |= (boxes > boxes.new_tensor([width + 1, height + 1] * 2)).any(1)
    if len(boxes) and 0 < boxes.max() <= 1 < min(height, width):  # shares of the image
        wrong[:] = True
    if wrong.any():
        one = ", ".join(f"{number:g}" for number in boxes[wrong][0].tolist())
        raise ValueError(
            f"boxes are x1, y1, x2, y2 in pixels of the batch's images, {width} wide and {height} high, not "
            f"{one}; convert x, y, width, height with torchvision.ops.box_convert, scale boxes with images"
        )
