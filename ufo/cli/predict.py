"""`ufo predict`: any tasks of a checkpoint on image files and folders, as text, pictures and JSON.

All that can be checked without the model is checked before it is loaded, and nothing is predicted
before the whole request is known to make sense for it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ufo.cli import CommandError
from ufo.cli.files import find_images, image_id, plan_outputs, save_picture, write_results
from ufo.cli.ids import Ids, read_ids
from ufo.data.errors import DataError
from ufo.ops.nearest import instead

if TYPE_CHECKING:
    from PIL import Image
    from rich.progress import Progress
    from torch import Tensor

    from ufo.model import UFO

ANY = "any"
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
MAX_PREDICTED_PIXELS = 2**21
"""Larger images are predicted at this size and the results scaled up: masks at the size of a photo
take gigabytes, while no network input is as large as this."""
FEW_IMAGES = 3  # up to which a progress bar would only flicker


@dataclass(frozen=True)
class Request:
    """What every image is asked."""

    task: str
    text: str = ""
    classes: tuple[str, ...] | None = None  # None: the checkpoint's own


class TaskOption(argparse.Action):
    """`--task NAME`; its help lists all tasks, which are only looked for when somebody reads it."""

    @property
    def help(self) -> str:
        from ufo.tasks import task_names

        return f"{', '.join(task_names())}; default 'any': all of the checkpoint's that need no text"

    @help.setter
    def help(self, value: str | None) -> None:
        """What argparse sets is not used."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, values)


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "predict",
        help="detect, segment, caption or ground in images and folders",
        description="Ask a checkpoint about images: prints a line per image and task, draws with "
        "--out, writes COCO-style results with --json.",
    )
    add = parser.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE", help="image files, folders of images")
    add("--ckpt", required=True, help="model folder, .ckpt file or folder of a training run")
    add("--base", help="where the base of a LoRA is now, if it has moved")
    add("--experiment", metavar="NAME", help="of conf/experiment: what a renamed released file is from")
    add("--task", default=ANY, action=TaskOption)
    add("--text", type=_text, help="what to look for, or a question, where a task needs one")
    add("--classes", type=_names, help="names to ask for, a,b,c (default: the checkpoint's own)")
    add("--score", type=_score, default=0.3, help="leave out objects below this score (default 0.3)")
    add("--json", type=Path, metavar="FILE", help="write the results here, by task with --task any")
    add("--ids", type=Path, metavar="FILE", help="your COCO json: --json then has its image and category ids")
    add("--out", type=Path, metavar="PATH", help="picture file of one image, or folder of pictures")
    add("--constrained", action="store_true", help="let answers be nothing but well-formed (boxes, masks)")
    add("--cuda-graphs", action="store_true", help="record the passes of the model and replay them (CUDA)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps; default: CUDA if there is one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict, print, draw, write. 1 if an image could not be used; the others are still done.

    Raises CommandError, CheckpointError or OSError for a request that cannot be done at all.
    """
    paths = find_images(args.images)
    outputs = plan_outputs(args.images, paths, args.json, args.out)
    ids = _ids(args, paths)
    _check_name(args.task)
    model = _load(args.ckpt, args.device, args.base, args.experiment)
    if args.cuda_graphs:
        if model.backbone.device.type != "cuda":
            raise CommandError(
                f"--cuda-graphs needs a CUDA device, not {model.backbone.device}; leave it out"
            )
        model.use_cuda_graphs()
    if args.constrained:
        for answering in model.tasks.values():
            answering.constrained = answering.has_grammar
    requests = make_requests(model, args.task, args.text or "", args.classes)
    found: dict[str, list[dict[str, Any]]] = {request.task: [] for request in requests}
    failed = 0
    with _progress(len(paths)) as progress:
        for path in progress.track(paths, description="predict"):
            try:
                records = _predict(model, requests, path, args.score, outputs.pictures.get(path))
            except DataError as error:
                print(f"error: {error}", file=sys.stderr)
                failed += 1
                continue
            for task, some in records.items():
                found[task] += ids.of(some, path) if ids else some
    if outputs.json:
        write_results(outputs.json, found if args.task == ANY else found[args.task])
        print(f"results: {outputs.json}")
    if ids and ids.remark():
        print(ids.remark(), file=sys.stderr)
    if outputs.pictures and failed < len(paths):
        print(f"pictures: {args.out}")
    if failed and len(paths) > 1:
        print(f"error: {failed} of {len(paths)} images could not be used", file=sys.stderr)
    return 1 if failed else 0


def _check_name(task: str) -> None:
    """A name that no checkpoint can have is refused before one is loaded."""
    from ufo.tasks import task_names

    if task != ANY and task not in task_names():
        raise CommandError(f"there is no task '{task}'; {instead(task, task_names(), 'there are')}")


def _ids(args: argparse.Namespace, paths: Sequence[Path]) -> Ids | None:
    """The ids that results shall have, checked before a model is loaded."""
    if args.ids is None:
        return None
    if args.json is None:
        raise CommandError("--ids is about the results of --json FILE; add it")
    ids = read_ids(args.ids)
    ids.check(paths)
    return ids


def _text(value: str) -> str:
    if any("\ud800" <= c <= "\udfff" for c in value):  # bytes that Python could not decode
        raise argparse.ArgumentTypeError("it is not UTF-8 text")
    return value.strip()


def _names(value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in _text(value).split(","))
    if not all(names) or len({name.lower() for name in names}) < len(names):
        raise argparse.ArgumentTypeError(f"'{value}' has an empty or a repeated name; write a,b,c")
    return names


def _score(value: str) -> float:
    try:
        score = float(value)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f"'{value}' is not a number from 0 to 1")
    return score


# --- what the model is asked ----------------------------------------------------------------------


def _load(ckpt: str, device: str, base: str | None, experiment: str | None) -> UFO:
    import torch

    import ufo
    from ufo.checkpoints.errors import CheckpointError

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.partition(":")[0]
    if kind == "gpu":
        names = "'cuda' (NVIDIA, AMD), 'mps' (Apple) or 'xpu' (Intel)"
        raise CommandError(f"--device gpu: torch calls it {names}")
    if kind not in DEVICES:
        raise CommandError(f"--device {device} is not a device; {instead(kind, DEVICES, 'there are')}")
    try:
        torch.zeros(1, device=device).item()  # a name may be valid and the device not there
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise CommandError(f"--device {device} cannot be used here: {reason}") from error
    try:
        return ufo.load(ckpt, device, base, experiment)
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # whatever building a model from foreign settings may raise
        raise CommandError(
            f"'{ckpt}' does not describe a model that this version can build "
            f"({type(error).__name__}: {error})"
        ) from error


def make_requests(model: UFO, task: str, text: str, classes: tuple[str, ...] | None) -> list[Request]:
    """What to ask: the one task, or (any) all tasks that can be asked with what is given.

    Raises CommandError naming what is missing, superfluous or unreadable for the model.
    """
    if task != ANY:
        return [_request(model, task, text, classes, strict=True)]
    requests = []
    for name in model.tasks:
        if model.tasks[name].needs_text and not text:
            continue
        try:
            requests.append(_request(model, name, text, classes, strict=False))
        except CommandError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    if not requests:
        raise CommandError(
            f"none of the checkpoint's tasks ({', '.join(model.tasks)}) can be asked like this; "
            "give --text or --classes"
        )
    return requests


def _request(model: UFO, name: str, text: str, classes: tuple[str, ...] | None, strict: bool) -> Request:
    """One checked request; unless `strict`, what the task has no use for is dropped."""
    try:
        task = model.task(name)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if task.needs_text and not text:
        raise CommandError(f"the task {name} needs a text: add --text '...'")
    reads_classes = task.prompt(["x"], "") != task.prompt([], "")
    if strict and text and not task.needs_text:
        raise CommandError(f"the task {name} reads no text; leave out --text")
    if strict and classes and not reads_classes:
        raise CommandError(f"the task {name} reads no class names; leave out --classes")
    names = (classes or model.classes.get(name, ())) if reads_classes else ()
    if reads_classes and not names:
        raise CommandError(f"the checkpoint has no class names for {name}: add --classes a,b,c")
    unknown = next((n for n in names if not model.tokenizer.can_write(n)), None)
    if unknown is not None:
        raise CommandError(f"the checkpoint's vocabulary has no pieces for the class '{unknown}'")
    text = text if task.needs_text else ""
    from ufo.types import MASK_TOKEN

    marked = next((said for said in (text, *names) if MASK_TOKEN.lower() in said.lower()), None)
    if marked is not None:
        raise CommandError(f"'{marked[:60]}' holds {MASK_TOKEN}, which stands for a mask; leave it out")
    _require_short(model, task.prompt(names, text))
    return Request(name, text, classes if reads_classes else None)


def _require_short(model: UFO, prompt: str) -> None:
    """A longer prompt would be cut without a word, or not fit the backbone at all."""
    limit = model.prompt_limit
    length = len(model.tokenizer.encode([prompt])[0])
    if length > limit:
        raise CommandError(
            f"the prompt has {length} tokens and this checkpoint reads {limit}; give a shorter "
            "--text or fewer --classes"
        )


# --- one image ------------------------------------------------------------------------------------


def _predict(
    model: UFO, requests: Sequence[Request], path: Path, min_score: float, picture: Path | None
) -> dict[str, list[dict[str, Any]]]:
    """Ask everything about one image: print, draw, and return the records by task."""
    from ufo.data.pictures import as_image
    from ufo.draw import draw
    from ufo.kinds import ImageInfo

    pixels = as_image(path)
    height, width = pixels.shape[-2:]
    image = ImageInfo(image_id(path), path.name, (height, width))
    pixels = _bounded(pixels)
    height, width = pixels.shape[-2:]
    records, drawn = {}, []
    for request in requests:
        prediction = model.predict(pixels, request.task, request.text, request.classes)
        kind = model.tasks[request.task].kind
        line = kind.summary(prediction, min_score, request.text)
        print(f"{path.name}  {request.task}: {line}")
        kept = kind.confident(prediction, min_score)
        records[request.task] = kind.records(kept, image, (height, width), request.text)
        if picture:
            drawn.append(draw(pixels, prediction, text=request.text, min_score=min_score))
    if picture:
        save_picture(_sheet(drawn, [request.task for request in requests]), picture)
    return records


def _bounded(pixels: Tensor) -> Tensor:
    """The image `[3, H, W]`, shrunken where it has more than MAX_PREDICTED_PIXELS."""
    from torchvision.transforms.v2.functional import resize

    height, width = pixels.shape[-2:]
    factor = (MAX_PREDICTED_PIXELS / (height * width)) ** 0.5
    if factor >= 1:
        return pixels
    return resize(pixels, [max(1, int(height * factor)), max(1, int(width * factor))])


def _sheet(pictures: list[Image.Image], tasks: list[str]) -> Image.Image:
    """One picture for an image: that of its task, or those of several, each under its name."""
    from ufo.draw import contact_sheet

    if len(pictures) == 1:
        return pictures[0]
    pairs = zip(pictures, tasks, strict=True)
    return contact_sheet([contact_sheet([p], 1, task) for p, task in pairs])


def _progress(images: int) -> Progress:
    """A bar on stderr, if somebody watches it for more than a few images."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(
        console=console,
        disable=images <= FEW_IMAGES or not console.is_terminal,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # lines for a file must not end up on the terminal
    )
