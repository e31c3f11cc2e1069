"""What `evaluate.py ckpt=runs/X` scores: the data that X was trained for, unless the command names others.

The data's part of X's `config.yaml`, and the metrics that scored it, become a mixture of its own, so that
`sources.<name>...=` changes it as any other. A config file is foreign text: it is small, its aliases spell
little, and it names nothing but data sets and metrics of this project and of its extensions.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from ufo import extensions
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.hub_models import fetch_model, hub_name
from ufo.checkpoints.read import place_of
from ufo.command_line import as_written, quoted
from ufo.ops.targets import find_target
from ufo.runs.naming import LONGEST
from ufo.yaml_files import check_yaml

MIXTURE = "of_the_run"
TELLS = ("experiment", "mixture", "source", "sweep")  # groups that say what to score
PARTS = ("sources", "tasks", "prepare", "resolution", "expected", "released", "callbacks")
LARGEST = 4 << 20  # bytes
METRICS = "ufo.metrics."
OURS = ("ufo.data.", "ufo.tasks.", METRICS)
ADD = "add experiment=..., mixture=... or +source=... to say what it is to be scored on"

_WRITTEN = re.compile(r"[,\\]|\$\{|^\?+$|^\w+\(")  # several values, a quote in quotes, a reference, none


def run_of(ckpt: str | Path) -> Path | None:
    """The folder of the run that a checkpoint is in: itself, or above `model/` or `checkpoints/`."""
    path = Path(ckpt)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "config.yaml").is_file() and (folder == path or _is_part(path, folder)):
            return folder
    return None


def _is_part(path: Path, folder: Path) -> bool:
    return path.relative_to(folder).parts[0] in ("model", "checkpoints")


@contextmanager
def of_the_run() -> Iterator[None]:
    """Around the call of a `hydra.main`: `ckpt=` alone on the command line brings the data of its run.

    With other data, or in no run, it is named in the folder of its results.
    """
    before = list(sys.argv)
    ckpt = _given(before[1:]).get("ckpt")
    try:
        sys.argv[1:] = [*further(ckpt, before[1:]), *_named(ckpt, before[1:]), *before[1:]]
    except CheckpointError as error:
        print(f"error: {error}; {ADD}", file=sys.stderr)
        sys.exit(1)
    try:
        yield
    finally:
        sys.argv[:] = before


def check_there(arguments: Sequence[str]) -> None:
    """Raises CheckpointError where there is nothing at the `ckpt=` of a command line, also on the hub.

    Asked before Hydra makes the folder of the results, which may be the very folder that is not there.
    """
    ckpt = _given(arguments).get("ckpt")
    if not ckpt or (_WRITTEN.search(ckpt) and not Path(ckpt).exists()):
        return
    if name := hub_name(ckpt):
        fetch_model(name)
    else:
        place_of(ckpt)


def further(ckpt: str | Path | None, overrides: Sequence[str]) -> list[str]:
    """Overrides that bring the data that a checkpoint's run was trained for, unless `overrides` name others.

    Raises CheckpointError where the run's config is of no use.
    """
    given = _given(overrides)
    run = run_of(ckpt) if ckpt else None
    if run is None or told(overrides):
        return []
    config = read_config(run)
    store(config, given)
    return _further(config, run, given)


def told(overrides: Sequence[str]) -> list[str]:
    """The groups among some overrides that say what to score."""
    given = _given(overrides)
    return [group for group in TELLS if group in given and given[group] != MIXTURE]


def _given(arguments: Sequence[str]) -> dict[str, str]:
    """The overrides of a command line by their keys, without signs and packages."""
    pairs = (a.partition("=") for a in arguments if "=" in a and not a.startswith("-"))
    return {key.lstrip("+").partition("@")[0]: _unquoted(value) for key, _, value in pairs}


def _unquoted(value: str) -> str:
    """A value without the quotes around it; one at its end alone is part of a path."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _further(config: dict[str, Any], run: Path, given: dict[str, str]) -> list[str]:
    """Overrides that make an evaluation that of the run, where the command line does not say otherwise."""
    wanted = {"mixture": MIXTURE, "name": run.resolve().name}
    precision = (config.get("trainer") or {}).get("precision")
    if precision in ("auto", "32-true", "bf16-mixed"):
        wanted["trainer.precision"] = precision
    return [f"{key}={quoted(value)}" for key, value in wanted.items() if key not in given]


def _named(ckpt: str | None, overrides: Sequence[str]) -> list[str]:
    """The name of an evaluation that is not of a run on its own data: what is scored, and on what.

    The experiment's name would put the results into the folder of another training, that of the experiment.
    """
    given = _given(overrides)
    if not ckpt or "name" in given or ("," in ckpt and not Path(ckpt).exists()):  # a sweep
        return []
    run, scored = run_of(ckpt), [given[group].strip("[] ") for group in told(overrides) if group != "sweep"]
    called = run.resolve().name if run else _called(ckpt)
    if run and called in (scored or [called]):
        return []
    name = re.sub(r"[^\w.+-]+", "-", "_on_".join([called, *scored[:1]])).strip("-")
    return [f"name={quoted(name[:LONGEST])}"]


