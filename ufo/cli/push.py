"""`ufo push`: a run or a model folder to the hub of Hugging Face, with a model card.

The metrics of a run and the command that trained it are in its folder (`results.json`, `run.json`).
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from ufo.cli import CommandError


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "push",
        help="upload a model to the hub of Hugging Face, with a model card",
        description="Upload a run or a model folder, so that ufo.load('user/name') finds it: safetensors, "
        "config, tokenizer, and a card with tasks, classes, metrics, licence and pictures.",
        epilog="Log in before with `hf auth login`, or set HF_TOKEN.",
    )
    add = parser.add_argument
    add("ckpt", metavar="CKPT", help="run, model folder or .ckpt")
    add("name", metavar="USER/NAME", help="of the repository; it is made if it is not there")
    add("--base", help="where the base of a LoRA is now, if it has moved")
    add("--private", action="store_true", help="a repository that is made is not to be seen by others")
    add("--licence", default="", help="of the weights, in the hub's words: apache-2.0, cc-by-4.0, ...")
    add("--pictures", nargs="+", type=Path, default=[], metavar="IMAGE", help="drawn into the card")
    add("--results", type=Path, metavar="FILE", help="results.json of an evaluation (default: the run's)")
    add("--command", default="", help="that measured them (default: the run's)")
    add(
        "--to", type=Path, metavar="FOLDER", help="write what would be uploaded to FOLDER, and upload nothing"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Load, describe, upload. Raises CommandError, DataError or CheckpointError where that cannot be done."""
    results, command = measured(args)
    import ufo

    model = ufo.load(args.ckpt, base=args.base)
    card: dict[str, Any] = {
        "results": results,
        "command": args.command or command,
        "licence": args.licence,
        "pictures": args.pictures,
    }
    if args.to:
        print(f"written, not uploaded: {model.save_pretrained(args.to, name=args.name, **card)}")
    else:
        print(model.push_to_hub(args.name, private=args.private or None, **card))


def measured(args: argparse.Namespace) -> tuple[dict[str, float | None], str]:
    """The metrics that the card shows, and the command of their run, with `~` for the user's home."""
    from ufo.runs import results

    folder = args.results.parent if args.results else Path(args.ckpt)
    if args.results and args.results.name != results.JSON:
        raise CommandError(f"--results {args.results} is not the {results.JSON} of a run")
    found = results.read(folder)
    if found is None:
        if args.results:
            raise CommandError(f"--results {args.results} holds no metrics; give the {results.JSON} of a run")
        return {}, ""
    return found["measured"], _command(folder)


def _command(folder: Path) -> str:
    try:
        words = json.loads((folder / "run.json").read_text(encoding="utf-8"))["command"]
        return shlex.join(["python", *map(str, words)]).replace(str(Path.home()), "~")
    except (OSError, ValueError, KeyError, TypeError):
        return ""
