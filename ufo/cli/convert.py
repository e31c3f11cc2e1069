"""`ufo convert`: a released checkpoint, a run, or a LoRA and its base become a whole model folder.

Nothing that the file pickles is run, every weight must find its place, and the folder is written whole or
not at all. The folder of a language model is one of transformers as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ufo.cli import CommandError
from ufo.cli.files import require_new
from ufo.ops.nearest import beside


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "convert",
        help="turn a released file or folder, a run, or a LoRA and its base, into a model folder",
        description="Turn a released checkpoint (a .pth, shards, a folder of DeepSpeed, merged weights), "
        "the .ckpt or folder of a run, whatever strategy trained it, or with --merge a trained LoRA and its "
        "base, into a model folder that ufo.load, evaluate.py and train.py take; for a language model "
        "transformers' from_pretrained takes it too.",
        epilog="Settings of the tasks are those of the multi-task experiment of a UFO-ViT's size, or of "
        "the config that OVERRIDES compose: experiment=NAME tasks.detection.num_beams=1. For a language "
        "model the experiment must be named, unless the file has the name it was released under.",
    )
    parser.add_argument(
        "src",
        metavar="SRC",
        type=Path,
        help="the checkpoint: ufo-vit-b-multi.pth, a .ckpt or a run; with --merge also a model folder",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write; must not exist yet")
    parser.add_argument("overrides", metavar="OVERRIDES", nargs="*", help="of the config in conf/")
    parser.add_argument(
        "--vocab",
        help="vocab.txt or tokenizer.json, a folder with one, or a name on the hub (default: the one beside "
        "SRC, else the experiment's)",
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
    parser.add_argument("--merge", action="store_true", help="SRC is trained here: merge its LoRA")
    parser.add_argument(
        "--base",
        help="the folder of the model that a LoRA was trained on: for a released file "
        "that holds only what was trained, and with --merge if it has moved",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Convert, and say what was recognised."""
    require_new(args.out)
    if args.merge:
        return _merge(args)
    if args.src.suffix == ".ckpt" or (args.src / "checkpoints").is_dir():
        return _consolidate(args)
    if not args.src.exists():
        raise CommandError(
            f"there is no file {args.src}; give the downloaded file or folder, or a run{beside(args.src)}"
        )
    strange = next((o for o in args.overrides if "=" not in o), None)
    if strange:
        raise CommandError(f"'{strange}' is not an override of the config, as in experiment=ufo_vit_b_multi")
    classes = _classes(args.classes)
    tasks = [name.strip() for name in args.tasks.split(",")] if args.tasks else None

    from ufo.checkpoints.load import build_for, load_weights, no_values, save
    from ufo.checkpoints.released import is_released, open_released

    if args.src.is_dir() and not is_released(args.src):
        raise CommandError(
            f"{args.src} is not a folder of released weights; to merge the LoRA of a model trained here add "
            "--merge"
        )
    found = open_released(args.src, args.base)
    description = found.describe(args.vocab, tasks, classes, args.overrides)
    with no_values():  # the weights are there: no memory for random ones
        model = build_for(description, args.src)
    load_weights(model, found.weights, args.src, assign=True)
    save(model, args.out)
    print(f"{args.out}: {found.name}; tasks: {', '.join(model.tasks)}")


def _consolidate(args: argparse.Namespace) -> None:
    """The model of a run, as it is: what training needs besides is left out."""
    if args.overrides or args.vocab or args.tasks or args.classes:
        raise CommandError("a checkpoint of this project is taken as it is: leave out the other options")

    from ufo.checkpoints.load import load, save

    save(load(args.src, base=args.base), args.out)
    print(f"{args.out}: the model of {args.src}")


def _merge(args: argparse.Namespace) -> None:
    """A model of this project with its LoRA in its weights."""
    if args.overrides or args.vocab or args.tasks or args.classes:
        raise CommandError("--merge takes the model as it is: leave out the other options")

    from ufo.backbones.lora import has_adapters, merge_lora
    from ufo.checkpoints.load import load, save

    model = load(args.src, base=args.base)
    lora = model.backbone.lora
    if not has_adapters(lora) and model.backbone.base is None:
        raise CommandError(f"{args.src} has no LoRA and no base; it is whole already")
    try:
        merge_lora(model.backbone)
    except ValueError as error:
        raise CommandError(f"the LoRA of {args.src} cannot be merged: {error}") from error
    save(model, args.out)
    merged = f"LoRA of rank {lora['r']} merged" if lora and has_adapters(lora) else "joined with its base"
    print(f"{args.out}: {type(model.backbone).__name__}, {merged}; tasks: {', '.join(model.tasks)}")


def _classes(given: list[str]) -> dict[str, tuple[str, ...]]:
    """Class names by task."""
    if not given:
        return {}
    from ufo.data.datasets.semantic import read_classes
    from ufo.tasks import task_class, task_names

    with_classes = [name for name in task_names() if task_class(name).published_classes]
    classes: dict[str, tuple[str, ...]] = {}
    for value in given:
        task, equals, names = value.partition("=")
        if not equals:
            tasks, names = with_classes, value
        elif task in with_classes:
            tasks = [task]
        else:
            raise CommandError(
                f"the task '{task}' reads no class names; those that do: {', '.join(with_classes)}"
            )
        path = Path(names)
        read = read_classes(path if path.is_file() else [n.strip() for n in names.split(",") if n.strip()])
        classes |= dict.fromkeys(tasks, read)
    return classes
