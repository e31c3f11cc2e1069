"""Start a UFO-ViT from weights of another image size, vocabulary, prompt length or number of layers.

What fits is copied. Position tables are interpolated, as SAM's users do; a new word starts as the mean of the
pieces that it was spelled with; a longer prompt repeats the known positions; a new layer starts as one that
changes nothing. `strict_init=true` asks for weights of exactly this architecture instead.
Shapes: `V` tokens, `C` width, `H W` patches, `P` positions, `d` width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.backbones.attention import resize_table
from ufo.backbones.lora import ADAPTER, plain_name
from ufo.backbones.vit_grids import resize_position_grid
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.read import stored_tokenizer
from ufo.model import UFO
from ufo.tokenizer import UFOTokenizer

FAMILY = "UFOViT"
TABLES = frozenset(
    ["vocab_size", "max_positions", "image_size", "patch_size", "window_size", "global_layers"]
)
FREE = TABLES | {"depth", "new_layers", "mean_layers"}
"""Settings in which a start may differ from the model; the width of layers is not among them."""
PREFIX = "backbone."
WORDS = PREFIX + "embedding.word.weight"


def grows(model: UFO, description: Mapping[str, Any]) -> bool:
    """Whether a model can start from another one by growing: both are a UFO-ViT."""
    return description["backbone"].get("type") == FAMILY == type(model.backbone).__name__


@dataclass
class Grown:
    """Weights for a model, and what was done for them."""

    weights: dict[str, Tensor]
    changed: list[str] = field(default_factory=list)  # in words, nothing where all weights are as they were

    def note(self, text: str) -> None:
        """Remember something that was done, once."""
        if text not in self.changed:
            self.changed.append(text)

    def __str__(self) -> str:
        return "; ".join(self.changed)


def grow(model: UFO, description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Grown:
    """Weights in the model's shapes from those of the UFO-ViT that `description` describes.

    Raises CheckpointError where tensors differ in more than what can grow.
    """
    old, new = description["backbone"], model.backbone.config
    result = Grown(dict(weights))
    wanted = {plain_name(k): v for k, v in model.state_dict().items() if ADAPTER not in k}
    _place_layers(result, wanted, old, new)
    if WORDS in result.weights:
        result.weights[WORDS] = _words(result, result.weights[WORDS], description, model)
    for name, tensor in wanted.items():
        have = result.weights.get(name)
        if have is not None and have.shape != tensor.shape:
            result.weights[name] = _fitted(result, name, have, tensor)
    return result


def _fitted(result: Grown, name: str, have: Tensor, wanted: Tensor) -> Tensor:
    """One tensor in another shape."""
    last = name.removeprefix(PREFIX)
    if last == "pos_embed":
        result.note(f"positions of {_grid(have)} patches interpolated to {_grid(wanted)}")
        return resize_position_grid(have, wanted.shape[1:3])
    if last.endswith(("rel_pos_h", "rel_pos_w")) and have.shape[1] == wanted.shape[1]:
        result.note("relative positions interpolated")
        return resize_table(have, (len(wanted) + 1) // 2)
    if last == "embedding.position.weight" and have.shape[1] == wanted.shape[1]:
        result.note(f"positions in texts: {len(wanted)} from {len(have)}")
        return have[torch.arange(len(wanted)) % len(have)]
    if last == "patch_embed.weight" and have.shape[:2] == wanted.shape[:2]:
        result.note(f"patches of {have.shape[-1]} pixels interpolated to {wanted.shape[-1]}")
        # the sum over a patch of one colour stays what it was
        kernel = F.interpolate(have.float(), wanted.shape[-2:], mode="bicubic", antialias=True)
        kernel += (have.float().mean((2, 3)) - kernel.mean((2, 3)))[..., None, None]
        return (kernel * (have.shape[-1] / wanted.shape[-1]) ** 2).to(have.dtype)
    raise CheckpointError(
        f"{last} has the shape {tuple(have.shape)} there and {tuple(wanted.shape)} here, which cannot grow: "
        "take the backbone that the weights are of"
    )


def _grid(table: Tensor) -> str:
    return " x ".join(str(n) for n in table.shape[1:3])


# ---------------------------------------------------------------- words


def _words(result: Grown, old: Tensor, description: Mapping[str, Any], model: UFO) -> Tensor:
    """Embedding rows `[V, C]` of another vocabulary; a new word is the mean of what it was spelled with."""
    theirs, ours = stored_tokenizer(description), model.tokenizer
    if not (isinstance(theirs, UFOTokenizer) and isinstance(ours, UFOTokenizer)):
        return old
    if (theirs.vocab, theirs.added) == (ours.vocab, ours.added):
        return old
    tokens = {token: theirs.token_id(token) for token in (*theirs.vocab, *theirs.added)}
    wanted = [*ours.vocab, *(token for token in ours.added if token not in ours.vocab)]
    spelled = theirs.encode([token.removeprefix("##") for token in wanted])
    pieces = [[tokens[t]] if t in tokens else ids[1:-1] for t, ids in zip(wanted, spelled, strict=True)]
    fresh = sum(token not in tokens for token in wanted)
    result.note(f"{len(wanted) - fresh} words kept, {fresh} new from the mean of their pieces")
    every = range(len(old))
    return torch.stack([old[list(ids or every)].mean(0) for ids in pieces])


# ---------------------------------------------------------------- layers


def _place_layers(
    result: Grown, wanted: Mapping[str, Tensor], old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    """Put each layer where its part of the model has it: the encoder's below, the added ones on top."""
    if (old["depth"], old["new_layers"]) == (new["depth"], new["new_layers"]):
        return
    moved = {i: i for i in range(min(old["depth"], new["depth"]))}
    moved |= {old["depth"] + i: new["depth"] + i for i in range(min(old["new_layers"], new["new_layers"]))}
    for name in [name for name in result.weights if _layer(name) is not None]:
        value, index = result.weights.pop(name), _layer(name)
        if index in moved:
            result.weights[_renumbered(name, moved[index])] = value
    fresh = sorted(set(range(new["depth"] + new["new_layers"])) - set(moved.values()))
    # what a first stage taught has nothing on top that could go on as it was
    random = not old["new_layers"]
    for name, value in wanted.items():
        if _layer(name) in fresh:
            # with these at zero, both residual branches of a layer add nothing
            silent = not random and (".proj." in name or ".fc2." in name)
            result.weights[name] = torch.zeros_like(value) if silent else value.clone()
    if left := old["depth"] + old["new_layers"] - len(moved):
        result.note(f"{left} layers left out")
    if fresh:
        how = "random" if random else "that change nothing at first"
        result.note(f"new layers {how}: {', '.join(map(str, fresh))}")


def _layer(name: str) -> int | None:
    """The number of the layer that a weight belongs to."""
    head, _, rest = name.partition("layers.")
    return int(rest.partition(".")[0]) if head == PREFIX else None


def _renumbered(name: str, index: int) -> str:
    return f"{PREFIX}layers.{index}.{name.removeprefix(PREFIX + 'layers.').partition('.')[2]}"
