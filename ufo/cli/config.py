"""`ufo config`: where a value of the config comes from: who set it, in which file, on which line."""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ufo import places
from ufo.cli import CommandError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ufo.provenance import Key, Setters


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `ufo config`."""
    parser = subparsers.add_parser(
        "config",
        help="show where a value of the config comes from: file and line",
        description="Print a value of the config that train.py would have with the same overrides, and every "
        "file that sets it: the one that counts first. Without KEY the whole config.",
    )
    parser.add_argument("words", nargs="*", metavar="[KEY] [override]", help="optimizer.lr experiment=digits")
    parser.add_argument("--config-dir", type=Path, help="folder of your own with further options")
    parser.add_argument("--evaluate", action="store_true", help="the config of evaluate.py")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print one value with its story, or all values with their places."""
    keys = [word for word in args.words if "=" not in word and not word.startswith("~")]
    if len(keys) > 1:
        raise CommandError(f"one key at a time, not {' and '.join(keys)}; overrides are written key=value")
    overrides = [word for word in args.words if word not in keys]
    if args.config_dir:
        if not args.config_dir.is_dir():
            raise CommandError(f"--config-dir {args.config_dir} is not a folder")
        from ufo.command_line import searched  # slow to import

        overrides.append(searched(args.config_dir))
    cfg, setters = composed("evaluate" if args.evaluate else "train", overrides)
    wanted = tuple(keys[0].split(".")) if keys else ()
    below = [key for key in _leaves(cfg) if key[: len(wanted)] == wanted]
    if wanted and below != [wanted]:
        if not below and not _default(cfg, wanted):
            raise CommandError(_unknown(cfg, keys[0]))
        if not below:
            print("\n".join(_of_default(cfg, wanted)))
            return 0
    lines = _story(cfg, setters, wanted) if below == [wanted] else _table(cfg, setters, below)
    print("\n".join(lines))
    return 0


def composed(name: str, overrides: list[str]) -> tuple[DictConfig, Setters]:
    """The config, and who set what. Raises CommandError where it cannot be composed."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from ufo.command_line import readable, settable
    from ufo.errors import sentence
    from ufo.provenance import trace
    from ufo.yaml_files import UNREADABLE

    try:
        with hydra.initialize_config_dir(str(places.conf()), version_base="1.3"):
            overrides = settable(readable(override, ("resolution",)) for override in overrides)
            whole = hydra.compose(name, overrides, return_hydra_config=True)
            setters = trace(name, overrides, whole.hydra.runtime.config_sources)
    except (HydraException, OmegaConfBaseException, *UNREADABLE) as error:
        raise CommandError(sentence(error)) from error
    return OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"]), setters


def _leaves(cfg: DictConfig, at: Key = ()) -> Iterator[Key]:
    from omegaconf import OmegaConf

    for name in cfg:
        key = (*at, str(name))
        child: Any = cfg._get_node(name)
        if OmegaConf.is_dict(child) and not child._is_none() and not child._is_interpolation() and len(child):
            yield from _leaves(child, key)
        else:
            yield key


def _value(cfg: DictConfig, key: Key) -> str:
    """The resolved value, or what is written where only a job can resolve it, or where it is to be given."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from ufo.provenance import select

    try:
        return _text(select(cfg, key))
    except (OmegaConfBaseException, ValueError, KeyError):
        parent = cfg
        for name in key[:-1]:
            parent = parent[name]
        written: Any = OmegaConf.to_container(parent, resolve=False)
        missing = OmegaConf.is_missing(parent, key[-1])
        return f"{written[key[-1]]} ({'to be given' if missing else 'known when a run starts'})"


def _text(value: Any) -> str:
    """As yaml writes it."""
    from omegaconf import OmegaConf

    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value)


def _story(cfg: DictConfig, setters: Setters, key: Key, depth: int = 0) -> list[str]:
    """A value, who set it, what it replaced, and the same of what it refers to."""
    from ufo.provenance import references

    pad, found = "  " * depth, _setters_of(setters, key)
    lines = [f"{pad}{'.'.join(key)} = {_value(cfg, key)}"]
    for i, setter in enumerate(reversed(found)):
        lines.append(f"{pad}  {'instead of ' if i else ''}{setter.place}: {setter.value}")
    if found and depth < 8:
        try:
            referred = references(key, found[-1].value, cfg)
        except Exception:  # what only a job can resolve has no story
            referred = []
        for other in referred:
            lines += _story(cfg, setters, other, depth + 2)
    if default := _default(cfg, key):
        lines.append(f"{pad}  {'instead of ' if found else ''}{default}")
    return lines


def _setters_of(setters: Setters, key: Key) -> list[Any]:
    """Those of the key itself, or of the nearest node above it that was set as a whole."""
    for length in range(len(key), 0, -1):
        if found := setters.get(key[:length]):
            return found
    return []


def _table(cfg: DictConfig, setters: Setters, keys: list[Key]) -> list[str]:
    """A line for each value: key, value and the place that counts."""
    rows = []
    for key in keys:
        found = _setters_of(setters, key)
        rows.append((f"{'.'.join(key)} = {_value(cfg, key)}", found[-1].place if found else ""))
    width = min(max(len(left) for left, _ in rows), 90)
    return [f"{left:{width}}  {place}".rstrip() for left, place in rows]


def _default(cfg: DictConfig, key: Key) -> str:
    """What the code does without a setting of this key; empty if it is not an argument of any code."""
    from ufo.ops.targets import find_target

    node: Any = cfg
    for name in key[:-1]:
        node = node.get(name) if hasattr(node, "get") and node is not None else None
    target = node.get("_target_") if hasattr(node, "get") else None
    if not target:
        return ""
    try:
        code = find_target(target)
        parameter = inspect.signature(code).parameters.get(key[-1])
    except (ValueError, TypeError):
        return ""
    if parameter is None or parameter.default is parameter.empty:
        return ""
    return f"the default of {target} ({_line_of(code, key[-1])}): {_text(parameter.default)}"


def _line_of(code: Any, name: str) -> str:
    """The file and line where an argument and its default stand."""
    for part in (*getattr(code, "__mro__", (code,)),):
        if is_dataclass(part) and name not in vars(part).get("__annotations__", {}):
            continue  # a variable of its methods may have the same name
        try:
            lines, first = inspect.getsourcelines(part)
        except (OSError, TypeError):
            continue
        for number, line in enumerate(lines, start=first):
            if re.match(rf"\s*(def .*\(.*)?\b{re.escape(name)}\s*[:=]", line):
                path = Path(inspect.getsourcefile(part) or "?")
                here = Path.cwd()
                return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{number}"
    return "its signature"


def _of_default(cfg: DictConfig, key: Key) -> list[str]:
    default = _default(cfg, key)
    return [f"{'.'.join(key)} = {default.rpartition('): ')[2]}", f"  {default}"]


def _unknown(cfg: DictConfig, wanted: str) -> str:
    known = {".".join(key[:length]) for key in _leaves(cfg) for length in range(1, len(key) + 1)}
    near = difflib.get_close_matches(wanted, sorted(known), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "`ufo config` without a key shows all"
    return f"the config has no key '{wanted}'; {hint}"
