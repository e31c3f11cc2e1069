"""Whether the config of a folder of transformers promises the outputs of a run's network.

Shapes of weights tell most differences when they are loaded. What they do not tell is compared here, on both
sides as the library's class reads it: files of different ages name and place the same settings differently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ufo.checkpoints import bounds
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.model_folder import first_line

# what the shapes of weights do not tell, but outputs depend on
_SILENT = {
    "": ("projector_hidden_act", "vision_feature_select_strategy"),
    "text_config": (
        *("model_type", "num_attention_heads", "num_key_value_heads", "head_dim"),
        *("rms_norm_eps", "rope_parameters", "hidden_act", "sliding_window"),
    ),
    "vision_config": (
        *("model_type", "num_attention_heads", "num_heads", "layer_norm_eps", "hidden_act"),
        *("window_size", "fullatt_block_indexes", "deepstack_visual_indexes"),
    ),
}
# two names of one thing, and a note about what the class does anyway
_NO_MATTER = ("type", "mrope_interleaved")


def values(config: Any) -> dict[str, Any]:
    """A config of transformers as plain values, the defaults among them."""
    return json.loads(config.to_json_string(use_diff=False))


def check_config(net: Any, config: Mapping[str, Any], name: str | Path) -> None:
    """Raises CheckpointError where a folder's `config.json` promises other outputs than the network's."""
    ours = values(net.config)
    if config.get("model_type") != ours["model_type"]:
        raise CheckpointError(
            f"'{name}' is a {config.get('model_type', 'model without a model_type')}, not the "
            f"{ours['model_type']} of this run; choose another backbone="
        )
    try:
        theirs = values(type(net.config).from_dict(bounds.without_reach(config)))
    except Exception as error:  # whatever a foreign file makes the class do is about the file
        raise CheckpointError(
            f"'{name}' has a config.json that cannot be read ({first_line(error)})"
        ) from error
    different = [
        f"{key}={_part(theirs, part).get(key)} there, {_part(ours, part).get(key)} here"
        for part, keys in _SILENT.items()
        for key in keys
        if _plain(_part(theirs, part).get(key)) != _plain(_part(ours, part).get(key))
    ]
    if different:
        raise CheckpointError(f"'{name}' is of another architecture: {'; '.join(different)}")


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name) if name else config
    return found if isinstance(found, Mapping) else {}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: v for k, v in value.items() if k not in _NO_MATTER}
    return value
