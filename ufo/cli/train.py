"""`ufo train`: train.py, installed; all arguments are Hydra's (`ufo train experiment=digits seed=1`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ufo.cli import CommandError, hand_over


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the command, for the help alone."""
    commands.add_parser(
        "train",
        help="train a model: train.py, from any folder",
        description="Trains as train.py does; every argument is an override of the config or an option of "
        "Hydra (--hydra-help shows those). Runs go to ./runs, data to ./data: choose with paths.runs= and "
        "paths.data=.",
        epilog="ufo train experiment=digits trainer.max_steps=200 name=short",
        usage="ufo train [KEY=VALUE ...] [options of Hydra]",
    )


def run(arguments: Sequence[str]) -> int:
    """Train; errors end the process with their exit code."""
    if not arguments:
        raise CommandError(
            "say what to train: an own source, as `ufo train mine/source/birds.yaml`, or an experiment, "
            "as `ufo train experiment=digits`"
        )
    from ufo.entry import train

    hand_over(train.__file__, arguments)
    train.train()
    return 0
