"""`ufo data digits`: write the built-in data set of digit scenes in the four standard formats."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("data", help="generate the built-in digit scenes")
    kinds = parser.add_subparsers(metavar="KIND", title="kinds of data", required=True)
    digits = kinds.add_parser(
        "digits",
        help="digit scenes: COCO instances, semantic maps, captions, referring expressions",
        description="Write scenes of handwritten digits on photographs. The same options give the "
        "same files; a folder that is finished with the same options is left as it is.",
    )
    add = digits.add_argument
    add("--out", type=Path, required=True, help="folder to write; it appears complete or not at all")
    add("--train", type=int, required=True, help="number of training scenes")
    add("--val", type=int, required=True, help="number of validation scenes")
    add("--variant", default="standard", help="standard (default) or shifted: another look")
    add("--size", type=int, default=112, help="side of the images in pixels (default 112)")
    add("--seed", type=int, default=0, help="other seeds give other scenes (default 0)")
    add("--workers", type=int, help="processes (default: all cores)")
    add("--force", action="store_true", help="replace scenes of other options")
    digits.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Generate and print the folder. Raises DataError as `ufo.data.digits.generate`."""
    from ufo.data.digits import generate

    options = {k: v for k, v in vars(args).items() if k not in ("command", "run")}
    print(generate(**options))
    return 0
