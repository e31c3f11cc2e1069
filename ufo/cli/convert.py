"""`ufo convert`: a published UFO-ViT checkpoint (`.pth`) becomes a model folder of this project.

Nothing that the file pickles is run, every weight must find its place, and the folder is written whole or
not at all.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ufo.cli import CommandError


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "convert",
        help="turn a published .pth into a model folder",
        description="Turn a published UFO-ViT checkpoint (.pth) into a model folder that ufo.load, "
        "evaluate.py and train.py take.",
        epilog="Settings of the tasks are those of the multi-task experiment of the checkpoint's size, or of "
        "the config that OVERRIDES compose: experiment=NAME tasks.detection.num_beams=1",
    )
    parser.add_argument(
        "src", metavar="SRC", type=Path, help="the checkpoint, for example ufo-vit-b-multi.pth"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write; must not exist yet")
    parser.add_argument("overrides", metavar="OVERRIDES", nargs="*", help="of the config in conf/")
    parser.add_argument(
        "--vocab",
        help="vocab.txt, a folder with one, or a name on the hub (default: the vocab.txt beside SRC, else "
        "bert-base-uncased)",
    )
    parser.add_argument(
        "--tasks",
        help="tasks of a single-task checkpoint, separated by commas (default: those that the file names, "
        "else all that its weights allow)",
    )
    parser.add_argument(
        "--classes",
        metavar="[TASK=]NAMES",
        action="append",
        default=[],
        help="class names separated by commas, or a file with one per line, for a task or for all that read "
        "them (default: COCO's and ADE20K's); may be repeated",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Convert, and say what was recognised."""
    if not args.src.is_file():
        raise CommandError(f"there is no file {args.src}; give the downloaded .pth")
    if args.out.exists():
        raise CommandError(f"{args.out} exists; choose another name, or remove it first")
    strange = next((o for o in args.overrides if "=" not in o), None)
    if strange:
        raise CommandError(f"'{strange}' is no override of the config, as in experiment=ufo_vit_b_multi")
    classes = _classes(args.classes)
    tasks = [name.strip() for name in args.tasks.split(",")] if args.tasks else None

    import torch

    from ufo.checkpoints import mmengine, native, published

    found = published.recognise(mmengine.read_pickle(args.src), args.src)
    description = found.describe(args.vocab, tasks, classes, args.overrides)
    with torch.device("meta"):  # the weights are there: no memory for random ones
        model = native.build(description)
    native.load_weights(model, found.weights, args.src, assign=True)
    native.save(model, args.out)
    print(f"{args.out}: {found.name}; tasks: {', '.join(model.tasks)}")


def _classes(given: list[str]) -> dict[str, tuple[str, ...]]:
    """Class names by task."""
    if not given:
        return {}
    from ufo.checkpoints.recipes import CLASS_FILES
    from ufo.data.datasets.semantic import read_classes

    classes = {}
    for value in given:
        task, equals, names = value.partition("=")
        if not equals:
            tasks, names = list(CLASS_FILES), value
        elif task in CLASS_FILES:
            tasks = [task]
        else:
            raise CommandError(
                f"the task '{task}' reads no class names; those that do: {', '.join(CLASS_FILES)}"
            )
        path = Path(names)
        read = read_classes(path if path.is_file() else [n.strip() for n in names.split(",") if n.strip()])
        classes |= dict.fromkeys(tasks, read)
    return classes
