"""Which weights of a backbone train: all, some of its parts, or low-rank adapters (LoRA, through peft).

Adapters are put into the backbone's own modules, nothing is wrapped around it. What does not train has no
gradient and no optimizer state, and is not saved where a file holds it already: the base, known by its name
and a fingerprint of its values. Shapes: `r` rank, weight `[out, in]`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ufo.backbones.base import Backbone
from ufo.backbones.four_bits import FourBitLinear, check_installed
from ufo.ops.autocast import autocasts

SAMPLES = 1024  # values of each tensor that a fingerprint reads
_INSIDE = ".base_layer."  # how peft names the weight that an adapter sits on
ADAPTER = ".lora_"  # in the name of every weight of an adapter


@dataclass(frozen=True)
class LoRASettings:
    """What of a backbone trains; the config group `lora`.

    Args:
        r: rank of the adapters; None for no adapters.
        alpha: the adapters' product is scaled by `alpha / r`, or `alpha / sqrt(r)` with `rslora`.
        dropout: of the adapters' input, in training.
        targets: regular expression that the whole name of a linear layer must match to get an adapter.
        dora: learn the length of each weight column beside its direction.
        train_vision, train_projector, train_lm, train_embeddings: whether the weights of that part train in
            full. Embeddings are the token embedding, the output head and the norm before it.
        bits: 4 keeps the frozen weights that adapters sit on in four bits (`shrink_base`); None as they are.
        fresh_norm: start that norm at ones instead of the pretrained values (the published full models).
    """

    r: int | None = None
    alpha: float | None = None
    dropout: float = 0.0
    targets: str | None = None
    dora: bool = False
    rslora: bool = False
    train_vision: bool = True
    train_projector: bool = True
    train_lm: bool = True
    train_embeddings: bool = True
    fresh_norm: bool = False
    bits: int | None = None

    def trains(self, part: str) -> bool:
        """Whether the weights of a part (see `Backbone.part_of`) train in full."""
        return getattr(self, f"train_{part}")


def apply_lora(backbone: Backbone, settings: LoRASettings | Mapping[str, Any]) -> None:
    """Freeze what does not train and put adapters where `settings` want them; the function stays the same.

    Raises ValueError where no linear layer matches the targets, or everything would be frozen.
    """
    if not isinstance(settings, LoRASettings):
        settings = LoRASettings(**settings)
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    if settings.bits is not None:
        _check_bits(backbone, settings)
    if settings.r is not None:
        _check(settings)
        _insert(backbone, settings)
    for name, parameter in backbone.named_parameters():
        own = plain_name(name) in trained and settings.trains(backbone.part_of(name))
        parameter.requires_grad_(ADAPTER in name or own)
    if not any(p.requires_grad for p in backbone.parameters()):
        raise ValueError("lora freezes every weight; let a part train (lora.train_lm=true) or set lora.r")
    backbone.lora = None if settings == LoRASettings() else asdict(settings)
    if backbone.lora and settings.bits is None:
        del backbone.lora["bits"]  # as in checkpoints from before there was a choice


def _check(settings: LoRASettings) -> None:
    if settings.r is None or settings.r < 1 or not settings.alpha or not settings.targets:
        raise ValueError(
            "an adapter needs lora.r >= 1, lora.alpha and lora.targets; lora=official (language models) and "
            "lora=ufo_vit have them"
        )
    if not 0 <= settings.dropout < 1:
        raise ValueError(f"lora.dropout is a part of 1, not {settings.dropout}")
    try:
        re.compile(settings.targets)
    except re.error as error:
        raise ValueError(f"lora.targets is not a regular expression: {error}") from error


def _check_bits(backbone: Backbone, settings: LoRASettings) -> None:
    if settings.bits != 4:
        raise ValueError(f"lora.bits is 4 or null, not {settings.bits}")
    if backbone.transformers_model is None:
        raise ValueError("lora.bits=4 is for language models; the adapters of a UFO-ViT are lora=ufo_vit")
    if settings.r is None or settings.dora or settings.train_lm:
        raise ValueError(
            "lora.bits=4 is for frozen weights under adapters: it goes with lora.r, lora.dora=false and "
            "lora.train_lm=false, as lora=qlora has it"
        )
    if backbone.output_embedding.dtype != torch.bfloat16:
        raise ValueError(
            "lora.bits=4 goes with bfloat16, for all that does not take four bits: add "
            "backbone.network.dtype=bfloat16"
        )
    check_installed()


def _insert(backbone: Backbone, settings: LoRASettings) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("adapters need peft: pip install 'ufo-vision[mllm]'") from error
    assert settings.r is not None and settings.targets is not None, "`_check` has seen to it"
    pattern = re.compile(settings.targets)
    names = [n for n, m in backbone.named_modules() if isinstance(m, nn.Linear) and pattern.fullmatch(n)]
    if not names:
        example = next(n for n, m in reversed([*backbone.named_modules()]) if isinstance(m, nn.Linear))
        raise ValueError(
            f"no linear layer of {type(backbone).__name__} is called as lora.targets says "
            f"('{settings.targets}'); one is called {example}"
        )
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft only divides it
        lora_dropout=settings.dropout,
        # the names themselves: peft must not find more than we did
        target_modules="|".join(re.escape(name) for name in names),
        use_dora=settings.dora,
        use_rslora=settings.rslora,
    )
    inject_adapter_in_model(config, backbone)
    if settings.dora:  # computes more than products, in the type of its input
        return
    for module in _adapted(backbone).values():
        module.register_forward_pre_hook(_cast_where_autocast_does_not)


def _cast_where_autocast_does_not(module: Any, inputs: tuple[Any, ...]) -> None:
    """Of an input in bf16 peft makes float32, the type of the adapters, and autocast bf16 again."""
    module.cast_input_dtype_enabled = not autocasts(inputs[0].device)


# ---------------------------------------------------------------- four bits


def shrink_base(backbone: Backbone, device: torch.device | None = None) -> None:
    """Put the weights that adapters sit on into four bits where the settings say so, once they are loaded.

    `device`: where that happens and where they stay. Raises ValueError where no file holds the weights, which
    a checkpoint then leaves out.
    """
    if not backbone.lora or not backbone.lora.get("bits"):
        return
    kept = set() if backbone.base is None else {plain_name(name) for name in backbone.base["except"]}
    if backbone.base is None or any(f"{name}.weight" in kept for name in _adapted(backbone)):
        raise ValueError(
            "lora.bits=4 saves adapters only, and no file holds the weights under them: start from a "
            "language model (init=FOLDER or backbone.network.pretrained=NAME)"
        )
    pack(backbone, device)


def check_packing(compiles: bool, spreads: bool) -> None:
    """Raises ValueError where a training with a packed base is to be compiled, or spread over devices."""
    if compiles or spreads:
        raise ValueError(
            "lora.bits=4 goes with compile=false and one device or trainer=ddp: packed weights are neither "
            "compiled nor spread over devices"
        )


def pack(backbone: nn.Module, device: torch.device | None = None) -> None:
    """Put the weights under all adapters into four bits, wherever they come from."""
    for module in _adapted(backbone).values():
        if isinstance(module.get_base_layer(), nn.Linear):
            module.base_layer = FourBitLinear(module.get_base_layer(), device)


def in_four_bits(model: nn.Module) -> list[FourBitLinear]:
    """The layers that hold four bits a weight, which are no parameters."""
    return [module for module in model.modules() if isinstance(module, FourBitLinear)]


# ---------------------------------------------------------------- names and values


def plain_name(name: str) -> str:
    """A weight's name as it is without adapters."""
    return name.replace(_INSIDE, ".")


