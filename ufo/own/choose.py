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
    """The backbone with its start and learning rate, and the numbers that belong to it."""
    large, images = numbers["large"], total(data)
    if machine.gpu_gib >= large["gpu_gib"] and images >= large["images"]:
        chosen, reason = large, f"{machine.gpu_gib:.0f} GiB of GPU memory and {images:,} images"
    else:
        chosen = numbers["small"]
        where = "a GPU" if machine.gpu_gib else f"{machine.threads} CPU thread{'s' * (machine.threads > 1)}"
        reason = f"{images:,} images on {where}; it starts from weights that know boxes, masks and words"
    overrides = (f"backbone={chosen['backbone']}", f"init={chosen['init']}", f"optimizer.lr={chosen['lr']}")
    return Choice(overrides, reason), chosen


def resolution(
    data: Sequence[Data], size: Numbers, numbers: Numbers, fitting: Callable[[int], int] | None = None
) -> tuple[Choice, int]:
    """The smallest resolution at which a small object covers enough patches; small objects ask for more.

    `fitting` says how many steps of a resolution the time holds: it may ask for a lower one (`_in_time`).
    """
    options = sorted(size["resolutions"])
    parts = [d.object_part for d in data if d.object_part]
    wanted = numbers["object_patches"] * size["image_tokens"]
    if not parts:  # no objects: not more than the images have, and the middle one for what is fine in them
        sides = [d.side for d in data]
        small = [o for o in options[: len(options) // 2 + 1] if o <= max(sides)] or options[:1]
        reason = f"no objects to measure, images of {max(sides):.0f} px"
        return _resolution(small[-1], size, reason)
    part = min(parts)
    enough = [option for option in options if option * part >= wanted]
    best = enough[0] if enough else options[-1]
    seen = [o for o in options if o < best and o * part >= numbers["least_patches"] * size["image_tokens"]]
    chosen = best if fitting is None else _in_time(best, seen, fitting, numbers["steps"]["enough"])
    why = "enough" if enough else "wanted, and this is the largest size"
    if fitting is not None and chosen < best:
        number = numbers["steps"]
        why = f"wanted, but {number['minutes']:g} minutes hold {fitting(best):,} steps of {best} px; below "
        why += f"{number['enough']:,}, more steps of fewer pixels are taken"
    sides = [d.side for d in data if d.object_part == part]
    reason = f"a small object is {part * sides[0]:.0f} of {sides[0]:.0f} px wide or high, which become "
    return _resolution(chosen, size, f"{reason}{part * chosen:.0f}; {wanted:.0f} are {why}")


def _in_time(best: int, lower: Sequence[int], fitting: Callable[[int], int], enough: int) -> int:
    """The largest side of which the time holds enough steps: no pixel makes up for what was not learned.

    `lower` are the sides below the `best` one at which objects can be seen, in order. Where none of them is
    quick enough, the smallest comes nearest.
    """
    sides = [*lower, best]
    return max((side for side in sides if fitting(side) >= enough), default=sides[0])


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
    chosen = min(wanted, steps_in_time(side, batch, machine, numbers))
    minutes = chosen * step_seconds(side, batch, machine, numbers) / 60
    long = f"about {round(minutes, 1):g} minutes" if minutes >= 1 else "less than a minute"
    why = f"; more would take longer than {number['minutes']:g} minutes"
    if chosen == wanted:
        why = ""
    elif chosen == most_steps(machine, numbers):
        why = f"; more than {chosen:,} steps are for you to choose"
    passes = max(1, round(chosen * batch / images))
    reason = f"{passes:,} passes over {images:,} images, {long}{why}"
    return Choice((f"trainer.max_steps={chosen}",), reason)


def steps_in_time(side: int, batch: int, machine: Machine, numbers: Numbers) -> int:
    """The most steps that a training takes, at least one: on a CPU those that the minutes hold."""
    most = most_steps(machine, numbers)
    if machine.gpu_gib:
        return most
    seconds = step_seconds(side, batch, machine, numbers)
    return max(1, min(most, int(numbers["steps"]["minutes"] * 60 / seconds)))


def most_steps(machine: Machine, numbers: Numbers) -> int:
    """The most steps that are ever chosen."""
    most: int = numbers["steps"]["gpu_most" if machine.gpu_gib else "most"]
    return most


def step_seconds(side: int, batch: int, machine: Machine, numbers: Numbers) -> float:
    """What a step is estimated to take: the pixels of a batch, by what a thread does with them."""
    number = numbers["steps"]
    if machine.gpu_gib:
        cost = number["gpu_seconds_per_megapixel"]
    else:
        cost = number["seconds_per_megapixel"]["bfloat16" if machine.bfloat16 else "float32"]
        cost /= machine.threads ** number["threads_power"]
    seconds: float = cost * batch * side**2 / 1e6
    return seconds


def total(data: Sequence[Data]) -> int:
    """Training samples of all sources."""
    return sum(d.images for d in data)


def left(choice: Choice, given: Callable[[str], bool]) -> list[str]:
    """The overrides of a choice whose keys the user has not set: what is explicit wins."""
    return [o for o in choice.overrides if not given(o.partition("=")[0].lstrip("+"))]
