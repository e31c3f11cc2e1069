"""Whether exported parts compute what the model computes: the same images, the same answers' first tokens.

Both go through the encoder with one image and with several, and through some steps of greedy decoding, which
are fed the model's tokens.
"""

from __future__ import annotations

import torch

from ufo.export.errors import ExportError
from ufo.export.parts import Encoder, Part, example_inputs
from ufo.export.run import Run

BATCHES = (1, 4)  # neither is the example's
STEPS = 3
TOLERANCE = {torch.float32: 1e-4}
"""Of the largest number of an output. Sums in another order change the last bits of float32, layer by layer;
a wrong operation, mask or constant shows in the first digits."""
HALF = 5e-2  # 16 bits: eight are left for the digits, and one rounding is 4e-3


def check(parts: tuple[Part, Part], runs: tuple[Run, Run], kind: str) -> dict[str, float]:
    """The largest absolute difference of each output; ExportError beyond what rounding explains."""
    encoder, step = parts
    assert isinstance(encoder.module, Encoder)
    found: dict[str, float] = {}
    with torch.no_grad():
        for batch in BATCHES:
            images, *texts = example_inputs(encoder.module, batch, seed=batch)
            # as a decoded picture lies in memory, which a compiled program may not expect
            given = (images.contiguous(memory_format=torch.channels_last), *texts)
            right = encoder.module(*given)
            ours = runs[0](*given)
            _compare(encoder, right, ours, found, kind)
            _, logits, _, memory, *prefix = right
            theirs = ours[3]
            for _ in range(STEPS):
                tokens = logits.argmax(-1)
                logits, hidden, memory = step.module(tokens, memory, *prefix)
                other = runs[1](tokens, theirs, *ours[4:])
                _compare(step, (logits, hidden, memory), other, found, kind)
                theirs = other[2]
    return found


def _compare(
    part: Part,
    right: tuple[torch.Tensor, ...],
    given: tuple[torch.Tensor, ...],
    found: dict[str, float],
    kind: str,
) -> None:
    for name, one, other in zip(part.outputs, right, given, strict=True):
        if one.shape != other.shape:
            raise ExportError(
                f"{kind}: {name} of the {part.name} has the shape {tuple(other.shape)} and not "
                f"{tuple(one.shape)}; report it"
            )
        difference = (one.double() - other.double()).abs().max().item()
        allowed = TOLERANCE.get(one.dtype, HALF) * max(one.double().abs().max().item(), 1e-3)
        if not difference <= allowed:  # also where it is no number
            raise ExportError(
                f"{kind}: {name} of the {part.name} differs from the model by {difference:.1e}, and rounding "
                f"explains {allowed:.1e}; use another format, and report it"
            )
        found[name] = max(found.get(name, 0.0), difference)
