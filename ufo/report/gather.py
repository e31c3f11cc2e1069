"""What a run has left in its folder, as far as a report shows it; missing parts are left out of the page."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ufo.files import write_json
from ufo.runs import results
from ufo.runs.naming import PART, WHOLE
from ufo.yaml_files import check_yaml

EVIDENCE = "evidence.json"  # of ufo.callbacks.evidence
EVALUATION = "evaluation.json"
INSIDE = (WHOLE, PART)  # folders of a run's evaluation, the better one first
AGAIN = "evaluate again (ufo evaluate), which writes it anew"
LARGEST = 64 << 20  # bytes of a file that is read
MOST_POINTS = 500  # of a curve

Curve = list[tuple[float, float]]


@dataclass
class Gathered:
    """One run."""

    name: str
    folder: Path
    measured: dict[str, float | None] = field(default_factory=dict)
    published: dict[str, dict[str, float]] = field(default_factory=dict)
    trivial: dict[str, float | None] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)  # as in evidence.json
    curves: dict[str, Curve] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)  # flat: key, value as text


def save(folder: Path, measured: Mapping[str, float | None], published: results.Published) -> None:
    """Write the numbers of an evaluation; raises OSError."""
    stated = {where: dict(found) for where, found in published.items() if found}
    write_json(folder / EVALUATION, {"measured": dict(measured), "published": stated}, indent=1)


def gather(run: Path) -> Gathered:
    """Read a run, or the folder of its evaluation.

    Raises ValueError where neither an evaluation nor a validation is there.
    """
    if not run.is_dir():
        raise ValueError(f"{run} is not a folder; name that of a run, runs/<name>")
    evaluation = next((run / name for name in INSIDE if (run / name / EVALUATION).is_file()), run)
    whole = run.parent if run.name in INSIDE and (run.parent / "config.yaml").is_file() else run
    evidence = _json(evaluation / EVIDENCE)
    numbers = _json(evaluation / EVALUATION) or results.read(whole) or {}
    if not numbers.get("measured"):
        below = sorted({path.parent for name in (results.JSON, EVALUATION) for path in run.glob(f"*/{name}")})
        if below:
            raise ValueError(f"{run} is no run; name one of those in it: {', '.join(map(str, below[:5]))}")
        raise ValueError(f"{run} has not been evaluated; run: ufo evaluate ckpt={whole}")
    name = (run.parent if run.name in INSIDE else whole).resolve().name
    part = " (a part of its data)" if evaluation.name == PART else ""
    return Gathered(
        name=f"{name}{part}",
        folder=evaluation,
        measured=results.numbers(_dict(numbers, "measured")),
        published={str(w): _numbers(found) for w, found in _dict(numbers, "published").items()},
        trivial=results.numbers(_dict(evidence, "trivial")),
        sources={str(name): found for name, found in _dict(evidence, "sources").items()},
        curves=_curves(whole),
        config=_config(whole),
    )


def differences(one: Gathered, other: Gathered) -> list[tuple[str, str, str]]:
    """Keys of the config whose values differ, with both."""
    keys = sorted({*one.config, *other.config})
    pairs = [(key, one.config.get(key, "-"), other.config.get(key, "-")) for key in keys]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _json(path: Path) -> dict[str, Any]:
    """A file's object; empty where there is no file. Raises ValueError for one that is damaged."""
    if not path.exists():
        return {}
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} is larger than {LARGEST >> 20} MB; evaluate again with fewer pictures")
        found = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: {AGAIN}")
    return found


def _dict(found: dict[str, Any], key: str) -> dict[str, Any]:
    value = found.get(key)
    return value if isinstance(value, dict) else {}


def _numbers(found: Any) -> dict[str, float]:
    numbers = results.numbers(found if isinstance(found, dict) else {})
    return {name: value for name, value in numbers.items() if value is not None}


def _curves(run: Path) -> dict[str, Curve]:
    """Losses and validation metrics by step, of all CSV files that the run's logger has written."""
    points: dict[str, dict[float, float]] = {}
    for path in sorted(run.glob("csv/*/metrics.csv"), key=lambda path: path.stat().st_mtime):
        if path.stat().st_size > LARGEST:
            continue
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            for row in csv.DictReader(file):
                step = _parsed(row.get("step"))
                for name, text in row.items():
                    value = _parsed(text)
                    if step is not None and value is not None and name and _is_curve(name):
                        points.setdefault(name, {})[step] = value
    curves = {name: sorted(found.items()) for name, found in sorted(points.items())}
    return {name: curve[:: len(curve) // MOST_POINTS + 1] for name, curve in curves.items() if len(curve) > 1}


def _is_curve(name: str) -> bool:
    return name.startswith("val/") or name.endswith("loss")


def _parsed(text: Any) -> float | None:
    try:
        return results.finite(float(text))
    except (TypeError, ValueError):
        return None


def _config(run: Path) -> dict[str, str]:
    """The config of a run, flat; empty where there is none that can be read."""
    path = run / "config.yaml"
    try:
        check_yaml(path)
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    flat: dict[str, str] = {}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, dict) and value:
            for inner, child in value.items():
                walk(child, f"{key}.{inner}" if key else str(inner))
        else:
            flat[key] = json.dumps(value, ensure_ascii=False, default=str)

    walk(found, "")
    return flat
