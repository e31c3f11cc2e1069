"""`ufo data list`: the data sets of `conf/dataset`, the tasks they serve, whether their files are here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ufo.cli import CommandError
from ufo.cli.data_find import Found, all_datasets
from ufo.ops.nearest import instead

FOUND, PARTLY, MISSING = "found", "partly", "-"


def run(args: argparse.Namespace) -> int:
    """Print the table; the exit code is 0 whatever is missing."""
    from ufo.tasks import task_names

    if args.task and args.task not in task_names():
        raise CommandError(f"there is no task '{args.task}'; {instead(args.task, task_names(), 'there are')}")
    table = Table(box=None, pad_edge=False)
    for column in ("data set", "here", "what", "tasks", "from", "licence"):
        table.add_column(column, no_wrap=column in ("data set", "here"), overflow="fold")
    shown = 0
    for found in all_datasets(args.root):
        tasks, state = found.tasks(), where(found)[0]
        if (args.task and args.task not in tasks) or (args.found and state == MISSING):
            continue
        info = found.info
        shown += 1
        origin = f"{info.get('url', '')}{' (account needed)' * bool(info.get('account'))}"
        table.add_row(
            *(found.name, state, str(info.get("title", "")), ", ".join(tasks).replace("_", " ")),
            *(origin, str(info.get("licence", ""))),
        )
    console = Console()
    if shown:  # what is not a terminal has no width
        (console if console.is_terminal else Console(width=180)).print(table)
        print(f"\n{shown} data sets; `ufo data check NAME` says what is missing of one")
    else:
        print("no data set is like that")
    return 0


def where(found: Found) -> tuple[str, list[Path]]:
    """Whether a data set's files and folders exist, and those that do not."""
    missing: list[Path] = []
    splits = []
    for options in found.splits.values():
        lost = [path for path in paths(options).values() if not path.exists()]
        missing += [path for path in lost if path not in missing]
        splits.append(not lost)
    if not missing:
        return FOUND, []
    return (PARTLY if any(splits) else MISSING), missing


def paths(options: dict[str, Any]) -> dict[str, Path]:
    """The files and folders among a loader's arguments, by argument."""
    found: dict[str, Path] = {}
    for key, value in options.items():
        # file names without a folder (`refs: refs(unc).p`) belong to another argument's folder
        if isinstance(value, str) and not key.startswith("_") and ("/" in value or "\\" in value):
            found[key] = Path(value)
        elif isinstance(value, dict) and "_target_" in value:
            found |= paths(value)
        elif key == "parts":  # several data sets as one
            for name, part in value.items():
                found |= {f"{name} {k}": path for k, path in paths(part[options["split"]]).items()}
    return found
