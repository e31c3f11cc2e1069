"""`ufo predict`: any tasks of a checkpoint on images, folders and a video, as text, pictures and JSON.

All that can be checked without the model is checked before it is loaded, and nothing is predicted before the
whole request is known to make sense for it. The answers are those of `UFO.stream`.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ufo.cli import CommandError, positive, share
from ufo.cli.files import Outputs, find_images, plan_outputs, write_results
from ufo.cli.ids import Ids, read_ids
from ufo.data.errors import DataError
from ufo.data.image_files import is_video
from ufo.data.json_lines import is_jsonl
from ufo.extensions import VARIABLE
from ufo.files import save_picture
from ufo.ops.names import find_class
from ufo.ops.nearest import few, instead

if TYPE_CHECKING:
    from ufo.inference import Results
    from ufo.model import UFO

ANY = "any"
ARGUMENT = re.compile(r"\b(text|classes|device|dtype)=")
"""How messages of the library name what is an option here."""
STATED = re.compile(r'^    name(?:: ClassVar\[str\])? = "(\w+)"', re.MULTILINE)
"""How the class of a task states its name."""
SHOWN = 20
"""So many class names of a model are listed in a message."""


def written_names() -> list[str]:
    """The names of tasks as their files state them: importing these takes seconds, as they need torch."""
    spec = importlib.util.find_spec("ufo.tasks")
    folders = (spec and spec.submodule_search_locations) or []
    files = (file for folder in folders for file in Path(folder).glob("*.py"))
    return sorted({name for file in files for name in STATED.findall(file.read_text(encoding="utf-8"))})


class Once(argparse.Action):
    """An option of which whoever gives it twice wants both; the last one alone would be no answer to that."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if getattr(namespace, self.dest, self.default) != self.default:
            parser.error(f"{option_string} is given twice; give one, and run the command again for the other")
        setattr(namespace, self.dest, values)


class TaskOption(Once):
    """`--task NAME`; its help lists all tasks, which are only looked for when somebody reads it."""

    @property
    def help(self) -> str:
        return f"{', '.join(written_names())}; default 'any': all of the checkpoint's that need no text"

    @help.setter
    def help(self, value: str | None) -> None:
        """What argparse sets is not used."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "predict",
        help="detect, segment, caption or ground in images, folders and a video",
        description="Ask a checkpoint about images or a video: prints a line per image and task, draws with "
        "--out, writes COCO-style results with --json.",
    )
    add = parser.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE", help="image files, folders of images, or one video")
    add("--ckpt", required=True, help="model folder, .ckpt file or folder of a training run")
    add("--base", help="where the base of a LoRA is now, if it has moved")
    add("--experiment", metavar="NAME", help="of conf/experiment: what a renamed released file is from")
    add("--task", default=ANY, action=TaskOption)
    add("--text", type=_text, action=Once, help="what to look for, or a question, where a task needs one")
    add("--classes", type=_names, help="names to ask for, a,b,c (default: the checkpoint's own)")
    add(
        "--score",
        type=share,
        default=0.3,
        help="leave out objects below this score (default 0.3); what a --text asks for is always given",
    )
    add("--json", type=Path, metavar="FILE", help="write the results here (.jsonl: a line each)")
    add("--ids", type=Path, metavar="FILE", help="your COCO json: --json then has its image and category ids")
    add(
        "--out",
        type=Path,
        metavar="PATH",
        help="picture file of one image, folder of pictures, or a video of a video",
    )
    add("--batch", type=positive, default=16, metavar="N", help="images that are asked about together (16)")
    add("--every", type=positive, default=1, metavar="N", help="of a video only each N-th frame")
    add("--constrained", action="store_true", help="let answers be nothing but well-formed (boxes, masks)")
    add(
        "--cuda-graphs",
        action=argparse.BooleanOptionalAction,
        help="record the passes of the model and replay them (default: on a CUDA device)",
    )
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps; default: CUDA if there is one")
    add("--dtype", help="what to compute in: float32, bfloat16, float16; default: as the weights are")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict, print, draw, write. 1 if an image could not be used; the others are still done.

    Raises CommandError, CheckpointError or OSError for a request that cannot be done at all.
    """
    paths = find_images(args.images)
    outputs = plan_outputs(args.images, paths, args.json, args.out)
    if args.json and is_jsonl(args.json) and args.task == ANY:
        raise CommandError(
            f"--json {args.json}: its lines are of one task; name it with --task, or write .json"
        )
    if args.every > 1 and not is_video(paths[0]):
        raise CommandError("--every is about the frames of a video, and the inputs are images; leave it out")
    ids = _ids(args, paths)
    _check_name(args.task)
    model = _load(args.ckpt, args.device, args.base, args.experiment)
    _prepare(model, args)
    tasks = _tasks(model, args)
    found: dict[str, list[dict[str, Any]]] = {task: [] for task in tasks}
    failed: list[str] = []

    def skip(name: str, error: DataError) -> None:
        print(f"error: {error}", file=sys.stderr)
        failed.append(name)

    source = paths[0] if is_video(paths[0]) else paths
    options = {"batch_size": args.batch, "every": args.every, "dtype": args.dtype, "skip": skip}
    with _drawing(outputs, paths, args) as draw:
        for results in model.stream(source, tasks, args.text, args.classes, **options):
            _print(results, args)
            draw(results)
            for task, result in results.items():
                if outputs.json:
                    records = result.above(args.score).to_coco()
                    found[task] += ids.of(records, Path(result.source)) if ids else records
    if outputs.json:
        write_results(outputs.json, found if args.task == ANY else found[args.task])
        print(f"results: {outputs.json}")
    if ids and ids.remark():
        print(ids.remark(), file=sys.stderr)
    if outputs.video:
        print(f"video: {outputs.video}")
    if outputs.pictures and len(failed) < len(paths):
        print(f"pictures: {args.out}")
    if failed and len(paths) > 1:
        print(f"error: {len(failed)} of {len(paths)} images could not be used", file=sys.stderr)
    return 1 if failed else 0


