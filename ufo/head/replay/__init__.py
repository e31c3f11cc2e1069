"""Predictions and training passes that are recorded and replayed, so that a GPU does not wait for Python.

`replay` puts itself in front of a backbone's passes (prompt, prefix, answers); nobody else knows of it.
Whatever Python decides in a pass (by lengths, by layers) is part of what tells one recording from another.
"""

from __future__ import annotations

from ufo.backbones.base import Backbone
from ufo.head.replay.cuda_graphs import CudaGraphs
from ufo.head.replay.passes import Replay
from ufo.head.replay.recordings import Recorder
from ufo.head.replay.training import TrainingReplay

__all__ = ["MOST", "Recorder", "Replay", "TrainingReplay", "replay", "replay_training"]

MOST = 128  # recordings: one per number of rows, of tokens in the cache and of tokens fed at once


def replay(backbone: Backbone, recorder: Recorder | None = None, most: int = MOST) -> Replay:
    """From now on record and replay what a backbone predicts; training runs as before."""
    known = dict(backbone.named_children()).get("replay")
    if isinstance(known, Replay):
        return known
    own = Replay(backbone, CudaGraphs() if recorder is None else recorder, most)
    for name in ("encode_prompt", "encode", "answer"):
        if getattr(type(backbone), name) is not getattr(Backbone, name):
            setattr(backbone, name, getattr(own, name))
    # as a part of the backbone it is told of all that changes weights
    backbone.add_module("replay", own.train(backbone.training))
    return own


def replay_training(backbone: Backbone, recorder: Recorder | None = None, most: int = MOST) -> TrainingReplay:
    """What takes the place of `ufo.head.learning.learn` for a backbone, recorded and replayed."""
    return TrainingReplay(backbone, CudaGraphs() if recorder is None else recorder, most)
