"""`ufo report RUN`: one HTML file about an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ufo.cli import CommandError


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "report",
        help="one HTML file about an evaluation",
        description="Writes report.html beside the evaluation of a run: metrics, curves, tables of classes, "
        "and pictures of truth beside prediction that can be filtered. It needs nothing beside itself.",
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="folder of a run that has been evaluated")
    parser.add_argument("--versus", metavar="RUN", type=Path, help="another run to compare with")
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: report.html beside the evaluation")
    parser.set_defaults(run=lambda args: run(args.folder, args.versus, args.out))


def run(folder: Path, versus: Path | None, out: Path | None) -> int:
    """Write the report and print where it is. Raises CommandError for a run that has not been evaluated."""
    from ufo.report.gather import gather
    from ufo.report.html import write

    try:
        shown = gather(folder)
        other = None if versus is None else gather(versus)
        written = write(shown, other, out)
    except ValueError as error:
        raise CommandError(str(error)) from error
    print(f"report: {written}")
    return 0
