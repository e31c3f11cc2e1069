"""Exported parts called with tensors, whatever runs them, and whole answers with them.

Only for files that were just written: a `.pt2` from elsewhere may hold native code.
Shapes: `R` rows, `T` answer tokens, `C` width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

Run = Callable[..., tuple[Tensor, ...]]
"""A part: tensors in, a tuple of tensors out."""


class Said(NamedTuple):
    """Greedy answers."""

    ids: Tensor  # int64 [R, T], end tokens behind the end
    scores: Tensor  # float32 [R], probability of the first token
    hidden: Tensor  # [R, T, C], the states that emitted the tokens
    features: Tensor  # [B, H, W, C]


def torch_program(path: Path) -> Run:
    """A program of torch.export."""
    run: Run = torch.export.load(path).module()
    return run


def compiled_program(path: Path) -> Run:
    """A program that AOTInductor compiled.

    It reads memory in the order that the example of its compilation had, whatever a tensor's strides
    say, so that a picture with its channels last would silently be another picture.
    """
    from torch._inductor import aoti_load_package  # a documented name, although the module's is underscored

    run = aoti_load_package(str(path))
    return lambda *given: tuple(run(*(one.contiguous() for one in given)))


def onnx_session(path: Path, threads: int = 0) -> Run:
    """A session of onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        feed = {name: one.cpu().numpy() for name, one in zip(names, given, strict=False)}
        return tuple(torch.from_numpy(one) for one in session.run(None, feed))

    return run


def answer(encoder: Run, step: Run, end: int, max_length: int, *given: Tensor) -> Said:
    """The likeliest token at every step until every row has ended; `given` are the encoder's arguments."""
    with torch.inference_mode():
        features, logits, hidden, memory, *prefix = encoder(*given)
        scores = logits.float().softmax(-1).amax(-1)
        tokens = logits.argmax(-1)
        ids, states, going = [tokens], [hidden], tokens != end
        while len(ids) < max_length and bool(going.any()):
            logits, hidden, memory = step(tokens, memory, *prefix)
            tokens = torch.where(going, logits.argmax(-1), end)
            going = going & (tokens != end)
            ids.append(tokens)
            states.append(hidden)
        return Said(torch.stack(ids, 1), scores, torch.stack(states, 1), features)
