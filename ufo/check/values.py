"""Numbers of a config that no run could use, said before anything is built: `optimizer.lr=nan`, `devices=99`.

The config is composed of text: a number may be one of another kind, out of range, or no number at all.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ufo.check.trainer import check_devices, check_trainer
from ufo.checkpoints import bounds
from ufo.errors import instead


@dataclass(frozen=True)
class Number:
    """What a number may be."""

    least: float | None = None
    above: float | None = None
    below: float | None = None
    whole: bool = False
    none: bool = False  # null is allowed

    def allows(self, value: Any) -> bool:
        """Whether a value is such a number."""
        if value is None:
            return self.none
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        limit = f" of at least {self.least}" if self.least is not None else ""
        limit += f" above {self.above}" if self.above is not None else ""
        limit += f" below {self.below}" if self.below is not None else ""
        return f"a {'whole ' if self.whole else ''}number{limit}{' or null' if self.none else ''}"


LARGEST = 1e30
"""Optimizers divide such numbers by small ones, and in float32 nothing is larger than 3.4e38."""
COUNT, INDEX, SHARE = Number(least=1, whole=True), Number(least=0, whole=True), Number(least=0)
NUMBERS = {
    "seed": INDEX,
    "num_workers": INDEX,
    "mask_points": INDEX,
    "mixing_temperature": Number(above=0, none=True),
    "loss_weights.*": SHARE,
    "optimizer.lr": Number(above=0, below=LARGEST),
    "optimizer.weight_decay": Number(least=0, below=LARGEST),
    "schedule.warmup_steps": INDEX,
    "schedule.warmup_start": SHARE,
    "schedule.min_lr": SHARE,
    "sources.*.weight": SHARE,
    "sources.*.batch_size": COUNT,
    "sources.*.val_batch_size": Number(least=1, whole=True, none=True),
    "sources.*.absent": Number(least=0, below=1),
    "sources.*.max_samples": Number(least=1, whole=True, none=True),
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.gradient_clip_val": Number(least=0, none=True),
    "trainer.log_every_n_steps": COUNT,
    "trainer.max_steps": Number(least=-1, whole=True),
    "trainer.max_epochs": Number(least=-1, whole=True, none=True),
    "trainer.min_epochs": Number(least=0, whole=True, none=True),
    "trainer.min_steps": Number(least=0, whole=True, none=True),
    "trainer.num_nodes": COUNT,
    "trainer.num_sanity_val_steps": Number(least=-1, whole=True, none=True),
    "trainer.reload_dataloaders_every_n_epochs": INDEX,
    "callbacks.checkpoint.every_n_train_steps": COUNT,
}
SWITCHES = ("compile", "deterministic", "strict_init", "triton_attention")


def check_values(cfg: DictConfig) -> None:
    """Raises ValueError for the first value that no run can use, OmegaConf's error for a wrong reference."""
    written: Any = OmegaConf.to_container(cfg, resolve=False)
    check_numbers(written)  # first, as references compute with some of them
    check_trainer(written["trainer"])
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    check_numbers(plain)
    check_trainer(plain["trainer"])
    for name in SWITCHES:
        if not isinstance(plain.get(name, False), bool):
            raise ValueError(f"{name} must be true or false, not {plain[name]!r}")
    check_graphs(plain.get("cuda_graphs", "auto"))
    bounds.check_config(plain)
    _check_layers(plain)
    _check_length(plain)
    _check_interval(plain["trainer"].get("val_check_interval"))
    if plain["trainer"].get("check_val_every_n_epoch") is not None:
        raise ValueError(
            "trainer.check_val_every_n_epoch must be null: a training is one long epoch; "
            "trainer.val_check_interval=N validates every N batches"
        )
    check_devices(plain["trainer"])
    _check_objective(plain)
    for name in ("runs", "data"):
        if Path(plain["paths"][name]).is_file():
            raise ValueError(f"paths.{name}={plain['paths'][name]} is a file; it must be a folder")


def check_graphs(graphs: Any) -> None:
    """Raises ValueError for a value of `cuda_graphs` that is none."""
    if graphs not in ("auto", "all") and not isinstance(graphs, bool):
        raise ValueError(f"cuda_graphs must be auto, true, all or false, not {graphs!r}")


def check_numbers(plain: Any) -> None:
    """Raises ValueError for the first number out of range; references that stand unresolved are left out."""
    for key, value in _leaves(plain):
        if isinstance(value, str) and "${" in value:
            continue
        for pattern, number in NUMBERS.items():
            if (
                fnmatchcase(key, pattern)
                and key.count(".") == pattern.count(".")
                and not number.allows(value)
            ):
                raise ValueError(f"{key} must be {number}, not {value!r}")
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{key} must be a number, not nan")


def _leaves(value: Any, at: str = "") -> Any:
    for key, child in value.items():
        name = f"{at}.{key}" if at else str(key)
        if isinstance(child, dict):
            yield from _leaves(child, name)
        else:
            yield name, child


def _check_layers(cfg: dict[str, Any]) -> None:
    network = (cfg.get("backbone") or {}).get("network") or {}
    every = network.get("gradient_checkpointing", False)
    if not isinstance(every, bool) and not COUNT.allows(every):
        raise ValueError(
            "backbone.network.gradient_checkpointing must be true, false or a number N (every N-th layer), "
            f"not {every!r}"
        )


def _check_length(cfg: dict[str, Any]) -> None:
    """Raises ValueError where a training has no step, or its schedule no length."""
    steps, schedule = cfg["trainer"].get("max_steps"), cfg.get("schedule") or {}
    if steps == 0:
        raise ValueError("trainer.max_steps=0 trains nothing; ask for at least 1, or -1 for no end")
    if "max_steps" in schedule and not COUNT.allows(schedule["max_steps"]):
        why = ", as trainer.max_steps=-1 names no end" if steps == -1 == schedule["max_steps"] else ""
        raise ValueError(
            f"schedule.max_steps must be {COUNT}, not {schedule['max_steps']!r}{why}; it is where the "
            "learning rate has fallen to schedule.min_lr"
        )


def _check_interval(value: Any) -> None:
    share = isinstance(value, float) and 0 < value <= 1
    time = isinstance(value, str) and re.fullmatch(r"\d+(:\d+){3}", value)  # days:hours:minutes:seconds
    if value is not None and not share and not COUNT.allows(value) and not time:
        raise ValueError(
            f"trainer.val_check_interval must be a whole number of batches, at least 1, not {value!r}; "
            "a number above max_steps validates once, at the end"
        )


def _check_objective(plain: dict[str, Any]) -> None:
    """Raises ValueError where no evaluated source can give the metric that a sweep compares."""
    if plain["objective"] is None:
        return
    stage, _, rest = str(plain["objective"]).removesuffix(".max").partition("/")
    source = rest.rpartition("/")[0]
    known = [s["name"] for s in plain["sources"].values() if s and s["dataset"].get("val")]
    if stage != "val" or source not in known:
        examples = [f"val/{name}/..." for name in known]
        hint = instead(f"val/{source}/...", examples, "there are")
        raise ValueError(
            f"objective={plain['objective']} is not a metric of a source with validation data; {hint}"
        )
