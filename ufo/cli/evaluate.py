"""`ufo evaluate`: evaluate.py, installed; all arguments are Hydra's (`ufo evaluate ckpt=runs/digits`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ufo.cli import hand_over


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the command, for the help alone."""
    commands.add_parser(
        "evaluate",
        help="score a checkpoint: evaluate.py, from any folder",
        description="Evaluates as evaluate.py does; every argument is an override of the config or an option "
        "of Hydra (--hydra-help shows those).",
        epilog="ufo evaluate ckpt=runs/digits",
        usage="ufo evaluate ckpt=PATH [KEY=VALUE ...] [options of Hydra]",
    )


def run(arguments: Sequence[str]) -> int:
    """Evaluate; errors end the process with their exit code."""
    from ufo.entry import evaluate

    hand_over(evaluate.__file__, arguments)
    evaluate.evaluate()
    return 0
