"""Who set a value of the config: every yaml that sets it, with its line, in the order of their merging.

Hydra knows which files it merges and where it puts each (its defaults list); the lines come from the yaml
parser. The command line comes last. A key is a tuple of names, because metrics' names have dots.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

Key = tuple[str, ...]
COMMAND_LINE = "command line"
_REFERENCE = re.compile(r"\$\{([^${}:]*)\}")


@dataclass(frozen=True)
class Setter:
    """One place that sets a value: `option` is the file's name in `conf/`, "" for the command line."""

    option: str
    file: Path | None
    line: int
    value: str  # as it is written there

    @property
    def place(self) -> str:
        """The file, from the working directory if it is below it, and the line."""
        if self.file is None:
            return COMMAND_LINE
        here = Path.cwd()
        path = self.file.relative_to(here) if self.file.is_relative_to(here) else self.file
        return f"{path}:{self.line}"


Setters = dict[Key, list[Setter]]


def trace(config_name: str, overrides: Sequence[str], sources: Sequence[Any]) -> Setters:
    """All that set something, by key; the last of a key wins.

    Call it where Hydra is initialised (in a job, or beside `hydra.compose`); `sources` is the composed
    `hydra.runtime.config_sources`, which says in which folders the files are.
    """
    loader = GlobalHydra.instance().config_loader()
    found = loader.compute_defaults_list(config_name, list(overrides), RunMode.RUN)
    folders = [Path(unquote(s["path"])) for s in sources if s["schema"] == "file"]
    setters: Setters = {}
    for default in found.defaults:
        option = str(default.config_path)
        file = next((f for folder in folders if (f := folder / f"{option}.yaml").is_file()), None)
        if file is None or (option + "/").startswith("hydra/"):
            continue
        package = () if default.package in (None, "", "_global_") else tuple(default.package.split("."))
        for key, line, value in _leaves(file):
            setters.setdefault(package + key, []).append(Setter(option, file, line, value))
    for override in found.config_overrides:
        for key, value in _values(tuple(override.key_or_group.split(".")), override):
            setters.setdefault(key, []).append(Setter("", None, 0, value))
    return setters


def _values(key: Key, override: Override) -> Iterator[tuple[Key, str]]:
    """What an override sets; `tasks.detection={num_beams: 3}` sets what is inside."""
    value = None if override.is_delete() else override.value()
    if isinstance(value, dict) and value:
        yield from (((*key, str(name)), str(child)) for name, child in value.items())
    else:
        yield key, _written(override)


def _written(override: Override) -> str:
    return "(deleted)" if override.is_delete() else override.get_value_element_as_str()


def _leaves(file: Path) -> Iterator[tuple[Key, int, str]]:
    """Every value of a yaml file: key, line and text."""
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, yaml.MappingNode):
        root.value = [(name, value) for name, value in root.value if name.value != "defaults"]
        yield from _below(root, (), text)


def _below(node: yaml.MappingNode, at: Key, text: str) -> Iterator[tuple[Key, int, str]]:
    for name, value in node.value:
        key = (*at, str(name.value))
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _below(value, key, text)
        else:
            written = text[value.start_mark.index : value.end_mark.index]
            yield key, name.start_mark.line + 1, " ".join(written.split())


def references(key: Key, written: str, cfg: DictConfig) -> list[Key]:
    """The keys that a text refers to with `${...}`, those inside of others first."""
    found: list[Key] = []
    while match := _REFERENCE.search(written):
        name = match[1].strip()
        dots = len(name) - len(name.lstrip("."))
        target = (*(key[: len(key) - dots] if dots else ()), *name.lstrip(".").split("."))
        found.append(target)
        written = written.replace(match[0], str(select(cfg, target)), 1)
    return found


def select(cfg: DictConfig, key: Key) -> Any:
    """The resolved value at a key; raises KeyError where there is none."""
    node: Any = cfg
    for name in key:
        if not OmegaConf.is_dict(node) or name not in node:
            raise KeyError(".".join(key))
        node = node[name]
    return node


def settings_of(setters: Setters, group: str, *options: str) -> dict[str, Setter]:
    """What options of some kinds ("experiment"; "": the command line) set below `group`.NAME, by key."""
    return {
        ".".join(key): found[-1]
        for key, found in setters.items()
        if key[0] == group and len(key) > 2 and found[-1].option.partition("/")[0] in options
    }
