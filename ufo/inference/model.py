"""The methods that a model has for its users: `predict`, `stream`, `push_to_hub`. `UFO` inherits them.

Shapes: `N` objects, `H W` pixels of a picture; boxes are xyxy in its pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import torch

from ufo.inference.ahead import ahead
from ufo.inference.asking import Request, RequestError, computing, make_requests, usable_device
from ufo.inference.batches import answered
from ufo.inference.forks import leave_threads_of_parent
from ufo.inference.results import Origin, Result, Results

if TYPE_CHECKING:
    from ufo.data.pictures import Picture
    from ufo.inference.sources import Skip, Source
    from ufo.model import UFO

log = logging.getLogger(__name__)

BATCH = 16
STREAMED_PIXELS = 2**21
"""Larger pictures of a stream are predicted at this size: masks at the size of a photo take gigabytes, while
no network input is as large as this."""


class Inference:
    """What is done with a trained model."""

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is one picture, although it is also an iterable of str
        self,
        image: Picture,
        task: str,
        text: str | None = ...,
        classes: Sequence[str] | None = ...,
        *,
        score: float | None = ...,
        batch_size: int = ...,
        device: str | int | torch.device | None = ...,
        dtype: str | torch.dtype | None = ...,
    ) -> Result: ...

    @overload
    def predict(  # type: ignore[overload-overlap]  # as above
        self,
        image: Picture,
        task: Sequence[str] | None = ...,
        text: str | None = ...,
        classes: Sequence[str] | None = ...,
        *,
        score: float | None = ...,
        batch_size: int = ...,
        device: str | int | torch.device | None = ...,
        dtype: str | torch.dtype | None = ...,
    ) -> Results: ...

    @overload
    def predict(  # type: ignore[overload-overlap]  # as above
        self,
        image: Iterable[Picture],
        task: str,
        text: str | Sequence[str] | None = ...,
        classes: Sequence[str] | None = ...,
        *,
        score: float | None = ...,
        batch_size: int = ...,
        device: str | int | torch.device | None = ...,
        dtype: str | torch.dtype | None = ...,
    ) -> list[Result]: ...

    @overload
    def predict(
        self,
        image: Iterable[Picture],
        task: Sequence[str] | None = ...,
        text: str | Sequence[str] | None = ...,
        classes: Sequence[str] | None = ...,
        *,
        score: float | None = ...,
        batch_size: int = ...,
        device: str | int | torch.device | None = ...,
        dtype: str | torch.dtype | None = ...,
    ) -> list[Results]: ...

    def predict(
        self,
        image: Picture | Iterable[Picture],
        task: str | Sequence[str] | None = None,
        text: str | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        *,
        score: float | None = None,
        batch_size: int = BATCH,
        device: str | int | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Result | Results | list[Result] | list[Results]:
        """Ask about one picture or many.

        Args:
            image: a path; an address (`http:`, `https:`, `data:`, up to 64 MiB); bytes of an image file; a
                PIL image; an array uint8 `[H, W, 3]`, RGB; a tensor uint8 `[3, H, W]`, RGB (in either uint16,
                floats from 0 to 1, grey and RGBA as well); or an iterable of these, an array `[B, H, W, 3]`
                or a tensor `[B, 3, H, W]`. No picture may have more than 80 million pixels.
            task: the name of a task that this model has, or several; default: all that need no text, and with
                a text all.
            text: what to look for, or a question, where a task needs one; of many pictures also one for each.
            classes: class names to ask for; default: those the model was trained with.
            score: 0..1, objects below it are left out; default: all are kept, those from 0.3 on are drawn.
            batch_size: of many pictures so many go through the network together. The answers are the same.
            device: where the model moves to and stays: "cpu", "cuda", "cuda:1" or 1, "mps", or "auto";
                default: where it is.
            dtype: what it computes in: "float32", "bfloat16", "float16" or the type of torch; default: as its
                weights are.

        Returns:
            One picture and one task: a `Result`, which is a `Prediction` in the pixels of the picture.
            Several tasks: `Results`, a dict of them by task. Many pictures: a list of these in the order of
            the pictures, all in memory with the pictures; `stream` gives them one by one.

        Raises:
            ufo.data.errors.DataError: a picture cannot be read, or is too large.
            RequestError: a ValueError; the model has no such task, lacks a text or class names, or cannot
                read them; a device or type that is not there.
            ValueError, TypeError: an array or tensor of another form; something that is no picture.
        """
        from ufo.inference.sources import is_one, many, read

        model = cast("UFO", self)
        texts = _texts(text)
        requests = _requests(model, task, texts, classes, score, batch_size)
        leave_threads_of_parent()
        if device is not None:
            model.to(usable_device(device))
        precision = partial(computing, model, dtype)
        precision()
        alone = isinstance(task, str)
        if is_one(image):
            if len(texts) != 1:
                raise RequestError(
                    f"there are {len(texts)} texts for one picture; give one, or the picture once for each"
                )
            (found,) = answered(model, requests, [read(cast("Picture", image))], 1, score, precision)
            return found[requests[0].task] if alone else found
        text_of = None
        pictures: Iterable[Picture] = many(image)
        if not isinstance(text, str | None):
            pictures = list(pictures)
            if len(texts) != len(pictures):
                raise RequestError(
                    f"there are {len(texts)} texts for {len(pictures)} pictures; give one for each, or a str "
                    "for all of them"
                )
            text_of = texts.__getitem__
        decoded = ahead((read(picture, i) for i, picture in enumerate(pictures)), batch_size)
        with closing(decoded):
            every = list(answered(model, requests, decoded, batch_size, score, precision, text_of))
        return [found[requests[0].task] for found in every] if alone else every

    @overload
    def stream(
        self,
        source: Any,
        task: str,
        text: str | None = ...,
        classes: Sequence[str] | None = ...,
        *,
        score: float | None = ...,
        batch_size: int = ...,
        every: int = ...,
        max_pixels: int | None = ...,
        device: str | int | torch.device | None = ...,
        dtype: str | torch.dtype | None = ...,
        progress: bool = ...,
        skip: Skip | None = ...,
    ) -> Iterator[Result]: ...

    @overload
    def stream(
        self,
        source: Any,
        task: Sequence[str] | None = ...,
        text: str | None = ...,
        classes: Sequence[str] | None = ...,
        *,
        score: float | None = ...,
        batch_size: int = ...,
        every: int = ...,
        max_pixels: int | None = ...,
        device: str | int | torch.device | None = ...,
        dtype: str | torch.dtype | None = ...,
        progress: bool = ...,
        skip: Skip | None = ...,
    ) -> Iterator[Results]: ...

    def stream(
        self,
        source: str | Path | int | Iterable[Picture],
        task: str | Sequence[str] | None = None,
        text: str | None = None,
        classes: Sequence[str] | None = None,
        *,
        score: float | None = None,
        batch_size: int = BATCH,
        every: int = 1,
        max_pixels: int | None = STREAMED_PIXELS,
        device: str | int | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        progress: bool = True,
        skip: Skip | None = None,
    ) -> Iterator[Result] | Iterator[Results]:
        """Ask about pictures that come one by one, in bounded memory: files, a video, a camera, an iterator.

        The request is checked at once. A thread decodes pictures ahead of the model, up to two batches.

        Args:
            source: a folder of images; an image; a video (needs the extra `video`); the number of a camera;
                or an iterable of anything that `predict` takes.
            task, text, classes, score, batch_size, device, dtype: as in `predict`.
            every: only each n-th picture or frame is asked about.
            max_pixels: larger pictures are shrunken to it, as masks of a hundred objects at the size of a
                photo take gigabytes. Boxes and masks are then in pixels of `result.image`, `to_coco` in those
                of the original.
            progress: a bar, where somebody watches a terminal or a notebook.
            skip: called with the name and the DataError of a picture that cannot be read, by the thread that
                decodes; default: it is raised.

        Returns:
            An iterator of what `predict` returns for one picture, in order. A camera does not end by itself.

        Raises:
            as `predict`, and DataError for a source that is not there.
        """
        from ufo.inference.sources import open_source

        model = cast("UFO", self)
        texts = _texts(text)
        if len(texts) != 1:
            raise RequestError(
                f"stream asks all pictures with one text, a str, not with a list of {len(texts)}; predict "
                "takes one for each"
            )
        requests = _requests(model, task, texts, classes, score, batch_size)
        _whole("every", every)
        if max_pixels is not None:
            _whole("max_pixels", max_pixels)
        leave_threads_of_parent()
        if device is not None:
            model.to(usable_device(device))
        precision = partial(computing, model, dtype)
        precision()
        opened = open_source(source, max_pixels, every, skip)
        if isinstance(source, int):
            batch_size = 1  # a camera shows what is there now
        answer = partial(answered, model, requests, batch_size=batch_size, score=score, computing=precision)
        found = _streamed(answer, opened, batch_size, progress)
        return (results[requests[0].task] for results in found) if isinstance(task, str) else found

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        name: str = "",
        results: Mapping[str, float | None] | None = None,
        command: str = "",
        licence: str = "",
        pictures: Sequence[Picture] = (),
    ) -> Path:
        """Write a model folder with a model card (README.md), whole or not at all; `ufo.load` takes it.

        That of a language model without adapters is one of transformers, too: `from_pretrained` takes it.

        Args:
            folder: a new one, or a model folder, which is replaced.
            name: what the card calls it; default: the folder's name.
            results, command, licence, pictures: of the card, as in `push_to_hub`.

        Raises CheckpointError if it cannot be written.
        """
        from ufo.checkpoints.hub_models import save_pretrained

        card: dict[str, Any] = {
            "results": results,
            "command": command,
            "licence": licence,
            "pictures": pictures,
        }
        return save_pretrained(cast("UFO", self), folder, name=name, **card)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        results: Mapping[str, float | None] | None = None,
        command: str = "",
        licence: str = "",
        pictures: Sequence[Picture] = (),
        message: str = "Upload a model",
        token: str | None = None,
    ) -> str:
        """Upload the model to the hub of Hugging Face, for `ufo.load("user/name")`; gives its address.

        Args:
            repository: "user/name"; it is made if it is not there.
            private: whether others can see a repository that is made; default: as the account has it.
            results: metrics by their names, for the card.
            command: the one that measured them.
            licence: of the weights, in the hub's words ("apache-2.0"); default: the card says there is none.
            pictures: anything that `predict` takes; what the model finds in them is drawn into the card.
            message: of the commit.
            token: of an account that may write there; default: HF_TOKEN, or that of `hf auth login`.

        Raises CheckpointError where it cannot be uploaded, and for a LoRA whose base is only on this machine.
        """
        from ufo.checkpoints.hub_models import push

        card: dict[str, Any] = {
            "results": results,
            "command": command,
            "licence": licence,
            "pictures": pictures,
        }
        return push(cast("UFO", self), repository, private=private, message=message, token=token, **card)


def _streamed(
    answer: Callable[[Iterable[Origin]], Iterator[Results]], opened: Source, batch_size: int, progress: bool
) -> Iterator[Results]:
    """Answers while a thread decodes; it ends with the reader."""
    from ufo.inference.progress import progress_bar

    decoded = ahead(opened.origins, 2 * batch_size)
    with closing(decoded), progress_bar(opened.total, progress) as bar:
        row = bar.add_task("predict", total=opened.total)
        for results in answer(decoded):
            yield results
            bar.advance(row)


def _texts(text: str | Sequence[str] | None) -> list[str]:
    """One text for all pictures, or one for each; "" for none."""
    several = isinstance(text, Iterable) and not isinstance(text, str | bytes | Mapping)
    texts: list[Any] = list(cast("Iterable[str]", text)) if several else [text]
    odd = next((one for one in texts if not isinstance(one, str | None)), None)
    if odd is not None:
        raise RequestError(f"text= is a str, or a list of one for each picture, not {odd!r:.40}")
    return [(one or "").strip() for one in texts]


def _requests(
    model: UFO,
    task: str | Sequence[str] | None,
    texts: Sequence[str],
    classes: Sequence[str] | None,
    score: float | None,
    batch_size: int,
) -> list[Request]:
    """All that can be checked before the first picture."""
    if score is not None and not (isinstance(score, Real) and 0 <= score <= 1):
        raise RequestError(f"score={score!r} is not a number from 0 to 1")
    _whole("batch_size", batch_size)
    requests, left_out = make_requests(model, task, texts, classes)
    if task is not None and any(texts) and not any(model.tasks[r.task].needs_text for r in requests):
        log.warning("%s: text= is not used, the task reads none", ", ".join(r.task for r in requests))
    if task is not None and classes is not None and not any(r.classes for r in requests):
        log.warning("%s: classes= is not used, the task reads none", ", ".join(r.task for r in requests))
    for name, reason in left_out.items():
        log.warning("%s is left out: %s", name, reason)
    return requests


def _whole(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or value < 1:
        raise RequestError(f"{name}={value!r} is not a whole number from 1 on")