def _check_name(task: str) -> None:
    """A name that no checkpoint can have is refused before one is loaded."""
    if task == ANY or task in written_names():
        return
    from ufo.tasks import task_names

    if task not in task_names():
        there_are = f"{VARIABLE} names packages with others, and there are"
        raise CommandError(f"there is no task '{task}'; {instead(task, task_names(), there_are)}")


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


# --- the model and what it is asked -----------------------------------------------------------------


def _load(ckpt: str, device: str, base: str | None, experiment: str | None) -> UFO:
    import ufo
    from ufo.checkpoints.errors import CheckpointError
    from ufo.inference.asking import usable_device

    with _options():
        place = usable_device(device)
    try:
        return ufo.load(ckpt, str(place), base, experiment)
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # whatever building a model from foreign settings may raise
        raise CommandError(
            f"'{ckpt}' does not describe a model that this version can build "
            f"({type(error).__name__}: {error})"
        ) from error


def _prepare(model: UFO, args: argparse.Namespace) -> None:
    """The settings of decoding. Raises CommandError for those that the device or the weights do not allow."""
    from ufo.inference.asking import computing

    device = model.backbone.device
    if args.cuda_graphs and device.type != "cuda":
        raise CommandError(f"--cuda-graphs needs a CUDA device, not {device}; leave it out")
    if args.cuda_graphs or (args.cuda_graphs is None and device.type == "cuda"):
        model.use_cuda_graphs()
    if args.constrained:
        for answering in model.tasks.values():
            answering.constrained = answering.has_grammar
    with _options():
        computing(model, args.dtype)


def _tasks(model: UFO, args: argparse.Namespace) -> list[str]:
    """The one task, or (any) all tasks that can be asked with what is given; says which are left out.

    Raises CommandError naming what is missing, superfluous or unreadable for the model.
    """
    from ufo.inference.asking import make_requests

    task = None if args.task == ANY else args.task
    with _options():
        requests, left_out = make_requests(model, task, [args.text or ""], args.classes, strict=True)
    for name, reason in left_out.items():
        print(f"{name} is left out: {_as_option(reason)}", file=sys.stderr)
    for request in requests if args.classes else ():
        if remark := _never_learned(request.task, request.classes, model.classes.get(request.task, ())):
            print(remark, file=sys.stderr)
    return [request.task for request in requests]


def _never_learned(task: str, asked: Sequence[str], learned: Sequence[str]) -> str:
    """What is said where a model is asked for names that it was not trained with, else nothing.

    No error: a model that has read many words may know what they mean.
    """
    new = [name for name in asked if find_class(name, learned)[0] < 0]
    if not learned or not new:
        return ""
    known = few(learned, SHOWN)
    none = "trained with none of these --classes, and may find nothing"
    said = none if len(new) == len(asked) else f"not trained with {few(new, SHOWN)}"
    return f"warning: {task} was {said}; it knows {known}"


@contextmanager
def _options() -> Iterator[None]:
    """What cannot be asked is said with the names of options."""
    from ufo.inference.asking import RequestError

    try:
        yield
    except RequestError as error:
        raise CommandError(_as_option(str(error))) from error


def _as_option(message: str) -> str:
    return ARGUMENT.sub(r"--\1 ", message).replace(" ;", ";").rstrip()


# --- what becomes of the answers --------------------------------------------------------------------


def _print(results: Results, args: argparse.Namespace) -> None:
    """A line for each task; of the frames of a video only where nothing else is made of them."""
    for task, result in results.items():
        if result.time is not None and (args.out or args.json):
            continue
        name = Path(result.source).name + ("" if result.time is None else f" {result.time:.2f} s")
        print(f"{name}  {task}: {result.summary(args.score)}")


@contextmanager
def _drawing(
    outputs: Outputs, paths: Sequence[Path], args: argparse.Namespace
) -> Iterator[Callable[[Results], None]]:
    """A function that draws what was found in one image or frame, where a drawing is wanted."""
    if outputs.video is not None:
        from ufo.inference.video import frame_rate, writing_video

        with writing_video(outputs.video, frame_rate(paths[0]) / args.every) as write:
            yield lambda results: write(results.above(args.score).plot(), results.time or 0.0)
        return

    def draw(results: Results) -> None:
        if outputs.pictures:
            save_picture(results.plot(args.score), outputs.pictures[paths[results.index]])

    yield draw
