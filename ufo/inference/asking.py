"""What every picture is asked, checked against the model before the first one is read.

Messages name the arguments of `UFO.predict` (`text=`, `classes=`); the command line puts its options there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ufo.ops.nearest import few, instead
from ufo.types import MASK_TOKEN

if TYPE_CHECKING:
    from ufo.model import UFO

DEVICES = ("cpu", "cuda", "mps", "xpu")
SHOWN = 5
"""So many class names are listed in a message."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class RequestError(ValueError):
    """What a model cannot be asked, in one sentence that says what to do instead."""


@dataclass(frozen=True)
class Request:
    """What every image is asked."""

    task: str
    text: str = ""  # where pictures have no text of their own
    classes: tuple[str, ...] = ()


def make_requests(
    model: UFO,
    tasks: str | Sequence[str] | None,
    texts: Sequence[str],
    classes: Sequence[str] | None,
    strict: bool = False,
) -> tuple[list[Request], dict[str, str]]:
    """What to ask (the tasks named, or all that can be asked), and why tasks are left out.

    Args:
        tasks: None: all, but those that need a text where there is none.
        texts: what pictures are asked with, one for all or one for each.
        classes: names to ask for in place of the model's own; None: these.
        strict: refuse a text and classes that a task has no use for; otherwise they are dropped.

    Raises RequestError that names what is missing, superfluous or unreadable for the model.
    """
    names = class_names(classes)
    for text in texts:
        _require_readable(text, "text")
    if tasks is not None:
        wanted = _task_names(model, tasks)
        return [_request(model, name, texts, names, strict) for name in wanted], {}
    requests, left_out = [], {}
    for name, task in model.tasks.items():
        if task.needs_text and not any(texts):
            continue
        try:
            requests.append(_request(model, name, texts, names, strict=False))
        except RequestError as error:
            left_out[name] = str(error)
    if not requests:
        raise RequestError(
            f"none of the checkpoint's tasks ({', '.join(model.tasks)}) can be asked like this; "
            "give text= or classes="
        )
    return requests, left_out


def _task_names(model: UFO, tasks: str | Sequence[str]) -> list[str]:
    wanted = [tasks] if isinstance(tasks, str) or not isinstance(tasks, Iterable) else list(tasks)
    odd = [name for name in wanted if not isinstance(name, str)]
    if odd or not wanted:
        said = f"a task is a name, not {odd[0]!r:.40}" if odd else "name at least one task"
        raise RequestError(f"{said}; this model has {', '.join(model.tasks)}")
    return list(dict.fromkeys(wanted))


def class_names(classes: Iterable[str] | None) -> tuple[str, ...] | None:
    """Names of classes that can be asked for; None: the model's own.

    Raises RequestError for what is no list of names, and an empty or a repeated name.
    """
    if classes is None:
        return None
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise RequestError(f"the names of classes are a list: classes=['{str(classes)[:40]}']")
    names = list(classes)
    if not names:
        raise RequestError("classes= is empty; leave it out to ask for the model's own")
    for name in names:
        if not isinstance(name, str):
            raise RequestError(f"a class is a name, not {name!r:.40}; write classes=['cat', 'dog']")
        _require_readable(name, "class")
        if not name.strip():
            raise RequestError("classes= has an empty name; leave it out")
    kept = tuple(name.strip() for name in names)
    repeated = next((n for i, n in enumerate(kept) if n.lower() in {k.lower() for k in kept[:i]}), None)
    if repeated is not None:
        raise RequestError(f"the class '{repeated[:40]}' is named twice in classes=; name each once")
    return kept


