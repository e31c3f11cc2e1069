"""`ufo dashboard`: the project's Weights & Biases workspace, created online or written as JSON."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ufo.cli import CommandError
from ufo.files import write_text


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "dashboard",
        help="make the W&B workspace that shows the runs",
        description="Creates the project's workspace with --entity and an account, else writes its JSON.",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=["experiment=digits"],
        metavar="KEY=VALUE",
        help="the config whose sources are shown, as for train.py (default: experiment=digits)",
    )
    parser.add_argument("--project", default="ufo", help="of W&B (default: ufo)")
    parser.add_argument("--entity", help="user or team of W&B; without it nothing is sent")
    parser.add_argument("--name", default="UFO", help="of the workspace (default: UFO)")
    parser.add_argument("--out", type=Path, default=Path("runs/dashboard.json"), help="file for the JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Create the workspace or write it; the exit code."""
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise CommandError("the dashboard needs wandb-workspaces: pip install -e '.[dashboard]'") from error
    from ufo.dashboard import as_json, workspace

    shown = sources_and_metrics(args.overrides)
    built = workspace(args.entity or "entity", args.project, args.name, *shown)
    if args.entity and os.environ.get("WANDB_MODE", "online") == "online":
        print(f"workspace: {built.save().url}")
        return 0
    write_text(args.out, as_json(built) + "\n")
    print(f"{args.out}: not sent; --entity NAME creates the workspace in an account")
    return 0


def sources_and_metrics(overrides: list[str]) -> tuple[dict[str, str], list[Any]]:
    """`{name: task}` of the sources of a composed config, and its metrics."""
    from ufo.build import metric_callbacks
    from ufo.checkpoints.recipes import compose

    cfg = compose(overrides)
    return {source.name: source.task for source in cfg.sources.values() if source}, metric_callbacks(cfg)
