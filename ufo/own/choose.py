"""Which backbone, resolution, tokenizer, batch size and number of steps fit some data and a machine.

Pure functions from facts to choices, each with its reason; the numbers are those of conf/auto.yaml. A choice
is a list of overrides of the config, so it can be repeated, and changed, on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ufo.own.facts import Data, Machine, Prompt

Numbers = Mapping[str, Any]
"""The content of conf/auto.yaml."""


@dataclass(frozen=True)
class Choice:
    """Overrides that say one thing, and why."""

    overrides: tuple[str, ...]
    reason: str

    @property
    def keys(self) -> set[str]:
        """What the overrides set."""
        return {override.partition("=")[0].lstrip("+") for override in self.overrides}


def model(data: Sequence[Data], machine: Machine, numbers: Numbers) -> tuple[Choice, Numbers]:
    """The backbone with its start, and the numbers that belong to it."""
    large, images = numbers["large"], total(data)
    if machine.gpu_gib >= large["gpu_gib"] and images >= large["images"]:
        chosen, reason = large, f"{machine.gpu_gib:.0f} GiB of GPU memory and {images:,} images"
    else:
        chosen = numbers["small"]
        where = "a GPU" if machine.gpu_gib else f"{machine.cores} CPU cores"
        reason = f"{images:,} images on {where}; it starts from weights that know boxes, masks and words"
    return Choice((f"backbone={chosen['backbone']}", f"init={chosen['init']}"), reason), chosen


def resolution(data: Sequence[Data], size: Numbers, numbers: Numbers) -> tuple[Choice, int]:
    """The smallest resolution at which a small object covers enough patches; small objects ask for more."""
    options = sorted(size["resolutions"])
    parts = [d.object_part for d in data if d.object_part]
    wanted = numbers["object_patches"] * size["image_tokens"]
    if not parts:  # no objects: not more than the images have, and the middle one for what is fine in them
        sides = [d.side for d in data]
        fitting = [o for o in options[: len(options) // 2 + 1] if o <= max(sides)] or options[:1]
        reason = f"no objects to measure, images of {max(sides):.0f} px"
        return _resolution(fitting[-1], size, reason)
    part = min(parts)
    enough = [option for option in options if option * part >= wanted]
    chosen = enough[0] if enough else options[-1]
    sides = [d.side for d in data if d.object_part == part]
    reason = (
        f"a small object is {part * sides[0]:.0f} of {sides[0]:.0f} px wide or high, which become "
        f"{part * chosen:.0f}; {wanted:.0f} are "
        f"{'enough' if enough else 'wanted, and this is the largest size'}"
    )
    return _resolution(chosen, size, reason)


def _resolution(side: int, size: Numbers, reason: str) -> tuple[Choice, int]:
    overrides = [
        f"resolution.bins.{task}={round(side / pixels)}" for task, pixels in size["bin_pixels"].items()
    ]
    return Choice((f"resolution={side}", *overrides), reason), side


def prompt(found: Mapping[str, Prompt]) -> Choice:
    """The length of the prompt: what the backbone reads grows where the classes or texts need more."""
    longest = max(found.values(), key=lambda p: p.tokens)
    per_class = max(p.per_class for p in found.values())
    reason = f"the longest prompt has {longest.tokens} tokens"
    if per_class:
        reason += f", {per_class:.1f} for a class"
    if longest.tokens <= longest.limit:
        limit = longest.limit
        reason += "; `ufo data vocab` makes words of what is spelled" if per_class > 2 else ""
    else:
        limit = -(-longest.tokens // 64) * 64
        reason += f", more than the {longest.limit} it has learned; `ufo data vocab` makes them fewer"
    return Choice((f"backbone.network.max_positions={limit}",), reason)


def batch_size(data: Sequence[Data], side: int, machine: Machine, numbers: Numbers) -> tuple[Choice, int]:
    """Images per step: what the memory holds, and not more than a source has."""
    batch = numbers["batch"]
    if machine.gpu_gib:
        fits, most = int(machine.gpu_gib * batch["gpu_pixels_per_gib"] / side**2), batch["gpu_most"]
    else:
        fits, most = int(batch["pixels"] / side**2), batch["most"]
    size = max(1, min(fits, most, *(d.images for d in data)))
    reason = f"images of {side} px on {'the GPU' if machine.gpu_gib else 'a CPU'}"
    overrides = [f"sources.{d.key}.{k}={size}" for d in data for k in ("batch_size", "val_batch_size")]
    return Choice(tuple(overrides), reason), size


def steps(data: Sequence[Data], side: int, batch: int, machine: Machine, numbers: Numbers) -> Choice:
    """Optimizer steps: so many passes over the images, as far as the time goes."""
    number, images = numbers["steps"], total(data)
    wanted = max(number["least"], number["passes"] * images // batch)
    gpu = bool(machine.gpu_gib)
    cost = number["gpu_seconds_per_megapixel"] if gpu else number["seconds_per_megapixel"] / machine.cores
    seconds = cost * batch * side**2 / 1e6  # of a step
    most = number["gpu_most"] if gpu else min(number["most"], int(number["minutes"] * 60 / seconds))
    chosen = max(1, min(wanted, most))
    minutes = chosen * seconds / 60
    why = "" if chosen == wanted else f"; more would take longer than {number['minutes']:g} minutes"
    passes = max(1, round(chosen * batch / images))
    reason = f"{passes:,} passes over {images:,} images, about {minutes:.0f} minutes{why}"
    return Choice((f"trainer.max_steps={chosen}",), reason)


def total(data: Sequence[Data]) -> int:
    """Training samples of all sources."""
    return sum(d.images for d in data)


def left(choice: Choice, given: Callable[[str], bool]) -> list[str]:
    """The overrides of a choice whose keys the user has not set: what is explicit wins."""
    return [o for o in choice.overrides if not given(o.partition("=")[0].lstrip("+"))]
