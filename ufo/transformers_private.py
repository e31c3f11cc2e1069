"""The private parts of transformers that this project needs: each one here, with its reason, nowhere else.

tests/test_lightning_private.py notices when a new version of transformers changes one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def from_config(
    model_class: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    """A model with random weights of a dtype, and the attention implementation that the config names.

    `AutoModel.from_config` is public but chooses the class itself, and the constructor makes float32 weights
    first: twice the memory of an 8B model in bfloat16.
    """
    return model_class._from_config(config, dtype=dtype)
