"""Where sources of the user's own are: yaml files of a command line, and what makes Hydra find them.

Any folder is a group of configs for Hydra, whose search path it joins; a file's first line, or its name, says
what its source is called.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ufo import extensions, places
from ufo.command_line import own_folders, searched
from ufo.ops.nearest import beside
from ufo.yaml_files import check_folders, check_yaml

_PACKAGE = re.compile(r"^#\s*@package\s+sources\.(\w+)\s*$", re.MULTILINE)
_FILE = re.compile(r"[\w.-]+", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)


@dataclass
class Place:
    """Where own sources are: options and overrides with which Hydra finds them."""

    options: list[str]
    overrides: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    @property
    def composing(self) -> list[str]:
        """The same for composing without a command line."""
        rest = [o for o in self.overrides if not o.startswith("hydra.searchpath=")]
        return [searched(*self.folders), *rest] if self.folders else rest


def find(files: Sequence[str], options: Sequence[str]) -> Place:
    """The place of some yaml files beside Hydra's own options of the command."""
    check_folders(own_folders(options))
    place = Place(list(options), folders=[folder.absolute() for folder in own_folders(options)])
    given, names, others = len(place.folders), [], []
    for path, key in _keys(files).items():
        folder = path.parent.parent
        if path.parent.name == "source" and _PACKAGE.search(path.read_text(encoding="utf-8-sig")):
            names.append(path.stem)
        else:  # any folder is a group of configs, and the key says where its option goes
            others.append(f"+{path.parent.name}@sources.{key}={path.stem}")
        if folder not in place.folders:
            place.folders.append(folder)
    new = place.folders[given:]
    if len(new) == 1 and not given:
        here = Path.cwd()
        shown = new[0].relative_to(here) if new[0].is_relative_to(here) else new[0]
        place.options += ["--config-dir", str(shown)]
    elif new:
        place.overrides.append(searched(*new))
    if names:
        place.overrides.append(f"+source=[{','.join(names)}]")
    place.overrides += others
    return place


def _keys(files: Sequence[str]) -> dict[Path, str]:
    """The files, each once, and what their sources are called. Raises ValueError."""
    keys: dict[Path, str] = {}
    for file in files:
        path = Path(file).absolute()
        if not path.is_file():
            raise ValueError(
                f"there is no file {file}; give the yaml of a source (`ufo data import` makes one)"
                f"{beside(Path(file))}"
            )
        check_yaml(path)
        key = source_key(path)
        if not _NAME.fullmatch(path.parent.name) or not _FILE.fullmatch(path.stem):
            raise ValueError(
                f"Hydra cannot name '{file}'; put it, with a name of plain letters and digits, into a folder "
                "called source, as mine/source/birds.yaml"
            )
        places.check_read(path, path.parent.parent)
        if other := next((p for p, known in keys.items() if known == key and p != path), None):
            raise ValueError(
                f"{other} and {file} are both the source '{key}'; give one of them another name in its first "
                "line, # @package sources.NAME"
            )
        keys[path] = key
    return keys


def source_key(path: Path) -> str:
    """What a file's source is called: as its first line says (`# @package sources.KEY`), or as the file.

    Raises ValueError where the file describes no source.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content: Any = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text at byte {error.start}; save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no yaml: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not {"task", "dataset"} <= content.keys():
        raise ValueError(
            f"{path} describes no source: it needs `task` and `dataset` (`ufo data import` and "
            "`ufo data new` write such files)"
        )
    beside_it = (option.stem for option in (path.parent.parent / "task").glob("*.yaml"))
    known = sorted({*extensions.options("task"), *beside_it})
    if content["task"] not in known:
        raise ValueError(f"{path}: there is no task {content['task']!r}; there are: {', '.join(known)}")
    found = _PACKAGE.search(text)
    return found[1] if found else re.sub(r"\W+", "_", path.stem)
