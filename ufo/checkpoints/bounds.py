"""What a file may ask for: every value of a foreign config.json that takes memory or time, or reaches beyond
the file, is bounded or refused before anything is built from it.

A description (see `UFO.describe`) becomes constructors' arguments, those of transformers' models among them.
These would fetch attention kernels, other weights or code whose names a config holds, and reserve what its
numbers say. Weights are bounded by those that the file really holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ufo.checkpoints.errors import CheckpointError

LONGEST = 128 * 2**20  # bytes of a config.json or a tokenizer's file; the longest published ones have 35 MB
DEEPEST = 30  # nested settings
_PARTS = 2_000_000  # values in a description; a vocabulary of 256,000 words is one of the longest

# numbers that reserve memory or take time, and the smallest and largest that make sense
_WITHIN: dict[str, tuple[float, float]] = {
    "image_size": (1, 4096),
    "patch_size": (1, 256),
    "window_size": (1, 1024),
    "max_length": (1, 16_384),
    "num_beams": (1, 64),
    "top_tokens": (1, 10_000),
    "grid_per_window": (0, 64),
    "samples_per_window": (0, 4096),
    "repeat": (1, 1000),
    "negatives": (0, 100_000),
    "num_bins": (1, 100_000),
    "mask_tokens": (1, 1024),
    "max_per_image": (1, 100_000),
    "keep_queries": (0, 1_000_000),
    "mask_points": (0, 10_000_000),
    "max_tiles": (1, 256),
    "max_positions": (1, 1_000_000),
    "max_position_embeddings": (1, 10_000_000),
    "max_prompt_length": (1, 10_000_000),
    "vocab_size": (1, 4_000_000),
    "r": (1, 4096),
    "width": (1, 65_536),
    "heads": (1, 1024),
    "depth": (0, 512),
    "new_layers": (0, 512),
    "mlp_ratio": (0, 64),
    "hidden_size": (1, 65_536),
    "intermediate_size": (1, 1_000_000),
    "num_hidden_layers": (0, 512),
    "num_attention_heads": (1, 1024),
    "num_key_value_heads": (1, 1024),
    "head_dim": (1, 4096),
    "num_heads": (1, 1024),
    "out_hidden_size": (1, 65_536),
    "num_position_embeddings": (1, 1_000_000),
    "in_channels": (1, 64),
    "num_channels": (1, 64),
    "num_labels": (0, 100_000),
    "image_seq_length": (1, 1_000_000),
    "spatial_merge_size": (1, 64),
    "temporal_patch_size": (1, 64),
}
_LARGEST = 1e12  # of any other number: the base of rotary embeddings is the largest

# what transformers or a loader would follow to other files, the network, or code
_REACHING = frozenset(
    {
        "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
        "experts_implementation", "_experts_implementation", "auto_map", "custom_pipelines",
        "trust_remote_code", "quantization_config", "pretrained", "pretrained_model_name_or_path",
        "use_pretrained_backbone", "use_timm_backbone", "backbone", "backbone_config", "_name_or_path",
        "base_model_name_or_path", "_target_", "_partial_", "use_kernels", "kernel_config",
    }
)  # fmt: skip
# parts of language models that are built; another class of transformers may do anything while it is made
_MODELS = frozenset(
    {
        "internvl", "internvl_vision", "llava", "qwen2_5_vl", "qwen2_5_vl_text", "qwen2_5_vl_vision",
        "qwen3_vl", "qwen3_vl_text", "qwen3_vl_vision",
        "clip_vision_model", "siglip_vision_model", "llama", "mistral", "qwen2", "qwen3",
    }
)  # fmt: skip
_DTYPES = frozenset({"float32", "float16", "bfloat16"})


def check_description(description: Mapping[str, Any], path: str | Path) -> None:
    """Raises CheckpointError where the description in the checkpoint `path` asks for what no model needs."""
    if not isinstance(description, Mapping) or not isinstance(description.get("backbone"), Mapping):
        raise CheckpointError(f"'{path}' describes no model: its config has no settings of a backbone")
    try:
        for count, (place, key, value) in enumerate(_values(description, ())):
            if count > _PARTS:
                raise ValueError("it has more values than any model's")
            inside = place[0] if place else ""
            if inside in ("backbone", "lora", "tokenizer", "tasks", "mask_points", "loss_weights"):
                _check(place, key, value, network=inside == "backbone" and len(place) > 1)
        _check_classes(description.get("classes") or {})
        targets = (description.get("lora") or {}).get("targets")
        if isinstance(targets, str) and (len(targets) > 1000 or _slow(targets)):
            raise ValueError("lora.targets takes too long to match; write it without nested repeats")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"'{path}' describes no model that is built: {error}") from error


def check_config(cfg: Mapping[str, Any]) -> None:
    """Raises ValueError where a plain config asks for more than any model has: `depth=1000000`.

    It would be built until the machine's memory ends. A reference that is not resolved is not looked at.
    """
    for part in ("backbone", "lora", "tasks", "mask_points", "resolution"):
        for place, key, value in _values(cfg.get(part), (part,)):
            if not isinstance(value, str):
                # a size of images is called like its task
                _check_number(".".join(place), "image_size" if part == "resolution" else key, value)


def _check_classes(classes: Any) -> None:
    if not isinstance(classes, Mapping):
        raise ValueError("its classes are not given by task")
    for task, names in classes.items():
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"classes.{task} is not a list of names")
        if len(set(names)) < len(names):
            raise ValueError(f"classes.{task} has a name twice")


def check_length(path: Path) -> None:
    """Raises ValueError for a text file that is far longer than any of its kind."""
    if path.stat().st_size > LONGEST:
        raise ValueError(f"its {path.name} has more than {LONGEST >> 20} MB")


def without_reach(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json of transformers without names of kernels, code and other files.

    Raises ValueError for quantised weights, and for values out of range.
    """
    if config.get("quantization_config"):
        raise ValueError(
            "its weights are quantised, which this project does not read; take the original ones"
        )
    kept = _stripped(config)
    for place, key, value in _values(kept, ("config",)):
        _check(place, key, value, network=True)
    return kept


