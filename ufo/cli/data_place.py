"""Where `ufo data import` and `ufo data new` write: a folder of data, and the yaml of each source beside it.

`mine/birds/` holds the data and `mine/source/birds.yaml` the source, so that `--config-dir mine` finds it.
What these commands wrote themselves they replace; a yaml that was edited since is the user's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ufo
from ufo import extensions
from ufo.cli import CommandError
from ufo.data.labels.sources import SourceFile, source_key
from ufo.files import replace_folder, write_json, write_text

NOTE = "import.json"
"""The file that says what a folder was written from."""
LOST = "left_out"
"""Its key for what could not be imported: how many of each kind, and the first place."""
GENERIC = re.compile(
    r"^(annotations?|labels?|maps|masks|instances?_?\w*|export|result|data|dataset|images?|train|val|valid|test|default|"
    r"project-\d+-at-.*|via_.*|_annotations.*|metadata|task.*)$",
    re.IGNORECASE,
)
"""Names of files and folders that say nothing about the data."""


@dataclass
class Place:
    """The folder of the data and the one of the sources."""

    name: str
    out: Path
    written: list[Path] = field(default_factory=list)  # yamls

    @property
    def config(self) -> Path:
        """The folder for `--config-dir`."""
        return self.out.parent

    def yaml(self, key: str) -> Path:
        """The file of a source."""
        return self.config / "source" / f"{key}.yaml"


def place_for(path: Path, out: Path | None, name: str | None) -> Place:
    """Where data from `path` go: `mine/NAME` unless the user says otherwise. Raises CommandError."""
    if name is not None and name != slug(name):
        raise CommandError(
            f"--name {name}: letters, digits and _ only, and no digit first; take {slug(name)}"
        )
    if name is None:
        name = slug(out.name) if out else _name_of(path)
    out = (out or Path("mine") / name).absolute()
    if out.is_symlink():  # the folder is replaced, not the link to it
        out = out.resolve()
    if out.exists() and not out.is_dir():
        raise CommandError(f"--out {out} is a file; give a folder")
    return Place(name, out)


def slug(text: str) -> str:
    """A text as a name that Hydra takes: letters, digits and _."""
    found = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "data"
    return f"data_{found}" if found[0].isdigit() else found


def _name_of(path: Path) -> str:
    path = path.absolute()
    candidates = [path.stem if path.is_file() else path.name, *(parent.name for parent in path.parents)]
    return slug(next((n for n in candidates if n and not GENERIC.match(n)), candidates[0] or "data"))


@contextmanager
def new_folder(place: Place, data: Sequence[Path], force: bool) -> Iterator[Path]:
    """A scratch folder that takes the place of `place.out` when the block ends well.

    Raises CommandError where that folder lies in the `data` (files and folders of the user), or they in it:
    it is replaced as a whole, with all that is in it.
    """
    out = place.out
    _check_apart(out, data)
    if (others := _others(out)) and not force:
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise CommandError(
            f"{out} has other files; give another --out, or --force to replace the folder: what is in it now "
            f"({named}) is deleted then"
        )
    scratch = out.with_name(f".{out.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        scratch.mkdir(parents=True)
    except OSError as error:
        raise CommandError(
            f"{out} cannot be written ({error.strerror}); give --out another folder"
        ) from error
    try:
        yield scratch
        replace_folder(scratch, out, out.with_name(f".{out.name}.{uuid.uuid4().hex[:12]}.old"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _others(out: Path) -> list[str]:
    """What is in a folder that these commands have not written; hidden files (an index) are not counted."""
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if NOTE in there:
        known = _note(out).get("files")
        there -= {NOTE, *(known if isinstance(known, list) else there)}  # older notes list no files
    return sorted(name for name in there if not name.startswith("."))


def _check_apart(out: Path, data: Sequence[Path]) -> None:
    """CommandError unless `out` can be replaced without touching the data or the folder one stands in."""
    inner = out.resolve()
    for path in data:
        outer = path.resolve()
        if inner == outer or outer in inner.parents:
            raise CommandError(
                f"{out} lies inside of the data themselves ({path}), which stay as they are; give --out "
                "FOLDER outside of them, for example --out ~/mine/NAME"
            )
        if inner in outer.parents:
            raise CommandError(
                f"{out} holds the data themselves ({path}), and --out is replaced as a whole; give --out "
                f"FOLDER that has nothing else in it, for example --out {short(out / 'mine' / 'NAME')}"
            )
    here = Path.cwd().resolve()
    if inner == here or inner in here.parents:
        raise CommandError(
            f"{out} is the folder that you are in, and --out is replaced as a whole; give --out a folder "
            "below it, or go elsewhere first"
        )


def source_texts(place: Place, sources: Sequence[SourceFile], images: Path, about: str) -> dict[Path, str]:
    """The yamls of some sources, the first one being the main one."""
    found = {}
    for number, source in enumerate(sources):
        key = source_key(place.name, source.task, main=not number)
        if key in extensions.options("source"):  # Hydra would read this one
            key = f"own_{key}"
        found[place.yaml(key)] = source.text(key, place.name, images, place.out, about)
    return found


def check_free(texts: dict[Path, str], place: Place, force: bool) -> None:
    """CommandError if a yaml is there that was not written by these commands, or was edited since."""
    sources = _note(place.out).get("sources")
    known = sources if isinstance(sources, dict) else {}
    for path, text in texts.items():
        if force or not path.is_file():
            continue
        there = path.read_text(encoding="utf-8")
        if there != text and _digest(there) != known.get(path.name):
            raise CommandError(
                f"{path} is another source or was edited; give another --name, or --force to replace it"
            )


def write_sources(texts: dict[Path, str]) -> None:
    """Write the yamls."""
    for path, text in texts.items():
        write_text(path, text)


def note(scratch: Path, texts: dict[Path, str], **about: Any) -> None:
    """Write what a folder was made from, and the yamls that belong to it."""
    digests = {path.name: _digest(text) for path, text in texts.items()}
    written = {"files": sorted(path.name for path in scratch.iterdir()), "sources": digests}
    write_json(scratch / NOTE, {"ufo": ufo.__version__, **about, **written}, indent=1)


def lost_at_import(files: Iterable[Path]) -> Iterator[str]:
    """What the import that wrote some of the files could not take, a line for each kind, from its note."""
    for folder in dict.fromkeys(file.parent for file in files):
        lost = _note(folder).get(LOST)
        for kind, found in lost.items() if isinstance(lost, dict) else ():
            if isinstance(found, list) and len(found) == 2 and isinstance(found[0], int):
                yield f"left out when it was imported: {found[0]:,}x {kind} (first: {found[1]})"


def check_sources(paths: Sequence[Path], args: argparse.Namespace) -> int:
    """`ufo data check` of every source, at once; 1 if one of them is not usable."""
    from ufo.cli.data_check import run

    code = 0
    for path in paths:
        print(f"\ncheck of {short(path)}")
        options = {"name": str(path), "root": args.root, "overrides": [], "decode": "200", "strict": False}
        options["imports"] = False  # what was left out has just been said
        code |= run(argparse.Namespace(**options))
    return code


def say_next(place: Place, paths: Sequence[Path]) -> None:
    """The commands that come next."""
    words = [shlex.quote(short(path)) for path in paths]
    print(f"\nnext:\n  ufo data show {words[0]} -n 16\n  ufo train {' '.join(words)} name={place.name}")


def short(path: Path) -> str:
    """A path below the working folder without it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _note(out: Path) -> dict[str, Any]:
    """What an earlier command has noted; empty if there is nothing readable."""
    try:
        return dict(json.loads((out / NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
