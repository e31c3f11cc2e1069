"""`ufo data show`: samples as the network gets them, with the prompt and the answers that are trained.

Everything comes from the code of training: the source's transform, the task's asked, the backbone's
wording and grid. Writes one picture per sample, a sheet of all, and the exact texts.
"""

from __future__ import annotations

import argparse
import inspect
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import get_object, instantiate
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track

from ufo.backbones.base import Backbone
from ufo.cli import CommandError
from ufo.cli.data_find import Found, find
from ufo.cli.data_outline import make_backbone, make_task
from ufo.data.datasets.segmentations import encode_mask
from ufo.data.mixer import Entry, MixtureSampler
from ufo.data.module import TrainingData
from ufo.data.source import Source
from ufo.data.transforms import plain
from ufo.draw import contact_sheet, draw
from ufo.errors import sentence
from ufo.files import save_picture, write_text
from ufo.ops.grid import query_grid
from ufo.ops.text import counted_tokens
from ufo.tasks import Asked, Task, kind_of, task_class
from ufo.tasks.wording import WORDINGS
from ufo.types import Batch, Target, given

SIDE = 448  # pixels of a drawn image
MAX_ANSWERS = 8  # below a picture; the text file has all


def run(args: argparse.Namespace) -> int:
    """Draw samples; prints where they are."""
    found = find(args.name, args.root, args.overrides)
    samples = Samples(found, args.task, args.split, args.seed, args.n)
    out = args.out or Path("runs") / "data_show" / found.name.replace("/", "_")
    out.mkdir(parents=True, exist_ok=True)
    pictures, texts, shown = [], [], []
    for number in track(range(len(samples)), "drawing", console=Console(stderr=True)):
        sample = samples[number]
        texts.append(_text(number, sample.prompt, sample.answers))
        shown.append("\n".join([f"prompt: {sample.prompt}", *_counted(sample.answers)]))
        pictures.append(sample.picture)
        save_picture(pictures[-1], out / f"{number:03d}.png")
    sheet = contact_sheet(pictures, columns=4, title=f"{found.name}: {samples.task.name}")
    save_picture(sheet, out / "sheet.png")
    write_text(out / "texts.txt", "\n\n".join(texts) + "\n")
    print(shown[0])
    print(f"\n{len(pictures)} samples: {out / 'sheet.png'}, exact prompts and answers: {out / 'texts.txt'}")
    return 0


class Drawn(NamedTuple):
    """One training sample."""

    prompt: str
    answers: list[tuple[str, str]]  # (where, answer) of every row that is learned, in the queries' order
    picture: Image.Image


class Samples:
    """Training samples of a data set for one task, by number; none is read before it is asked for.

    Args:
        task: its name; None: the one that uses most of the data set.
        most: so many at most.

    Raises:
        CommandError: the data set cannot be read, or does not serve the task.
    """

    def __init__(self, found: Found, task: str | None, split: str, seed: int, most: int) -> None:
        self.backbone = make_backbone(found)
        self.task = _task(found, task).worded(WORDINGS[self.backbone.wording])
        source = _source(found, self.task, split)
        try:
            data = source.data("train")
        except (ValueError, RuntimeError) as error:
            raise CommandError(sentence(error)) from error
        sampler = MixtureSampler([Entry(source.name, 1.0, 1, source.groups())], seed)
        self._data, self._keys = TrainingData([source]), list(islice(sampler, min(most, len(data))))

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, number: int) -> Drawn:
        """A sample as the mixer would draw it."""
        batch = self._data.__getitems__(self._keys[number])
        asked = self.task.supervise(batch, _grid(self.task, self.backbone, batch))
        [prompt] = asked.prompts
        answers = _answers(asked, self.backbone)
        return Drawn(self.backbone.chat(prompt), answers, _picture(batch, asked, answers))


def _task(found: Found, name: str | None) -> Task:
    """The task to show, with the settings of the config."""
    chosen = name or (found.source.task if found.source is not None else None)
    served = found.tasks()
    if chosen is None:
        if not served:
            raise CommandError(f"{found.name} serves no task: it provides {', '.join(found.provides())}")
        chosen = max(served, key=lambda name: _use(task_class(name).needs))
    if chosen not in served and name:
        raise CommandError(
            f"{found.name} does not serve '{name}', it serves {', '.join(served) or 'no task'}"
        )
    return make_task(found, chosen)