def _stripped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _stripped(v) for k, v in value.items() if k not in _REACHING}
    return [_stripped(v) for v in value] if isinstance(value, list) else value


def _values(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """All values of nested settings: where each is, its key and itself; settings before what they hold."""
    if len(place) > DEEPEST:
        raise ValueError(f"its settings are nested more than {DEEPEST} times")
    key = place[-1] if place else ""
    yield place, key, value
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _values(inner, (*place, str(name)))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            # a list of numbers is bounded as one number
            if isinstance(inner, (Mapping, list, tuple)):
                yield from _values(inner, (*place, key))
            else:
                yield place, key, inner


def _check(place: Sequence[str], key: str, value: Any, network: bool) -> None:
    name = ".".join(place)
    reaches = network or place[0] == "tasks" or (place[0] == "lora" and key.startswith("_"))
    if reaches and key in _REACHING and value not in (None, False, "", {}):
        shown = repr(value)[:60]
        raise ValueError(
            f"{name}={shown} asks for something outside of the file, which weights do not need; nothing was "
            "fetched or run. Take the line out of its config.json"
        )
    if key == "model_type" and isinstance(value, str) and network and value not in _MODELS:
        raise ValueError(
            f"{name}={value!r} is not part of a model here; there are {', '.join(sorted(_MODELS))}"
        )
    if key in ("dtype", "torch_dtype") and isinstance(value, str) and value not in _DTYPES:
        raise ValueError(f"{name}={value!r} is not a type of weights; there are {', '.join(sorted(_DTYPES))}")
    _check_number(name, key, value)


def _check_number(name: str, key: str, value: Any) -> None:
    if isinstance(value, bool) or value is None:
        return
    low, high = _WITHIN.get(key, (-_LARGEST, _LARGEST))
    if isinstance(value, (int, float)):
        if not low <= value <= high or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{name}={_short(value)} is not in {low:g}..{high:g}")
    elif key in _WITHIN and not isinstance(value, (list, tuple, Mapping)):
        raise ValueError(f"{name}={str(value)[:40]!r} is not a number")


def _short(value: float) -> str:
    """A number as text; Python refuses to write integers of thousands of digits."""
    return str(value) if not isinstance(value, int) or value.bit_length() < 64 else f"2^{value.bit_length()}"


def _slow(pattern: str) -> bool:
    """Whether a regular expression repeats a group that itself repeats something."""
    return bool(re.search(r"[*+}][^()]*\)\s*[*+{]", pattern))


# ---------------------------------------------------------------- memory


class _Allocations(TorchFunctionMode):
    """Refuses factories of tensors beyond a number of elements, before they reserve any."""

    _BY_SIZE = frozenset({torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full})
    _BY_RANGE = frozenset({torch.arange, torch.linspace, torch.eye})

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.left = elements

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self._BY_SIZE:
            size = args[0] if args and isinstance(args[0], Sequence) else args
            size = (kwargs or {}).get("size", size)
            if func is torch.full:
                size = size[0] if size and isinstance(size[0], Sequence) else size
            self._take(size)
        elif func in self._BY_RANGE:
            self._take([n for n in args if isinstance(n, int)][:2] if func is torch.eye else _span(args))
        return func(*args, **(kwargs or {}))

    def _take(self, size: Iterable[Any]) -> None:
        self.left -= math.prod(n for n in size if isinstance(n, int))
        if self.left < 0:
            raise ValueError("its config describes far more weights than its files hold")


def _span(args: Sequence[Any]) -> list[int]:
    return [max((abs(int(n)) for n in args if isinstance(n, (int, float))), default=0)]


@contextmanager
def no_more_than(weights: Mapping[str, Tensor], elsewhere: bool = False) -> Iterator[None]:
    """Inside, modules may make about as many values as `weights` have; CheckpointError for more.

    `elsewhere` says that others are in a base's file, whose size is not known.
    """
    held = sum(value.numel() for value in weights.values())
    most = 2**38 if elsewhere else 4 * held + 2**27  # tables, masks and tied weights come on top
    with _Allocations(most):
        yield
