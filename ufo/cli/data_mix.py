"""`ufo data mix`: what a mixture would draw, by the mixer itself."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from ufo.build import build_data
from ufo.cli import CommandError
from ufo.cli.data_find import mixture_config, quiet
from ufo.data.errors import DataError
from ufo.data.mixer import Entry, MixtureSampler
from ufo.data.sampling import weights_by_size
from ufo.errors import sentence

ABSENT = "not here"
UNITS = {"": 1, "k": 1_000, "M": 1_000_000}


@dataclass
class Row:
    """A source with a weight: what is known of its training data."""

    name: str
    task: str
    weight: float
    batch_size: int
    groups: list[np.ndarray]
    note: str = ""
    known: bool = True  # whether the number of samples is more than a stand-in

    def __len__(self) -> int:
        return sum(map(len, self.groups))


def run(args: argparse.Namespace) -> int:
    """Print the table; 1 if a source's files are here and cannot be used."""
    cfg = mixture_config(args.overrides, args.root)
    accumulated = cfg.trainer.get("accumulate_grad_batches", 1)
    steps = args.steps or cfg.trainer.max_steps * accumulated
    rows, broken = _rows(cfg)
    if cfg.mixing_temperature is not None:
        weights = weights_by_size(
            [r.weight for r in rows], [len(r) for r in rows], [r.task for r in rows], cfg.mixing_temperature
        )
        for row, weight in zip(rows, weights, strict=True):
            row.weight = weight
    entries = [Entry(r.name, r.weight, r.batch_size, r.groups) for r in rows]
    try:
        sampler = MixtureSampler(entries, cfg.seed, 0, args.devices)
    except ValueError as error:
        raise CommandError(str(error)) from error
    drawn = sampler.state_dict(steps)["drawn"]
    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    table.add_column("task")
    for column in ("weight", "share", "batches", "per batch", "samples", "drawn", "epochs"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row, (name, share, size, batch) in zip(rows, sampler.describe(), strict=True):
        total = sum(drawn[name])
        table.add_row(
            *(name, row.task.replace("_", " "), f"{row.weight:.4g}", f"{share:.2%}"),
            *(f"{total // (batch * args.devices):,}", f"{batch}", f"{size:,}" if row.known else "?"),
            *(f"{total:,}", f"{total / size:.2f}" if row.known else "?", row.note),
        )
    Console(width=160).print(table)
    total = sum(sum(values) for values in drawn.values())
    print(
        f"\n{steps:,} batches on {args.devices} process{'es' * (args.devices > 1)}: {total:,} samples"
        + (f", {accumulated} batches per optimizer step" if accumulated > 1 else "")
    )
    if absent := [row.name for row in rows if row.note.startswith(ABSENT)]:
        print(
            f"{len(absent)} of {len(rows)} sources are not here; `ufo data check NAME` says what is missing"
        )
    for line in broken:
        print(f"ERROR: {line}")
    return int(bool(broken))


def _rows(cfg: DictConfig) -> tuple[list[Row], list[str]]:
    """The sources that are drawn, and what is wrong with those whose files are here but unusable."""
    rows, broken = [], []
    for key, source in cfg.sources.items():
        if not source or not source.get("weight", 1.0) > 0:
            continue
        alone: Any = OmegaConf.merge(cfg, {})
        alone.sources = {key: source}
        note = ""
        try:
            with quiet():
                (built,) = build_data(alone).sources
                groups = built.groups()
        except (DataError, OSError, ValueError, InstantiationException, OmegaConfBaseException) as error:
            message = sentence(error)
            size = _stated(source)
            groups, note = [np.arange(size or 1)], ABSENT
            if "does not exist" not in message:
                broken.append(f"{source.name}: {message}")
                note = "unusable"
            note += ", size as stated" if size else ", size unknown"
        row = Row(source.name, source.task, source.get("weight", 1.0), source.batch_size, groups, note)
        row.known = not note.endswith("unknown")
        rows.append(row)
    return rows, broken


def _stated(source: DictConfig) -> int | None:
    """About how many training samples a data set has by its own `info`, at most the cap; None: not said."""
    info: Any = source.dataset.get("info") or {}
    texts = [str(info.get("objects", "")), str(info.get("images", ""))]
    # a sentence or a caption is a sample of its own
    if not any(word in texts[0] for word in ("sentence", "caption", "pair", "conversation")):
        texts.reverse()
    for text in texts:
        if found := re.search(r"([\d.]+)\s*([kM]?)", text):
            size = max(1, round(float(found[1]) * UNITS[found[2]]))
            return min(size, source.get("max_samples") or size)
    return None