def _require_readable(text: str, what: str) -> None:
    """A half of a surrogate pair, as of bytes that Python could not decode, is no text."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RequestError(f"the {what} {text[:40]!r} is not UTF-8 text; decode it as what it is")


def _request(
    model: UFO, name: str, texts: Sequence[str], classes: tuple[str, ...] | None, strict: bool
) -> Request:
    """One checked request; unless `strict`, what the task has no use for is dropped."""
    if name not in model.tasks:
        raise RequestError(f"this model has no task '{name}'; {instead(name, model.tasks, 'it has')}")
    task = model.tasks[name]
    if task.needs_text and not all(texts):
        raise RequestError(f"the task {name} needs a text: add text='...'")
    reads_classes = task.prompt(["x"], "") != task.prompt([], "")
    if strict and any(texts) and not task.needs_text:
        raise RequestError(f"the task {name} reads no text; leave out text=")
    if strict and classes and not reads_classes:
        raise RequestError(f"the task {name} reads no class names; leave out classes=")
    names = (classes or model.classes.get(name, ())) if reads_classes else ()
    if reads_classes and not names:
        raise RequestError(f"the checkpoint has no class names for {name}: add classes=a,b,c")
    nothing = task.wording.background
    if classes and task.answers_background and nothing in map(str.lower, classes):
        raise RequestError(f"'{nothing}' is the answer where no object is; leave it out of classes=")
    apart = [n for n in task.listed_apart(classes or ()) if n not in model.classes.get(name, ())]
    if apart:
        named = few(apart, SHOWN, quoted=True)
        raise RequestError(
            f"the prompt of {name} lists class names with commas, so {named} would be read as several names "
            "in classes=; write each without a comma"
        )
    if unknown := [n for n in names if not model.tokenizer.can_write(n)]:
        what, named = "classes" if len(unknown) > 1 else "class", few(unknown, SHOWN, quoted=True)
        raise RequestError(
            f"the checkpoint's vocabulary has no pieces for the {what} {named}; use other words in classes="
        )
    asked = list(dict.fromkeys(texts) if task.needs_text else ()) or [""]
    unread = next((text for text in asked if not model.tokenizer.can_write(text)), None)
    if unread is not None:
        raise RequestError(f"the checkpoint's vocabulary has no pieces for '{unread[:60]}'; use other words")
    marked = next((said for said in (*asked, *names) if MASK_TOKEN.lower() in said.lower()), None)
    if marked is not None:
        raise RequestError(f"'{marked[:60]}' holds {MASK_TOKEN}, which stands for a mask; leave it out")
    _require_short(model, [task.prompt(names, text) for text in asked])
    return Request(name, asked[0], tuple(names))


def _require_short(model: UFO, prompts: Sequence[str]) -> None:
    """A longer prompt would be cut without a word, or not fit the backbone at all."""
    most = model.tokenizer.max_prompt_length - 1  # one is the end, which is not fed
    limit = min(model.backbone.max_positions or most, most)
    length = max(len(ids) for ids in model.tokenizer.encode(prompts)) - 1
    if length > limit:
        raise RequestError(
            f"the prompt has {length} tokens and this checkpoint reads {limit}; give a shorter "
            "text= or fewer classes="
        )


# ---------------------------------------------------------------- where and how exactly


def usable_device(name: str | int | torch.device) -> torch.device:
    """A device that is there; "auto" is the first GPU, else the CPU, and a number is that GPU of CUDA.

    Raises RequestError for another one.
    """
    text = f"cuda:{name}" if isinstance(name, int) else str(name)
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    kind = text.partition(":")[0]
    if kind == "gpu":
        names = "'cuda' (NVIDIA, AMD), 'mps' (Apple) or 'xpu' (Intel)"
        raise RequestError(f"device={text}: torch calls it {names}")
    if kind not in DEVICES:
        raise RequestError(f"device={text} is not a device; {instead(kind, [*DEVICES, 'auto'], 'there are')}")
    try:
        device = torch.device(text)
        torch.zeros(1, device=device).item()  # a name may be valid and the device not there
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"device={text} cannot be used here: {reason}") from error
    return device


def computing(model: UFO, dtype: str | torch.dtype | None) -> torch.autocast:
    """The context in which a model computes in `dtype`; None: as its weights are.

    Raises RequestError for another type, and for float32 where the weights have only 16 bits.
    """
    device = model.backbone.device.type
    if dtype is None:
        return torch.autocast(device, enabled=False)
    wanted = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if wanted not in DTYPES.values():
        raise RequestError(f"dtype={dtype} is not a type to compute in; there are {', '.join(DTYPES)}")
    own = next(model.parameters()).dtype
    if wanted == torch.float32 and own != wanted:
        raise RequestError(f"the weights are {own}; leave out dtype=, which can make no more of them")
    return torch.autocast(device, wanted, enabled=wanted != own)
