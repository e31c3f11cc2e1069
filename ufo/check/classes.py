"""Whether a model fits its data: it can be asked for their classes, and answer with the names of these.

`check_fit` asks the other files of this folder as well, as far as they look at a model and its data.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from omegaconf import DictConfig

from ufo.check.answers import check_answers
from ufo.check.data import known_classes, planned
from ufo.check.grid import check_grids
from ufo.check.texts import check_marks, check_texts, read_apart
from ufo.data.module import UFODataModule
from ufo.head.strategy import check_settings
from ufo.model import UFO
from ufo.ops.nearest import few
from ufo.tasks import Task
from ufo.tasks.dense import DenseTask

log = logging.getLogger(__name__)

_NAMED = 5  # classes that one message names


def check_known(cfg: DictConfig, model: UFO, training: bool) -> None:
    """`check_fit` with what is known of the data before they are generated or read."""
    for data in planned(cfg, training):
        check_source(model, data.source, data.task, known_classes(data.options) or ())
    for source in cfg.sources.values() if training else ():
        if source and source.get("weight", 1.0) > 0 and source.dataset.get("train"):
            _check_samples(model.task(source.task))


def _check_samples(task: Task) -> None:
    """Raises ValueError where more queries of a window are to be trained than it has."""
    if not isinstance(task, DenseTask):
        return
    wanted, there = task.samples_per_window, task.grid_per_window**2
    if not 1 <= wanted <= there:
        raise ValueError(
            f"tasks.{task.name}.samples_per_window={wanted} queries of a window cannot be trained where "
            f"grid_per_window={task.grid_per_window} makes {there}; take 1 to {there}, or a larger grid"
        )


def check_fit(model: UFO, data: UFODataModule, training: bool = True) -> None:
    """Raises ValueError where the model cannot read or write what the data asks for, in either split.

    Without `training` the training data are left alone: scenes that are drawn for an evaluation have none.
    """
    for source in data.sources:
        used = [split for split in ("train", "val") if source.has(split)]
        if source.has("val") and not (training and source.weight > 0):
            used = ["val"]
        for split in used:
            check_source(model, source.name, source.task, source.classes(split))
        said = {read_apart(model.task(source.task), source.classes(split)) for split in used if training}
        for line in sorted(said - {""}):
            log.warning("%s: %s", source.name, line)
    check_texts(model, data)
    check_grids(model, data)
    check_answers(model, data)


def check_source(model: UFO, source: str, task_name: str, classes: Sequence[str]) -> None:
    """Raises ValueError where a task cannot ask for the classes of a source or write their names.

    The model may be without weights. Its tokenizer must write every class, and so that an answer can be told
    from that of another class; its backbone must read all of them in one prompt.
    """
    task = model.task(task_name)
    _check_refusal(model, task)
    grid = model.grid(task, task.image_size, task.image_size)
    check_settings(task, len(model.tokenizer), None if grid is None else grid.references.shape[1])
    if len(classes) > model.prompt_limit and task.prompt(classes[:2], "") != task.prompt(classes[:1], ""):
        # said at once: to write 200,000 names as tokens takes minutes
        raise _too_long(model, source, f"more than {len(classes)} tokens, one for each class and more,")
    check_marks(model, source, classes)
    _check_written(model, source, classes)
    _check_distinct(model, task, source, classes)
    length = max(len(model.tokenizer.encode([task.prompt(classes, "")])[0]), task.max_length)
    if length > model.prompt_limit:
        raise _too_long(model, source, f"{length} tokens")


def _check_refusal(model: UFO, task: Task) -> None:
    """Raises ValueError where a refusal is one token with a blank that has been fed before it."""
    backbone = model.backbone
    if task.refusal and backbone.quirks.keeps_blank and backbone.learned_prompt_end.endswith(" "):
        raise ValueError(
            f"tasks.{task.name}.nothing=true: this model could never say so, as its prompts end with the "
            "blank that begins this answer; set backbone.network.compat.blank_after_prompt=false"
        )


def _too_long(model: UFO, source: str, length: str) -> ValueError:
    return ValueError(
        f"{source}: its prompt has {length} and the backbone reads {model.prompt_limit}; raise "
        f"{model.prompt_bound}, name fewer classes, or take a backbone= that reads more"
    )


def _check_written(model: UFO, source: str, classes: Sequence[str]) -> None:
    """Raises ValueError that names the classes that the vocabulary cannot write."""
    unknown = [name for name in classes if not model.tokenizer.can_write(name)]
    if not unknown:
        return
    named = few(unknown, _NAMED, quoted=True)
    raise ValueError(
        f"{source}: the tokenizer has no pieces for the class{'es' if len(unknown) > 1 else ''} "
        f"{named}; `ufo data vocab SOURCE.yaml --out FILE` writes a vocabulary that has them (for a "
        "language model, which keeps its own, rename them)"
    )


def _check_distinct(model: UFO, task: Task, source: str, classes: Sequence[str]) -> None:
    """Raises ValueError for a class whose answer would be read as that of another, or of no object."""
    tokens: dict[tuple[int, ...], str] = {}
    if task.answers_background:
        (word,) = model.tokenizer.encode([task.wording.background])
        tokens[tuple(word)] = ""
    for name, written in zip(classes, model.tokenizer.encode(list(classes)), strict=True):
        other = tokens.setdefault(tuple(written), name)
        if other == "":
            raise ValueError(
                f"{source}: the class '{name}' is what the model answers where there is no object; rename it"
            )
        if other != name:
            raise ValueError(
                f"{source}: the classes '{other}' and '{name}' are the same tokens, so no answer can tell "
                "them apart; rename or join them"
            )
