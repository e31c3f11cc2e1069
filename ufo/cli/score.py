"""`ufo score`: the predictions of any model against annotations; no model of ours, no images, no config."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from ufo.cli import CommandError
from ufo.cli.files import write_results
from ufo.data.image_files import PICTURE_SUFFIXES
from ufo.ops.nearest import instead

ANSWERS = ("ufo", "qwen", "paligemma", "florence", "kosmos", "json")


class TaskOption(argparse.Action):
    """`--task NAME`; which tasks are scored is only looked for when somebody reads its help."""

    @property
    def help(self) -> str:
        from ufo.score.tasks import scored_tasks

        return ", ".join(scored_tasks())

    @help.setter
    def help(self, value: str | None) -> None:
        """What argparse sets is not used."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, values)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `ufo score`."""
    parser = subparsers.add_parser(
        "score",
        help="score predictions of any model in a file against annotations",
        description="Predictions: COCO results (.json), .jsonl of boxes, RLE, texts, a folder of PNG masks. "
        "Annotations: COCO (.json), .jsonl, a folder of RefCOCO, gRefCOCO, ReasonSeg or label maps. "
        "Prints one "
        "table with 95 % intervals from a bootstrap over images.",
    )
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS")
    parser.add_argument("--against", type=Path, required=True, metavar="ANNOTATIONS")
    parser.add_argument("--task", action=TaskOption, required=True)
    meaning = parser.add_argument_group("what the predictions' boxes mean")
    meaning.add_argument("--boxes", choices=("xyxy", "xywh", "cxcywh"), help="order of the four numbers")
    meaning.add_argument("--scale", help="pixels (default), 0-1, 0-999, 0-1000 or bins:N")
    meaning.add_argument("--of", default="original", help="original (default) or resized:HxW: whose pixels")
    meaning.add_argument("--answers", choices=ANSWERS, help="boxes are in texts of this format")
    meaning.add_argument(
        "--min-score", type=float, default=0.0, help="leave out objects below it (default: 0)"
    )
    truth = parser.add_argument_group("what the annotations leave open")
    truth.add_argument("--split", help="of RefCOCO and gRefCOCO: val, testA, ...")
    truth.add_argument("--refs", help="name of the file of expressions, where a folder has several")
    truth.add_argument("--classes", type=Path, help="of label maps: a text file with one class name per line")
    truth.add_argument("--reduce-zero-label", action="store_true", help="0 in label maps means no class")
    truth.add_argument("--images", type=Path, help="of JSONL: folder of images and mask files")
    result = parser.add_argument_group("result")
    result.add_argument(
        "--versus", type=Path, metavar="PREDICTIONS", help="compare with these, on the same images"
    )
    result.add_argument(
        "--resamples", type=int, default=1000, help="of the bootstrap (default: 1000; 0: none)"
    )
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--out", type=Path, help="write the table as Markdown")
    result.add_argument("--json", type=Path, help="write everything in full precision")
    result.add_argument("--diagram", type=Path, help="draw how far scores are probabilities, as .png")
    result.add_argument("--wandb", metavar="PROJECT", help="log to this project of Weights & Biases")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Score, print and write."""
    if not 0 <= args.resamples <= 10_000:
        raise CommandError(f"--resamples must be between 0 and 10000, not {args.resamples}")
    if args.versus and not args.resamples:
        raise CommandError("--versus tests with resamples; leave --resamples 0 out")
    for written in (args.out, args.json, args.diagram):
        if written and written.is_dir():
            raise CommandError(f"{written} is a folder; give the name of a file")
    if args.diagram and args.diagram.suffix.lower() not in PICTURE_SUFFIXES:
        raise CommandError(f"--diagram {args.diagram}: pictures are {', '.join(PICTURE_SUFFIXES)} files")
    if not math.isfinite(args.min_score):
        raise CommandError(f"--min-score is a finite number, not {args.min_score}")
    from ufo.data.errors import DataError
    from ufo.draw.reliability import reliability_diagram
    from ufo.files import save_picture, write_text
    from ufo.score.evaluate import Declared, Resampling, differences, score
    from ufo.score.report import as_json, log_to_wandb, markdown
    from ufo.score.tasks import scored_tasks
    from ufo.score.truth import Wanted, is_annotations, read_truth

    if args.task not in scored_tasks():
        raise CommandError(
            f"--task {args.task} is not scored from files; {instead(args.task, scored_tasks(), 'there are')}"
        )
    wanted = Wanted(args.split, args.refs, args.images, args.classes, args.reduce_zero_label)
    declared = Declared(args.answers, args.boxes, args.scale, args.of, args.min_score)
    resampling = Resampling(args.resamples, args.seed)
    try:
        truth = read_truth(args.against, wanted)
        result = score(args.predictions, truth, args.task, declared, resampling)
    except DataError as error:
        if is_annotations(args.predictions) and not is_annotations(args.against):
            raise CommandError(
                f"{args.predictions} holds annotations and {args.against} none: the two are the wrong way "
                f"round; write ufo score {args.against} --against {args.predictions}"
            ) from error
        raise
    other = score(args.versus, truth, args.task, declared, resampling) if args.versus else None
    diff = differences(result, other) if other is not None else {}
    against = f"{args.against}" + (f" ({args.split})" if args.split else "")
    text = markdown(result, args.task, against, other, diff)
    print(text, end="")
    if args.out:
        write_text(args.out, text)
    if args.json:
        write_results(args.json, as_json(result, args.task, against, other, diff))
    if args.diagram:
        if "score" not in result.tables:
            raise CommandError(
                "--diagram draws scores, and the predictions state none that are probabilities"
            )
        title = f"{args.task}: ECE {result.values['ECE']:.3f}"
        save_picture(reliability_diagram(result.tables["score"], title), args.diagram)
    if args.wandb:
        log_to_wandb(result, args.task, args.wandb)
    return 0