def _use(needs: frozenset[str]) -> tuple[int, bool]:
    """How much of a data set a task uses: of its tasks the greatest is shown."""
    return len(needs), "masks" in needs


def _source(found: Found, task: Task, split: str) -> Source:
    """The training source of the data set, or one of its validation files read as training would."""
    if split not in found.splits:
        raise CommandError(f"{found.name} has no {split} data, only {', '.join(found.splits)}")
    options = dict(found.splits[split])
    if "train" in inspect.signature(get_object(options["_target_"])).parameters:
        options["train"] = True
    transform = None
    if found.source is not None and found.source.get("transform"):
        transform = instantiate(found.source.transform.train)
    return Source(
        name=found.name,
        task=task.name,
        train=instantiate(options),
        train_transform=transform or plain(task.image_size),
    )


def _grid(task: Task, backbone: Backbone, batch: Batch) -> Any:
    windows = backbone.grid_windows(*batch.image_size)
    return query_grid(*windows, task.grid_per_window) if task.grid_per_window else None


def _answers(asked: Asked, backbone: Backbone) -> list[tuple[str, str]]:
    """(where, answer) of every row that is learned, in the queries' order."""
    places = [""] * len(asked.answers)
    if asked.queries is not None:
        places = [f"query at ({x:.3f}, {y:.3f}): " for x, y in asked.queries.references[0].tolist()]
    found = []
    for place, answer in zip(places, asked.answers, strict=True):
        if (
            not isinstance(answer, str) and answer is not None
        ):  # turns of a conversation: questions are not learned
            answer = "".join(text if learned else backbone.follow_up(text) for text, learned in answer)
        if answer is not None:
            found.append((place, answer))
    return found


def _text(number: int, prompt: str, answers: list[tuple[str, str]]) -> str:
    lines = [f"--- sample {number}", f"prompt: {prompt}", *(f"{place}{answer}" for place, answer in answers)]
    return "\n".join(lines if answers else [*lines, "(nothing is learned from this sample)"])


def _counted(answers: list[tuple[str, str]]) -> list[str]:
    """The first different answers, with how often they come."""
    counted = Counter(answer for _, answer in answers)
    lines = [f"{n}x  {text}" if n > 1 else text for text, n in counted.most_common()]
    more = [f"and {len(lines) - MAX_ANSWERS} other answers"] if len(lines) > MAX_ANSWERS else []
    return [*lines[:MAX_ANSWERS], *more]


def _picture(batch: Batch, asked: Asked, answers: list[tuple[str, str]]) -> Image.Image:
    """The image with its annotations, trained queries as dots, prompt and answers below."""
    image = batch.images[0]
    target = Target(
        id=0,
        size=(image.shape[-2], image.shape[-1]),
        boxes=None if batch.boxes is None else batch.boxes[0],
        labels=None if batch.labels is None else batch.labels[0],
        semantic=None if batch.semantic is None else batch.semantic[0],
        captions=[counted_tokens(line) for line in (f"prompt: {asked.prompts[0]}", *_counted(answers))],
    )
    if batch.masks is not None and kind_of(batch.task).masks:
        target.masks = [encode_mask(mask) for mask in batch.masks[0]]
        if target.labels is None:
            target.labels = torch.zeros(len(target.masks), dtype=torch.int64)
    classes = batch.classes or ("",)
    picture = draw(image, target=target, classes=classes, min_side=SIDE, max_side=SIDE)
    if asked.queries is not None:
        _dots(picture, asked)
    return picture


def _dots(picture: Image.Image, asked: Asked) -> None:
    """White: answers for an object; black: for none; hollow: no loss."""
    pen = ImageDraw.Draw(picture)
    background = Counter(a for a in asked.answers if a).most_common(1)
    common = background[0][0] if background and "," not in background[0][0] else None
    references = given(asked.queries, "queries").references[0].tolist()
    for (x, y), answer in zip(references, asked.answers, strict=True):
        box = (x * SIDE - 3, y * SIDE - 3, x * SIDE + 3, y * SIDE + 3)
        fill = None if answer is None else "black" if answer == common else "white"
        pen.ellipse(box, fill=fill, outline="white" if fill == "black" else "black")