def _called(ckpt: str) -> str:
    """A checkpoint's name: of a folder its own, of a file and of `model/` with the folder around it."""
    if hub_name(ckpt):
        return ckpt
    path = Path(ckpt).absolute()
    if path.is_file():
        return f"{path.parent.name}_{path.stem}"
    return f"{path.parent.name}_{path.name}" if path.name in ("model", "checkpoints") else path.name


def store(config: dict[str, Any], given: dict[str, str]) -> None:
    """Make the data's part of a run's config the mixture `of_the_run`."""
    node = {key: config[key] for key in PARTS if config.get(key) is not None}
    sizes = node.get("resolution") or {}
    for name, task in (node.get("tasks") or {}).items():
        if task and task.get("image_size") == sizes.get(name):
            task["image_size"] = f"${{resolution.{name}}}"
    if "resolution" in given:
        node.pop("resolution", None)
    ConfigStore.instance().store(group="mixture", name=MIXTURE, package="_global_", node=node)


def check_told(cfg: DictConfig) -> None:
    """Raises ValueError where neither the checkpoint nor the command line says what to score it on."""
    from hydra.core.hydra_config import HydraConfig

    given = _given(as_written(HydraConfig.get().overrides.task))
    if not any(group in given for group in TELLS):
        raise ValueError(
            f"nothing says what '{cfg.ckpt}' was trained for, as it is in no run's folder; {ADD}"
        )


# ---------------------------------------------------------------- a config that may be foreign


def read_config(run: Path) -> dict[str, Any]:
    """The `config.yaml` of a run, as far as it is about data. Raises CheckpointError if it is of no use."""
    path = run / "config.yaml"
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"'{path}' is not a config of a run: it is larger than {LARGEST >> 20} MB")
        check_yaml(path)
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise CheckpointError(f"'{path}' cannot be read ({line})") from error
    sources = config.get("sources") if isinstance(config, dict) else None
    if not isinstance(sources, dict) or not any(sources.values()):
        raise CheckpointError(f"'{path}' names no source")
    found = {key: config.get(key) for key in (*PARTS, "trainer")}
    found["callbacks"] = _metrics(config.get("callbacks"))
    _check_targets({key: found[key] for key in PARTS})
    return _from_its_folder(found, _folder(run))


def _metrics(callbacks: Any) -> dict[str, Any]:
    """Those of a config's callbacks that are metrics of this project or of an extension."""
    entries = callbacks.items() if isinstance(callbacks, dict) else ()
    found = {}
    for name, callback in entries:
        target = str(callback.get("_target_")) if isinstance(callback, dict) else ""
        if target.startswith(METRICS) or (extensions.owns(target) and _is_metric(target)):
            found[name] = callback
        elif target.partition(".")[0] not in ("", "ufo", "lightning") and not extensions.owns(target):
            print(
                f"warning: the run's callback '{name}' is left out, a metric or not, as "
                f"{extensions.VARIABLE} does not name the package of {target[:80]}",
                file=sys.stderr,
            )
    return found


def _is_metric(target: str) -> bool:
    """Whether a class of an extension is a metric; any other callback is for training."""
    try:
        found = find_target(target)
    except ValueError:
        return False
    return any(cls.__module__.startswith(METRICS) for cls in getattr(found, "__mro__", ()))


def _check_targets(value: Any) -> None:
    """Raises CheckpointError for code of neither this project's data sets nor an extension.

    And for interpolations.
    """
    if isinstance(value, str) and "${" in value:
        raise CheckpointError(f"a run's config has no interpolation, this one has {value[:60]}")
    for child in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        _check_targets(child)
    if not isinstance(value, dict) or "_target_" not in value:
        return
    target = str(value["_target_"])
    try:
        known = _is_known(target) and _is_known(str(getattr(find_target(target), "__module__", "")))
    except Exception:  # there is no such thing
        known = False
    if not known:
        raise CheckpointError(
            f"its config names {target[:80]}, which is neither a data set nor a metric of this project or "
            f"of a package that {extensions.VARIABLE} names"
        )


def _is_known(name: str) -> bool:
    return name.startswith(OURS) or extensions.owns(name)


def _folder(run: Path) -> str:
    """Where the run was started: its relative paths start there."""
    try:
        return str(json.loads((run / "run.json").read_bytes()).get("folder", ""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def _from_its_folder(value: Any, folder: str) -> Any:
    """Relative paths that exist only from `folder` on become absolute."""
    if isinstance(value, dict):
        return {key: _from_its_folder(child, folder) for key, child in value.items()}
    if isinstance(value, list):
        return [_from_its_folder(child, folder) for child in value]
    if isinstance(value, str) and os.sep in value and folder and not os.path.isabs(value):
        there = os.path.join(folder, value)
        return there if os.path.exists(there) and not os.path.exists(value) else value
    return value
