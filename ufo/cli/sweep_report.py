"""`ufo sweep-report DIR`: every run of a sweep in one table, and a plot per swept parameter."""

from __future__ import annotations

import argparse
from pathlib import Path

from ufo.cli import CommandError


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "sweep-report",
        help="gather the runs of a sweep",
        description="Writes report.csv, report.md and (with matplotlib) a plot per swept parameter into "
        "DIR/report. Works on a sweep that is still running.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of a sweep, runs/<name>_sweep")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the report and print the table; the exit code is 0 whatever became of the runs."""
    from ufo.sweeps.report import check_sweep, gather, one_line, rows, summary, write
    from ufo.tables import table

    try:
        check_sweep(args.folder)
    except ValueError as error:
        raise CommandError(str(error)) from error
    runs = gather(args.folder)
    if not runs:
        raise CommandError(f"no run is in {args.folder}: none has written a status.json yet")
    files = write(runs, args.folder)
    head, cells = rows(runs)
    print(table([one_line(c) for c in head], [[one_line(c) for c in row] for row in cells]))
    print(summary(runs, args.folder))
    print("\n".join(str(path) for path in files))
    return 0
