"""`ufo data`: list, check, prepare, look at and mix data sets, and write the built-in digit scenes.

What a command does stands in `data_<command>.py`, which is imported when it runs.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from ufo.cli import CommandError, positive, share
from ufo.data.labels.sources import BOX_TEXTS, MASK_TEXTS, TALKS

NAME = (
    "a data set (see `ufo data list`), a source of the mixture that the overrides choose, or a yaml file of "
    "your own"
)
OVERRIDES = "as for train.py, for example mixture=five_task"


def add_parser(subparsers: Any) -> None:
    """Register the command and its parts."""
    parser = subparsers.add_parser("data", help="list, check, prepare, show and mix data sets")
    kinds = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    _add_list(kinds)
    _add_check(kinds)
    _add_prepare(kinds)
    _add_show(kinds)
    _add_mix(kinds)
    _add_vocab(kinds)
    _add_digits(kinds)
    _add_import(kinds)
    _add_new(kinds)
    _add_export(kinds)


def _add(kinds: Any, name: str, help: str, description: str) -> argparse.ArgumentParser:
    """A parser of `ufo data NAME`, run by `data_NAME.run`."""
    parser = kinds.add_parser(name, help=help, description=description)
    parser.set_defaults(run=lambda args: _run(name, args))
    parser.add_argument("--root", type=Path, help="folder of all data sets (default: paths.data, data/)")
    parser.add_argument("--config-dir", type=Path, help="folder of your own configs, as for train.py")
    return parser


def _run(name: str, args: argparse.Namespace) -> int:
    from ufo.command_line import readable, searched  # slow to import

    args.overrides = list(getattr(args, "overrides", []))
    if hasattr(args, "name"):
        _sort_name(args)
    if hasattr(args, "names"):
        args.overrides += [word for word in args.names if not _is_name(word)]
        args.names = [word for word in args.names if _is_name(word)]
    args.overrides = [readable(override, ("resolution",)) for override in args.overrides]
    if args.config_dir:
        if not args.config_dir.is_dir():
            raise CommandError(f"--config-dir {args.config_dir} is not a folder")
        _find_own(args)
        args.overrides.insert(0, searched(args.config_dir))
    return importlib.import_module(f"ufo.cli.data_{name}").run(args)


def _find_own(args: argparse.Namespace) -> None:
    """A name of a source in `--config-dir` is its yaml, unless a mixture of the command has that source."""
    from ufo.cli.data_find import dataset_names

    if any(override.lstrip("+~").startswith("source") for override in args.overrides):
        return
    own = {path.stem: str(path) for path in sorted((args.config_dir / "source").glob("*.yaml"))}
    own = {name: path for name, path in own.items() if name not in dataset_names()}
    if hasattr(args, "name"):
        args.name = own.get(args.name, args.name)
    if hasattr(args, "names"):
        args.names = [own.get(name, name) for name in args.names]


def _sort_name(args: argparse.Namespace) -> None:
    """Find the NAME among words of any order: overrides have a `=` or begin with `+` or `~`."""
    words = [args.name, *args.overrides]
    names = [word for word in words if _is_name(word)]
    if not names:
        raise CommandError(f"name {NAME}; '{args.name}' is an override")
    args.name = names[0]
    words.remove(names[0])
    args.overrides = words


def _is_name(word: str) -> bool:
    return Path(word).is_file() or not ("=" in word or word[:1] in "+~")


def _add_list(kinds: Any) -> None:
    parser = _add(
        kinds,
        "list",
        "all data sets: tasks, where they come from, whether they are here",
        "List the data sets of conf/dataset. Nothing is read but whether the files exist.",
    )
    parser.add_argument("--task", help="only those that serve this task")
    parser.add_argument("--found", action="store_true", help="only those that are under the root")


def _add_check(kinds: Any) -> None:
    parser = _add(
        kinds,
        "check",
        "what is wrong with a data set",
        "Read a data set's files, decode some of its samples, and explain what is wrong. The exit code is 1 "
        "if a split cannot be used or a sample cannot be decoded.",
    )
    parser.add_argument("name", metavar="NAME", help=NAME)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=OVERRIDES)
    parser.add_argument(
        "--decode", default="200", help="samples to decode per split: a number or `all` (200)"
    )
    parser.add_argument("--strict", action="store_true", help="exit code 1 also for annotations left out")


def _add_prepare(kinds: Any) -> None:
    parser = _add(
        kinds,
        "prepare",
        "convert a downloaded data set and index its annotations",
        "Bring a data set into the form that its config reads, and build its index on disk. What is done "
        "already is left as it is; a run that was interrupted goes on.",
    )
    parser.add_argument("name", metavar="NAME", help=NAME)
    parser.add_argument("--out", type=Path, help="folder to write to (default: where the config looks)")
    parser.add_argument("--workers", type=positive, help="processes (default: all cores)")


def _add_show(kinds: Any) -> None:
    parser = _add(
        kinds,
        "show",
        "pictures of samples with the prompt and the answers that are trained",
        "Draw training samples as the network gets them, and write their exact prompts and answers.",
    )
    parser.add_argument("name", metavar="NAME", help=NAME)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=OVERRIDES)
    parser.add_argument("-n", type=positive, default=16, help="number of samples (default 16)")
    parser.add_argument("--task", help="the task to show (default: the source's, or the first one served)")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--seed", type=int, default=0, help="other seeds draw other samples")
    parser.add_argument("--out", type=Path, help="folder for the pictures (default: runs/data_show/NAME)")


def _add_mix(kinds: Any) -> None:
    parser = _add(
        kinds,
        "mix",
        "what a mixture would draw",
        "Print share, samples and epochs of every source of a mixture. Sources whose files are missing "
        "are shown with the size that their data set states.",
    )
    parser.add_argument("overrides", nargs="+", metavar="OVERRIDE", help=OVERRIDES)
    parser.add_argument("--steps", type=positive, help="batches per process (default: as the run would have)")
    parser.add_argument("--devices", type=positive, default=1, help="processes of the run (default 1)")


def _add_import(kinds: Any) -> None:
    parser = _add(
        kinds,
        "import",
        "turn the export of a label tool into a source that can be trained",
        "Import YOLO, Pascal VOC, LabelMe, CVAT, COCO, Label Studio, Roboflow, Supervisely, VIA, CSV, class "
        "maps or an imagefolder of Hugging Face: writes data, a split and the yaml of the source, and checks "
        "them. The originals are not changed.",
    )
    _add_placing(parser)
    add = parser.add_argument
    add(
        "words",
        nargs="+",
        metavar="[FORMAT] PATH",
        help="a format (or `auto`), and the exported folder or file",
    )
    add("--images", type=Path, help="folder of the pictures, if they are not with the labels")


def _add_new(kinds: Any) -> None:
    parser = _add(
        kinds,
        "new",
        "write the source for data that need no conversion",
        "Write the yaml of a source for a COCO json, a folder of label maps or a JSONL (docs/your_data.md), "
        "and check it. The data are not changed.",
    )
    _add_placing(parser)
    add = parser.add_argument
    add("kind", choices=("coco", "maps", "jsonl"), help="the form of the data")
    add("pictures", type=Path, metavar="IMAGES", help="folder of the pictures")
    add("data", type=Path, metavar="DATA", help="the COCO json, the folder of maps, or the JSONL")
    add("--val-data", type=Path, help="the same for validation (default: the data are divided)")
    add("--val-images", type=Path, help="folder of the pictures of --val-data, if it is another one")
    add(
        "--task",
        choices=(MASK_TEXTS, BOX_TEXTS, TALKS),
        help="of a JSONL (default: by its records)",
    )
    add("--zero-is-nothing", action="store_true", help="in maps: 0 means no class, and 1 is the first one")


def _add_export(kinds: Any) -> None:
    parser = _add(
        kinds,
        "export",
        "write predictions as pre-annotations for a label tool",
        "Write what `ufo predict --json` or `evaluate.py predictions=` found for Label Studio, CVAT or "
        "LabelMe; corrected there, `ufo data import` reads it again.",
    )
    add = parser.add_argument
    add("format", metavar="FORMAT", help="label_studio, cvat or labelme")
    add("predictions", type=Path, metavar="PREDICTIONS", help="the json of the predictions")
    add("--images", type=Path, required=True, help="folder of the pictures")
    add("--out", type=Path, required=True, help="folder to write to")
    add("--score", type=share, default=0.3, help="leave out objects below this score (default 0.3)")
    add("--task", help="of predictions with several tasks (default: masks, else boxes)")
    add("--ids", type=Path, metavar="FILE", help="the COCO json whose ids the predictions have")
    add("--polygons", action="store_true", help="outlines in place of masks: points can be moved")
    add("--model-version", help="what Label Studio calls the predictions (default ufo)")
    add("--prefix", help="before the picture's name in Label Studio (default /data/local-files/?d=)")
    add("--force", action="store_true", help="replace files that are there")


def _add_placing(parser: argparse.ArgumentParser) -> None:
    """Where `import` and `new` write, and how they divide."""
    add = parser.add_argument
    add("--out", type=Path, help="folder to write (default: mine/NAME)")
    add("--name", dest="name_", help="name of the source (default: that of the folder)")
    add(
        "--val",
        type=_share,
        help="share to validate on (default 0.1, or the data's own split; 0: all of train)",
    )
    add("--classes", help="names that count, in their order: a,b,c or a file (default: those of the data)")
    add("--force", action="store_true", help="replace what is there")


def _share(value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"'{value}' is not a share from 0 to below 1")
    return share


def _add_vocab(kinds: Any) -> None:
    parser = _add(
        kinds,
        "vocab",
        "what class names and texts cost in tokens, and a vocabulary for them",
        "Print the tokens of the classes and of the prompts of some sources, with the vocabulary of the "
        "backbone and with one that has their words, which --out writes.",
    )
    parser.add_argument("names", nargs="+", metavar="SOURCE", help=f"{NAME}; or an override")
    parser.add_argument("--out", type=Path, help="file to write, a vocab.txt")
    parser.add_argument("--at-least", type=positive, default=2, help="how often a word of texts occurs (2)")
    parser.add_argument("--most", type=positive, default=2000, help="words of texts, at most (2000)")


def _add_digits(kinds: Any) -> None:
    digits = kinds.add_parser(
        "digits",
        help="write digit scenes: COCO instances, semantic maps, captions, referring expressions",
        description="Write scenes of handwritten digits on photographs. The same options give the "
        "same files; a folder that is finished with the same options is left as it is.",
    )
    add = digits.add_argument
    add("--out", type=Path, required=True, help="folder to write; it appears complete or not at all")
    add("--train", type=int, required=True, help="number of training scenes")
    add("--val", type=int, required=True, help="number of validation scenes")
    add("--variant", default="standard", help="standard (default) or shifted: another look")
    add("--size", type=positive, default=112, help="side of the images in pixels (default 112)")
    add("--seed", type=int, default=0, help="other seeds give other scenes (default 0)")
    add("--workers", type=positive, help="processes (default: all cores)")
    add("--force", action="store_true", help="replace scenes of other options")
    digits.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Generate digit scenes and print the folder. Raises DataError as `ufo.data.digits.generate`."""
    from ufo.data.digits import generate

    options = {k: v for k, v in vars(args).items() if k not in ("command", "run")}
    print(generate(**options))
    return 0
