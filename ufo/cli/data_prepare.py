"""`ufo data prepare`: convert a download into what its config reads, then index its annotations."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ufo.cli import CommandError
from ufo.cli.data_find import Found, find
from ufo.cli.data_list import paths, where
from ufo.data.index import SMALL, size_text
from ufo.data.prepare import preparations
from ufo.errors import sentence


def run(args: argparse.Namespace) -> int:
    """Run the conversions that the data set's `info` names, and open its splits once."""
    names = preparations()
    found = None if args.name in names else find(args.name, args.root, getattr(args, "overrides", ()))
    chosen = [args.name] if found is None else _conversions(found)
    if found is None and args.name in _datasets():
        found = find(args.name, args.root, getattr(args, "overrides", ()))
    workers = args.workers or os.cpu_count() or 1
    for name in chosen:
        if name not in names:
            raise CommandError(f"there is no conversion '{name}'; there are: {', '.join(names)}")
        print(f"{name}: {names[name].about}")
        names[name].run(_root(args.root), args.out, workers)
    if found is None:
        return 0
    return _index(found, bool(chosen))


def _index(found: Found, converted: bool) -> int:
    """Open every split whose files are here, which writes the index of a large one."""
    code = 0
    for split, options in found.splits.items():
        missing = [path for path in paths(options).values() if not path.exists()]
        if missing:
            print(f"{split}: not here, {missing[0]} is missing")
            continue
        large = [path for path in paths(options).values() if path.is_file() and path.stat().st_size >= SMALL]
        try:
            data = found.build(split)
        except Exception as error:
            print(f"{split}: {sentence(error)}")
            code = 1
            continue
        about = f", index of {size_text(large[0].stat().st_size)} is on disk" if large else ""
        print(f"{split}: {len(data):,} samples{about}")
    if where(found)[0] == "-":
        origin = f" It comes from {found.info['url']}." if found.info.get("url") else ""
        raise CommandError(
            f"{found.name} is not here.{origin} `ufo data check {found.name}` lists its files."
        )
    if not converted and not code:
        print("nothing to convert: the files are read as they are")
    return code


def _conversions(found: Found) -> list[str]:
    """The conversions of a data set, in order."""
    named = found.info.get("prepare") or []
    return [named] if isinstance(named, str) else list(named)


def _datasets() -> list[str]:
    from ufo.cli.data_find import dataset_names

    return dataset_names()


def _root(root: Path | None) -> Path:
    """The folder of all data sets."""
    from ufo.cli.data_find import mixture_config

    return Path(mixture_config([], root).paths.data)
