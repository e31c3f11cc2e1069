"""Names and architecture of the released UFO-ViT checkpoints (docs/published_system.md#vit-network).

A released state dict holds everything under `backbone.`. Reading the file and making a model of it is
released.py's work: here are only names and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ufo.checkpoints.errors import listing

PREFIX = "backbone."
LAYER = "layers."

_DIMENSIONS = {  # of the tensors that tell the architecture
    "pos_embed": 4,
    "patch_embed.weight": 4,
    "embedding.word.weight": 2,
    "embedding.position.weight": 2,
    "layers.0.fc1.weight": 2,
}

# released name -> ours; None: a constant that our module does not store
_OUTSIDE_LAYERS = {
    "pos_embed": "pos_embed",
    "patch_embed.projection.weight": "patch_embed.weight",
    "patch_embed.projection.bias": "patch_embed.bias",
    "embed.position_ids": None,
    "embed.word_embeddings.weight": "embedding.word.weight",
    "embed.position_embeddings.weight": "embedding.position.weight",
    "embed.LayerNorm.weight": "embedding.norm.weight",
    "embed.LayerNorm.bias": "embedding.norm.bias",
}
_OF_A_LAYER = {
    "ln1.weight": "norm1.weight",
    "ln1.bias": "norm1.bias",
    "attn.qkv.weight": "qkv.weight",
    "attn.qkv.bias": "qkv.bias",
    "attn.proj.weight": "proj.weight",
    "attn.proj.bias": "proj.bias",
    "attn.rel_pos_h": "rel_pos_h",
    "attn.rel_pos_w": "rel_pos_w",
    "ln2.weight": "norm2.weight",
    "ln2.bias": "norm2.bias",
    "ffn.layers.0.0.weight": "fc1.weight",
    "ffn.layers.0.0.bias": "fc1.bias",
    "ffn.layers.1.weight": "fc2.weight",
    "ffn.layers.1.bias": "fc2.bias",
}


def key_table(num_layers: int) -> dict[str, str | None]:
    """Released name -> our name (None: we store nothing) for a model with that many layers."""
    table = {PREFIX + name: ours for name, ours in _OUTSIDE_LAYERS.items()}
    for i in range(num_layers):
        table |= {f"{PREFIX}{LAYER}{i}.{name}": f"{LAYER}{i}.{ours}" for name, ours in _OF_A_LAYER.items()}
    return table


def convert_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of `ufo.backbones.ufo_vit.UFOViT`.

    Args:
        state_dict: a released UFO-ViT `state_dict`, base, large or huge, of one or several tasks.

    Raises:
        ValueError: a key has no place in the model, or one that it needs is not there; both listed.
    """
    table = key_table(_num_layers(state_dict))
    unmapped = [key for key in state_dict if key not in table]
    missing = [key for key, ours in table.items() if ours and key not in state_dict]
    if unmapped or missing:
        raise ValueError(
            "this is not a released UFO-ViT checkpoint: "
            f"{listing('unmapped', unmapped)}; {listing('missing', missing)}"
        )
    return {ours: state_dict[key] for key, ours in table.items() if ours}


def architecture(
    state_dict: Mapping[str, Tensor], global_layers: Sequence[int] | None = None
) -> dict[str, Any]:
    """The arguments of `UFOViT` that these tensors fit, as far as tensors tell.

    Layers up to the last one with global attention are the pre-trained encoder's, as SAM's end with
    a global layer; those after it are the new layers. Rates of dropout leave no trace.

    Args:
        state_dict: a released UFO-ViT `state_dict` (see `convert_keys`).
        global_layers: needed only where an image is a single window: then the relative-position
            tables of global and windowed layers are of one size.

    Raises:
        ValueError: other names (`convert_keys`), or shapes that fit no UFO-ViT.
    """
    weights = convert_keys(state_dict)
    _check_dimensions(weights)
    rows = {i: _table_rows(weights, i) for i in range(_num_layers(state_dict))}
    _, height, grid, width = weights["pos_embed"].shape
    if height != grid:
        raise ValueError(f"the position embedding is {height} x {grid} patches; expected a square")
    # windows are never larger than the image
    window_rows, global_rows = min(rows.values()), 2 * grid - 1
    strange = [i for i, n in rows.items() if n not in (window_rows, global_rows)]
    if strange:
        raise ValueError(
            f"layers {strange} have relative positions for neither a window ({window_rows} rows) "
            f"nor the image of {grid} x {grid} patches ({global_rows} rows)"
        )
    if global_layers is None:
        global_layers = [i for i, n in rows.items() if n == global_rows != window_rows]
    if not global_layers:
        raise ValueError(
            "all relative-position tables have the same size, so the layers with global attention "
            "cannot be recognised; pass them as global_layers"
        )
    depth = max(global_layers) + 1
    head_width = weights["layers.0.rel_pos_h"].shape[1]
    if width % head_width:
        raise ValueError(
            f"relative positions of width {head_width} do not divide the width {width} into heads"
        )
    patch_size = weights["patch_embed.weight"].shape[-1]
    return {
        "vocab_size": len(weights["embedding.word.weight"]),
        "width": width,
        "depth": depth,
        "heads": width // head_width,
        "global_layers": list(global_layers),
        "new_layers": len(rows) - depth,
        "mlp_ratio": len(weights["layers.0.fc1.weight"]) / width,
        "image_size": grid * patch_size,
        "patch_size": patch_size,
        "window_size": (window_rows + 1) // 2,
        "max_positions": len(weights["embedding.position.weight"]),
        # how the released weights were trained: docs/published_system.md#queries
        "query_update_at_global": "training",
    }


def _check_dimensions(weights: Mapping[str, Tensor]) -> None:
    for name, dimensions in _DIMENSIONS.items():
        if weights[name].ndim != dimensions or not weights[name].numel():
            raise ValueError(f"{name} has the shape {tuple(weights[name].shape)}; that fits no UFO-ViT")


def _num_layers(state_dict: Mapping[str, Tensor]) -> int:
    """Layers by the highest number in a key, so that a hole shows up as missing keys."""
    start = PREFIX + LAYER
    numbers = [key[len(start) :].split(".")[0] for key in state_dict if key.startswith(start)]
    highest = max((int(n) for n in numbers if n.isdecimal()), default=0)
    # a number in an untrusted file must not make us build a huge table
    return min(highest + 1, len(state_dict))


def _table_rows(weights: Mapping[str, Tensor], layer: int) -> int:
    tables = [weights[f"{LAYER}{layer}.rel_pos_{axis}"] for axis in "hw"]
    if any(table.ndim != 2 or not table.numel() for table in tables):
        raise ValueError(f"the relative positions of layer {layer} are no tables")
    rows = {len(table) for table in tables}
    if len(rows) > 1:
        raise ValueError(f"layer {layer} has relative positions of two sizes: {sorted(rows)} rows")
    return rows.pop()
