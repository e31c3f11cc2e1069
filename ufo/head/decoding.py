"""Decoding: all queries of all images at once, as the settings of their task say (paper section 3.4).

`ufo.head.strategy` chooses the parts, `ufo.head.greedy` and `ufo.head.beam` run them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ufo.backbones.base import Backbone
from ufo.backbones.context import Context
from ufo.head.beam import beams
from ufo.head.certainty import Certainty, Layout
from ufo.head.decoded import Decoded
from ufo.head.greedy import greedy
from ufo.head.strategy import choose_strategy
from ufo.tasks.base import Task
from ufo.tokenizer import Tokenizer

__all__ = ["Decoded", "decode"]


def decode(
    backbone: Backbone,
    context: Context,
    tokenizer: Tokenizer,
    task: Task,
    classes: Sequence[str] = (),
) -> Decoded:
    """The answers to all queries of a context.

    With the `classes` of a task given whose answers begin with a class name, a greedy row that begins none of
    them ends there: whatever it went on to say, it could not become an object, so predictions stay the same.

    Raises ValueError where the settings of the task do not go together.
    """
    strategy = choose_strategy(backbone, tokenizer, task, classes)
    decoded = (beams if strategy.beams else greedy)(backbone, context, strategy)
    emitted = decoded.features
    decoded.features = backbone.answer_features(decoded.ids, emitted)
    # a backbone may exchange what masks of first tokens are read with; other states are not kept twice
    first = None if decoded.features is emitted else emitted[:, 0].clone()
    decoded.certainty = certainty(backbone, tokenizer, task, decoded, first)
    return decoded


def certainty(
    backbone: Backbone, tokenizer: Tokenizer, task: Task, decoded: Decoded, first: Tensor | None
) -> Certainty:
    """What can be asked about the tokens of decoded answers; nothing is computed here."""
    layout = Layout(
        objects=task.objects_per_answer,
        largest=0 if task.mask_tokens else task.largest_bin,
        mask_id=tokenizer.mask_id,
        mask_tokens=task.mask_tokens,
        at_end=task.names_first,
    )
    temperature = task.temperature if task.num_beams > 1 else 1.0
    states, embedding = decoded.features, backbone.output_embedding
    return Certainty(decoded.ids, states, embedding, tokenizer, layout, temperature, first)