def scale_of(settings: Mapping[str, Any]) -> float:
    """The factor of the adapters' product."""
    rank = settings["r"]
    return settings["alpha"] / (math.sqrt(rank) if settings["rslora"] else rank)


def frozen(backbone: nn.Module) -> dict[str, Tensor]:
    """The weights that do not train, by their names in `state_dict`."""
    return {name: p for name, p in backbone.named_parameters() if not p.requires_grad}


def has_adapters(settings: Mapping[str, Any] | None) -> bool:
    """Whether settings (see `Backbone.lora`) put adapters into a backbone."""
    return bool(settings and settings["r"] is not None)


def held_elsewhere(backbone: Backbone, prefix: str = "") -> set[str]:
    """The names, after a prefix, of weights that a checkpoint leaves out: frozen, and in the base's file."""
    if backbone.base is None:
        return set()
    return {prefix + name for name in frozen(backbone).keys() - set(backbone.base["except"])}


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A short text that tells sets of weights apart: names, shapes and sampled values.

    Values are rounded to bfloat16 first, so a model and its copy in that type have the same.
    """
    digest = hashlib.sha256()
    for name in sorted(weights, key=plain_name):
        flat = weights[name].detach().flatten()
        sample = flat[:: max(len(flat) // SAMPLES, 1)].to(torch.bfloat16).view(torch.int16).cpu()
        digest.update(f"{plain_name(name)}{tuple(weights[name].shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- adapters


def start_adapters(backbone: nn.Module) -> None:
    """Let adapters that have learned nothing fit weights that were loaded under them (DoRA's lengths)."""
    for module in _adapted(backbone).values():
        weight = module.get_base_layer().weight
        for magnitude in module.lora_magnitude_vector.values():
            with torch.no_grad():
                magnitude.weight.copy_(torch.linalg.norm(weight.float(), dim=1))  # [out]


def merge_lora(backbone: Backbone) -> None:
    """Add the adapters to the weights they sit on and take them out; predictions stay the same.

    Of weights in four bits become those that they stand for, in the type that they had before.

    Raises ValueError where an adapter holds values that are no numbers.
    """
    for name, module in _adapted(backbone).items():
        if isinstance(module.get_base_layer(), FourBitLinear):
            module.base_layer = module.get_base_layer().unpacked()
        module.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(backbone.get_submodule(parent), child, module.get_base_layer())
    backbone.lora = backbone.base = None


def _adapted(backbone: nn.Module) -> dict[str, Any]:
    """The linear layers with adapters, which are peft's, by name."""
    return {name: module for name, module in backbone.named_modules() if hasattr(module, "lora_A")}
