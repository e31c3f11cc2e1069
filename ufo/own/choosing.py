"""What is chosen for own sources, said in a few lines with the command that repeats it.

Reads the data as training will, measures them (ufo/own/facts.py) and asks ufo/own/choose.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ufo import build, places
from ufo.check import check_config, check_numbers
from ufo.checkpoints import recipes
from ufo.command_line import quoted, readable
from ufo.own import choose
from ufo.own.facts import Data, Prompt, data_facts, machine
from ufo.own.offered import offer
from ufo.own.place import Place
from ufo.runs.owner import is_first_process


def chosen(place: Place, given: Sequence[str], quiet: bool = False) -> list[str]:
    """Overrides that fit the data and this machine, but for what the command says itself; prints them.

    The command that repeats this one is offered, to be printed once nothing is refused any more.
    """
    numbers = yaml.safe_load((places.conf() / "auto.yaml").read_text(encoding="utf-8"))
    keys = {override.partition("=")[0].lstrip("+~") for override in given}
    if "backbone" in keys:  # the learning rate that is chosen is that of another one
        keys.add("optimizer.lr")
    base = ["experiment=own", *place.composing, *_single(given)]
    cfg = _composed(base)
    check_config(cfg)  # a training does so, too; but what follows reads the data, as the config says
    check_numbers(OmegaConf.to_container(cfg, resolve=False))
    found, here = _facts(cfg, numbers["looked_at"]), machine()
    model, size = choose.model(found, here, numbers)

    def fitting(side: int) -> int:
        _, images = choose.batch_size(found, side, here, numbers)
        return choose.steps_in_time(side, images, here, numbers)

    timed = "trainer.max_steps" not in keys  # who says the steps takes the time for them
    resolution, _ = choose.resolution(found, size, numbers, fitting if timed else None)
    if "resolution" in keys:  # its bins belong to it
        resolution = choose.Choice((), "as the command says")
    first = [o for c in (model, resolution) for o in choose.left(c, keys.__contains__)]
    cfg = _composed([*base, *first])
    side = max(int(cfg.tasks[d.task].image_size) for d in found)
    batch, images = choose.batch_size(found, side, here, numbers)
    images = max(int(s.batch_size) if f"sources.{k}.batch_size" in keys else images for k, s in _trained(cfg))
    choices = {
        "model": model,
        "resolution": resolution,
        "prompt": choose.prompt({d.key: _prompt(cfg, d) for d in found}),
        "batch": batch,
        "steps": choose.steps(found, side, images, here, numbers),
    }
    overrides = [o for c in choices.values() for o in choose.left(c, keys.__contains__)]
    more = [_validated_on_training(cfg, d) for d in found if not d.has_val]
    if "name" not in keys:
        more.append("name=" + "_".join(d.key for d in found)[:100])
    if is_first_process() and not quiet:
        print("\n".join([*map(_described, found), *(_line(*c, keys) for c in choices.items())]), flush=True)
        offer([*place.options, "experiment=own", *place.overrides, *overrides, *more, *given])
    return [*overrides, *more]


def _composed(overrides: Sequence[str]) -> DictConfig:
    return recipes.compose([readable(override, ("resolution",)) for override in overrides])


def _single(given: Sequence[str]) -> list[str]:
    """The overrides of a command that one config can have: no sweep, and none of Hydra itself."""
    kept = []
    for override in given:
        try:
            (parsed,) = OverridesParser.create().parse_overrides([readable(override, ("resolution",))])
        except HydraException:  # Hydra will say what is wrong with it
            continue
        if not parsed.is_sweep_override() and not parsed.key_or_group.startswith("hydra"):
            kept.append(override)
    return kept


def _trained(cfg: DictConfig) -> list[tuple[str, DictConfig]]:
    """The sources that training draws from. Raises ValueError where there is none."""
    found = [
        (str(key), source)
        for key, source in cfg.sources.items()
        if source and source.get("weight", 1.0) > 0 and source.dataset.get("train")
    ]
    if not found:
        raise ValueError("no source has a `train` split with a weight above 0; there is nothing to train on")
    for key, source in found:
        if not cfg.tasks.get(source.task):
            raise ValueError(
                f"source '{key}' has the task '{source.task}', for which nothing is chosen; add "
                f"+task@tasks.{source.task}={source.task}"
            )
    return found


def _facts(cfg: DictConfig, most: int) -> list[Data]:
    """The facts of every source that is trained on."""
    built = build.build_sources(cfg)
    return [
        data_facts(key, source.task, built[key].data("train"), bool(source.dataset.get("val")), most)
        for key, source in _trained(cfg)
    ]


def _prompt(cfg: DictConfig, data: Data) -> Prompt:
    """How long the prompts of a source are for the tokenizer of the config."""
    tokenizer = instantiate(cfg.backbone.tokenizer)
    task = recipes.make_tasks(cfg)[data.task]
    asked = [task.prompt(data.classes, text) for text in data.texts or ("",)]
    tokens = max(len(row) for row in tokenizer.encode(asked))
    names = tokenizer.encode(list(data.classes)) if data.classes else []
    per_class = sum(map(len, names)) / max(len(names), 1)
    limit = cfg.backbone.network.get("max_positions") or tokenizer.max_prompt_length
    return Prompt(max(tokens, task.max_length), per_class, int(limit))


def _validated_on_training(cfg: DictConfig, data: Data) -> str:
    """The override with which a source without `val` is scored on the images that it is trained on."""
    train: Any = OmegaConf.to_container(cfg.sources[data.key].dataset.train, resolve=True)
    return f"++sources.{data.key}.dataset.val={_written({k: v for k, v in train.items() if k != 'train'})}"


def _written(value: Any) -> str:
    """A plain value as Hydra's overrides have it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_written(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return quoted(value) if isinstance(value, str) else str(value)


def _described(data: Data) -> str:
    """One line about a source."""
    parts = [f"{data.key}: {data.task}, {data.images:,} training samples of about {data.side:.0f} px"]
    if data.classes:
        parts.append(f"{len(data.classes)} classes")
    if data.objects:
        parts.append(f"{data.objects:,} objects in {data.looked_at:,} of them")
    if not data.has_val:
        parts.append("no val split: scored on the training images (`ufo data import --val 0.1` makes one)")
    return ", ".join(parts)


def _line(name: str, choice: choose.Choice, keys: set[str]) -> str:
    """One choice with its reason; what the command says itself is left as it is."""
    left = choose.left(choice, keys.__contains__)
    said = " ".join(left) or "as the command says"
    return f"  {said}\n      {choice.reason}" if left else f"  {name}: {said}"
