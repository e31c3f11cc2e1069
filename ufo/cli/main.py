"""The command line `ufo`: finds its commands in this folder, says expected errors in one sentence.

A command is a module here with `add_parser(subparsers)`, which registers a parser and sets its
default `run`, and `run(args) -> int | None`, the exit code. All modules of this folder are imported
to show the help: what is slow to import (torch) belongs inside their functions.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import io
import logging
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import ufo
import ufo.cli
from ufo.cli import CommandError
from ufo.data.errors import DataError
from ufo.extensions import ExtensionError
from ufo.ops.nearest import instead

TRACEBACK = "UFO_TRACEBACK"
FOLDER = "--config-dir"
PASSED_ON = ("train", "evaluate")
"""Commands whose arguments are Hydra's: their `run` takes the words as they are."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 1 for an expected error, 2 for wrong arguments."""
    argv = _folders_last(list(sys.argv[1:] if argv is None else argv))
    run = _passed_on(argv)
    if run is None:
        parser = build_parser()
        args = parse(parser, argv)
        if args.command is None:
            parser.print_help()
            return 2
        run = functools.partial(args.run, args)
        _set_up_output()
    try:
        code = run() or 0
        sys.stdout.flush()  # at exit, a closed pipe could not be caught any more
        return code
    except BrokenPipeError:  # `ufo ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get(TRACEBACK) or not _is_expected(error):
            raise
        print(f"error: {' '.join(_message(error).split())}", file=sys.stderr)
        return 1


def _folders_last(argv: list[str]) -> list[str]:
    """The words with `--config-dir FOLDER` at their end: it may stand before the command, too."""
    words: list[str] = []
    folders: list[str] = []
    for before, word in zip(["", *argv], argv, strict=False):
        is_folder = before == FOLDER or word == FOLDER or word.startswith(f"{FOLDER}=")
        (folders if is_folder else words).append(word)
    return [*words, *folders]


def _passed_on(argv: Sequence[str]) -> Callable[[], int | None] | None:
    """The command whose arguments are for another parser (Hydra's); None for any other command."""
    if not argv or argv[0] not in PASSED_ON or (len(argv) == 2 and argv[1] in ("-h", "--help")):
        return None
    return functools.partial(importlib.import_module(f"{ufo.cli.__name__}.{argv[0]}").run, argv[1:])


class Parser(argparse.ArgumentParser):
    """A parser that names the nearest command, option or choice for one that is not there."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, which says first what is missing, as the option whose name is misspelt."""
        inside = next((a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction)), ())
        for word in args or ():
            if word == "--" or word in inside:  # what follows is for that command
                break
            name = word.partition("=")[0]
            known = self._option_string_actions
            # the beginning of an option stands for it, and -n3 is one with its value
            is_known = any(option.startswith(name) for option in known) or name[:2] in known
            if re.fullmatch(r"--?[A-Za-z][\w-]*", name) and not is_known:
                self.error(f"there is no option {name}; {instead(name, known, 'there are')}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            named = [str(choice) for choice in action.choices]
            what = "command" if isinstance(action, argparse._SubParsersAction) else "choice"
            hint = instead(str(value), named, "there are")
            raise argparse.ArgumentError(None, f"there is no {what} '{value}'; {hint}")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; overrides of the config may stand between options and behind them."""
    args, rest = parser.parse_known_args(argv)
    strange = [word for word in rest if word.startswith("-")]
    if strange or (rest and not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command of this folder."""
    parser = Parser(
        prog="ufo",
        description="UFO: one model that detects, segments, captions and grounds through language.",
        epilog=f"{TRACEBACK}=1 shows where in the code an error comes from.",
    )
    parser.add_argument("--version", action="version", version=f"ufo {ufo.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for found in pkgutil.iter_modules(ufo.cli.__path__):
        if found.name == "main" or found.name.startswith("data_"):  # parts of `data`
            continue
        module = importlib.import_module(f"{ufo.cli.__name__}.{found.name}")
        if hasattr(module, "add_parser"):
            module.add_parser(commands)
    return parser


def _is_expected(error: Exception) -> bool:
    """Whether the message alone tells the user what to do; anything else is a bug of the code."""
    if isinstance(error, (CommandError, DataError, ExtensionError, OSError)):
        return True
    # the module is only there if a command has read a checkpoint, which imports torch
    errors = sys.modules.get("ufo.checkpoints.errors")
    return errors is not None and isinstance(error, errors.CheckpointError)


def _message(error: Exception) -> str:
    """What an expected error says; of the system's errors the file and the reason, without numbers."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename} cannot be read or written: {error.strerror}"
    return str(error)


def _set_up_output() -> None:
    """The project's log goes to stderr, a line per message; odd file names never stop printing."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("ufo").setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):  # else replaced by something that is not a text file
        sys.stdout.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
