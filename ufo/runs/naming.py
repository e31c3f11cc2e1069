"""What a run is called when nobody names it: by what it trains, so that other data get another folder.

`${run_name:}` in conf/train.yaml. The mixture and the backbone; for sources of the user's own (`+source=...`)
their names, and where sources of a mixture are left out, the names of those that stay.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ufo.command_line import as_written

OWN = "own"  # the mixture without sources
LONGEST = 100  # characters; file systems take 255 bytes
RESOLVER = "run_name"
WHOLE, PART = "evaluate", "evaluate_part"  # folders of a run's evaluation


def run_name(mixture: str, backbone: str, sources: Mapping[str, Any], own: Iterable[str] = ()) -> str:
    """A folder's name.

    Args:
        mixture, backbone: the options of these groups.
        sources: those of the config, by key; None or a `weight` of 0 leaves a source out.
        own: the options of `+source=`.
    """
    own = list(own)
    trained = [key for key, source in sources.items() if source and _weight(source) > 0]
    parts = [] if mixture == OWN else [mixture]
    if len(trained) < len(sources):
        parts += [key for key in trained if key not in own]
    parts += [name for name in own if name in trained or name not in sources]
    if not parts:
        parts = trained or [mixture]
    name = re.sub(r"[^\w.+-]+", "-", "_".join(map(str, [*parts, backbone])))
    if len(name) > LONGEST:
        name = f"{name[: LONGEST - 9]}_{hashlib.sha1(name.encode()).hexdigest()[:8]}"
    return name


def check_name(name: Any) -> None:
    """Raises ValueError for a name whose folder would be that of all runs, or outside it."""
    parts = [part for part in str("" if name is None else name).split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise ValueError(
            f"name={'' if name is None else name} is no name of a run, whose folder lies in paths.runs; "
            "write a name without '..', as name=first, and choose paths.runs to write elsewhere"
        )


def evaluation_folder(trainer: Mapping[str, Any]) -> str:
    """Where an evaluation writes in the folder of its run: one of some batches replaces none of all data."""
    return WHOLE if part_of(trainer) is None else PART


def part_of(trainer: Mapping[str, Any]) -> str | None:
    """The setting, `key=value`, that lets a trainer validate on some batches only; None: on all."""
    for name in ("fast_dev_run", "overfit_batches"):  # the latter takes as many of a validation
        if trainer.get(name):
            return f"trainer.{name}={trainer[name]}"
    limit = trainer.get("limit_val_batches")
    whole = limit is None or (isinstance(limit, float) and limit >= 1)  # 1 is a batch, 1.0 is all
    return None if whole else f"trainer.limit_val_batches={limit}"


def own_sources(overrides: Iterable[str]) -> list[str]:
    """The options that the overrides of a command line choose in the group `source`."""
    found = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+").partition("@")[0] == "source":
            found += [part.strip(" '\"") for part in value.strip("[] ").split(",")]
    return [name.rpartition("/")[2] for name in found if name not in ("", "null")]


def register() -> None:
    """Make `${run_name:}` and `${evaluation_folder:}` known to OmegaConf."""
    OmegaConf.register_new_resolver(RESOLVER, _resolve, replace=True)
    OmegaConf.register_new_resolver("evaluation_folder", _evaluation_folder, replace=True)


def _resolve(*, _root_: DictConfig) -> str:
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    choices = hydra.runtime.choices
    own = own_sources(as_written(hydra.overrides.task))
    return run_name(str(choices["mixture"]), str(choices["backbone"]), _root_.get("sources") or {}, own)


def _evaluation_folder(*, _root_: DictConfig) -> str:
    return evaluation_folder(_root_.get("trainer") or {})


def _weight(source: Mapping[str, Any]) -> float:
    try:
        return float(source.get("weight", 1.0))
    except (TypeError, ValueError):  # checked elsewhere, with a sentence
        return 1.0
