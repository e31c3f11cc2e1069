"""Models of transformers as they are built, with as many token rows as a tokenizer has.

They are unmodified; their decoder layers are run one by one (`ufo.backbones.mllm`), so only decoders whose
layers are all there is to them are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ufo.backbones.vocabulary import fit_vocabulary
from ufo.transformers_private import from_config

if TYPE_CHECKING:  # importing transformers takes seconds, which a UFO-ViT does not need
    from transformers import PreTrainedModel

# others scale their embeddings, soften their scores or choose among experts outside of the layers' arguments
DECODERS = frozenset({"llama", "mistral", "qwen2", "qwen3", "qwen2_5_vl_text", "qwen3_vl_text"})


def build_net(
    model_class: type[PreTrainedModel],
    config: Mapping[str, Any] | None,
    pretrained: str | None,
    rows: int,
    dtype: torch.dtype,
) -> PreTrainedModel:
    """A model with random weights of a `config`, or a `pretrained` one, with so many token `rows`.

    Raises ValueError where both or none are given, and for a decoder that cannot be run layer by layer.
    """
    if (config is None) == (pretrained is None):
        raise ValueError("say either network.config (random weights) or network.pretrained, not both")
    if pretrained is not None:
        # the attention that its config names may be a kernel on the hub; ours takes its place anyway
        net = model_class.from_pretrained(pretrained, dtype=dtype, attn_implementation="eager")
        check_decoder(net.config)
        return resize_vocabulary(net, rows).train()  # as one with random weights is
    assert config is not None, "one of the two is given"
    config_class: Any = model_class.config_class
    assert config_class is not None, "a model of transformers that can be built names its config"
    settings = config_class.from_dict(json_values({k: v for k, v in config.items() if k != "model_type"}))
    check_decoder(settings)
    settings.get_text_config().vocab_size = rows
    return from_config(model_class, settings, dtype)


def check_decoder(config: Any) -> None:
    """Raises ValueError for a language model that does more than its layers do."""
    kind = config.get_text_config().model_type
    if kind not in DECODERS:
        raise ValueError(
            f"the language model is a {kind}, which is more than its layers; there are "
            f"{', '.join(sorted(DECODERS))}"
        )


def image_token(config: Mapping[str, Any]) -> int | None:
    """The id of the image's token in a `config.json`, under either name; None where it does not say."""
    found = config.get("image_token_id", config.get("image_token_index"))
    return found if isinstance(found, int) else None


def longest_context(config: Any) -> int:
    """How many tokens a language model reads while every one of them sees all earlier ones."""
    text = config.get_text_config()
    return min(text.max_position_embeddings, getattr(text, "sliding_window", None) or 10**9)


def resize_vocabulary(net: PreTrainedModel, rows: int) -> PreTrainedModel:
    """Cut or append token rows; a new row of the output head starts as `fit_vocabulary` has it.

    What is shared stays shared, and a head of its own stays one: a config may say otherwise.
    """
    head, embedding = net.get_output_embeddings(), net.get_input_embeddings()
    net.config.tie_word_embeddings = head.weight is embedding.weight
    old = head.weight.detach().clone()
    if rows != len(old):
        net.resize_token_embeddings(rows, mean_resizing=False)
        with torch.no_grad():
            net.get_output_embeddings().weight.copy_(fit_vocabulary(old, rows, len(old)))
    return net


def json_values(value: Any) -> Any:
    """Nested settings as dicts and lists, fit for JSON."""
    if isinstance(value, Mapping):
        return {str(k): json_values(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [json_values(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
