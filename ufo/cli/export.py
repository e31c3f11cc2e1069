"""`ufo export CKPT --out FOLDER`: encoder and answer step as files that run without this package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ufo.cli import CommandError
from ufo.cli.files import require_new
from ufo.cli.predict import _load, _names, _options, _text


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "export",
        help="the model as files for torch.export, AOTInductor or onnxruntime",
        description="Write the encoder and one answer step of a checkpoint for one task, compare them with "
        "the model, and say how far they are from it. docs/export.md shows how they are used.",
    )
    add = parser.add_argument
    add("ckpt", metavar="CKPT", help="model folder, .ckpt file or folder of a training run")
    add("--out", required=True, type=Path, metavar="FOLDER", help="a folder that is not there yet")
    add("--base", help="where the base of a LoRA is now, if it has moved")
    add("--task", metavar="NAME", help="default: the checkpoint's first that needs no text")
    add("--text", type=_text, default="", help="an example, where a task needs a text; others can be asked")
    add("--classes", type=_names, help="names to ask for, a,b,c (default: the checkpoint's own)")
    add(
        "--format",
        nargs="+",
        default=["torch"],
        choices=("torch", "aoti", "onnx"),
        help="torch: torch.export (default); aoti: compiled for this machine; onnx: for onnxruntime",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Load, export, compare. Raises CommandError or CheckpointError where that cannot be done."""
    require_new(args.out)
    model = _load(args.ckpt, "cpu", args.base, None)
    from ufo.export import ExportError, export_model

    try:
        with _options():
            export_model(
                model,
                args.out,
                args.task,
                text=args.text,
                classes=args.classes,
                formats=tuple(dict.fromkeys(args.format)),
            )
    except ExportError as error:
        raise CommandError(str(error)) from error
    print(f"written: {args.out}")
