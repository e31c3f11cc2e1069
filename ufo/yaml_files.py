"""Yaml files of users, looked at before anything expands them: a few lines of aliases can spell gigabytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

MAX_NODES = 100_000
"""So many values may a file have, with its aliases written out."""

UNREADABLE = (yaml.YAMLError, RecursionError, ValueError)
"""What Hydra passes on of a file that is no yaml: nested too deeply, not UTF-8, with endless numbers."""


def check_yaml(path: Path) -> None:
    """Raises ValueError for a yaml whose aliases spell more than `MAX_NODES` values, or contain themselves.

    What is wrong with it otherwise is left to those who read it.
    """
    try:
        content = path.read_bytes() if path.is_file() else b""
        if b"*" not in content or b"&" not in content:
            return
        root = yaml.compose(content.decode("utf-8", "replace"), Loader=yaml.SafeLoader)
        size = 0 if root is None else _size(root, {})
    except (yaml.YAMLError, OSError):
        return
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be a config") from error
    if size > MAX_NODES:
        raise ValueError(
            f"{path}: its aliases (*name) spell more than {MAX_NODES} values; write out what they mean"
        )


def texts_of_yaml(text: str) -> Any:
    """The values of a yaml file of others with every scalar as it is spelled: `no`, `null`, `03` are words.

    Raises yaml.YAMLError or RecursionError.
    """
    return yaml.load(text, Loader=yaml.BaseLoader)  # the loader that makes lists, dicts and texts only


def check_folders(folders: Iterable[Path]) -> None:
    """`check_yaml` for all yaml files below the folders of `--config-dir`; ValueError if one is none."""
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"--config-dir {folder} is not a folder")
        for path in sorted(folder.rglob("*.yaml")):
            check_yaml(path)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node has when its aliases are written out; a node in itself has no end."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MAX_NODES + 1  # until it is known: what holds itself is endless
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = list(node.value)
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]
