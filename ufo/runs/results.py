"""The last validation of a run: one table, printed and written as `results.md` and `results.json`.

A metric that does not exist for these data (no object of that size) is shown as "-"; it is not a number, and
is never logged as one.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ufo.files import write_json, write_text
from ufo.tables import measured_beside_published

log = logging.getLogger(__name__)

MARKDOWN, JSON = "results.md", "results.json"
NOTE = "- : there is nothing to measure it on (no object of that size, or no such class)"


def measured(trainer: Any) -> dict[str, float | None]:
    """Every metric `val/...` of a trainer's last validation; None for one that these data do not define."""
    values: dict[str, float | None] = {}
    for callback in trainer.callbacks:
        for name, value in (getattr(callback, "results", None) or {}).items():
            values[name] = value
    for name, value in trainer.callback_metrics.items():
        if name.startswith("val/"):
            values[name] = float(value)
    return dict(sorted(values.items()))


Published = Mapping[str, Mapping[str, float] | None]
"""Published numbers by where they come from."""


def published(cfg: DictConfig) -> Published:
    """The numbers that a config's experiment stands for: the paper's, and those beside the released file."""
    released = cfg.released or {}
    return {"paper": cfg.expected, "released": released.get("expected")}


def text(values: Mapping[str, float | None], numbers: Published | None = None) -> str:
    """The table, with the published numbers where there are some."""
    shown = measured_beside_published([values], numbers)
    return f"{shown}\n{NOTE}" if None in values.values() else shown


def unmeasured(cfg: DictConfig, values: Mapping[str, float | None]) -> str | None:
    """Which sources the table has no number of, and why, in one line; None if it has all."""
    left_out = [str(key) for key, source in cfg.sources.items() if not source]
    rest = [s for s in cfg.sources.values() if s and not any(v.startswith(f"val/{s.name}/") for v in values)]
    blind = [s.name for s in rest if not s.dataset.get("val")]
    silent = [s.name for s in rest if s.dataset.get("val")]
    reasons = (
        (left_out, "left out of this run"),
        (blind, "no validation data"),
        (silent, "no metric, no validation batch, or a module that predicts nothing"),
    )
    said = [f"{', '.join(names)} ({why})" for names, why in reasons if names]
    return f"not evaluated: {'; '.join(said)}" if said else None


def write(
    folder: Path, step: int, values: Mapping[str, float | None], numbers: Published | None = None
) -> None:
    """Write both files; a full disk is not a reason to stop."""
    stated = {where: dict(found) for where, found in (numbers or {}).items() if found}
    content = {"step": step, "measured": dict(values), "published": stated}
    table = f"After {step} steps:\n\n```text\n{text(values, numbers)}\n```\n"
    try:
        write_text(folder / MARKDOWN, table)
        write_json(folder / JSON, content, indent=1)
    except OSError as error:
        log.warning("The results could not be written to %s: %s", folder, error)


def read(folder: Path) -> dict[str, Any] | None:
    """What `write` wrote: `step`, `measured`, `published`; None if there is none.

    A number that is none of a metric (NaN, a text) is None, as one that the data do not define.
    """
    try:
        found = json.loads((folder / JSON).read_bytes())
        step, values = found["step"], numbers(found["measured"])
        published = found.get("published")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(step, int):
        return None
    stated = published.items() if isinstance(published, dict) else ()
    return {
        "step": step,
        "measured": values,
        "published": {str(where): numbers(found) for where, found in stated if isinstance(found, dict)},
    }


def numbers(found: Mapping[str, Any]) -> dict[str, float | None]:
    """Metrics by name as a file holds them: finite numbers, None for anything else."""
    return {str(name): finite(value) for name, value in found.items()}


def finite(value: Any) -> float | None:
    """A number that can be shown; None for anything else."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None
