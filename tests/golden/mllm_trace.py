"""What our language-model backbone computes, listened to, and where the recordings have the same tokens.

Shapes: `B` images, `S` trained queries, `R = B*S` rows, `T` fed answer tokens, `N` prefix, `C` width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor

from ufo.backbones.base import Backbone
from ufo.backbones.context import Context, LayerMemory
from ufo.backbones.prefix_attention import AnswerPass, answer_attention


class Trace:
    """What entered each decoder layer and left the final norm, once for the prefix, once for answers."""

    def __init__(self):
        self.calls: list[list[Tensor]] = []
        self.masks: list[Tensor | None] = []
        self.rope: list[Tensor] = []
        self.tiles: Tensor | None = None
        self.patches: Tensor | None = None
        self.context: Context | None = None

    @property
    def visible(self) -> Tensor:
        """bool `[B, N]`, what is not a padding."""
        keys = self.context.memory[0].shared[0]
        shape = (len(keys), keys.shape[2])
        return torch.ones(shape, dtype=torch.bool) if self.context.visible is None else self.context.visible

    @property
    def prefix(self) -> list[Tensor]:
        """Per layer and after the norm `[B, N, C]`."""
        return self.calls[0]

    @property
    def answers(self) -> list[Tensor]:
        """Of the first answer pass, per layer and after the norm `[1, M, C]` or `[R, T, C]`."""
        return self.calls[1]


@contextmanager
def traced(backbone: Backbone) -> Iterator[Trace]:
    """Listen to a backbone."""
    trace, decoder = Trace(), backbone.decoder
    handles = []

    def entered(index):
        def hook(module, arguments, named):
            if index == 0:
                trace.calls.append([])
                trace.masks.append(named["attention_mask"])
            trace.calls[-1].append(arguments[0].detach())

        return hook

    def left(module, arguments, output):
        trace.calls[-1].append(decoder.norm(output).detach())

    def rotated(module, arguments):
        trace.rope.append(arguments[1])

    def projected(module, arguments, output):
        trace.patches = output.detach()

    encode, normalise = backbone.encode, backbone.normalise

    def encoded(*arguments, **named):
        trace.context = encode(*arguments, **named)
        return trace.context

    def normalised(pixels):
        trace.tiles = normalise(pixels)
        return trace.tiles

    for index, layer in enumerate(decoder.layers):
        handles.append(layer.register_forward_pre_hook(entered(index), with_kwargs=True))
    handles.append(decoder.layers[-1].register_forward_hook(left))
    handles.append(decoder.rotary_emb.register_forward_pre_hook(rotated))
    handles.append(backbone.net.model.multi_modal_projector.register_forward_hook(projected))
    try:
        with patch.multiple(backbone, encode=encoded, normalise=normalised):
            yield trace
    finally:
        for handle in handles:
            handle.remove()


class Places:
    """Which recorded token each of ours is: theirs are one row per image, with all its answers.

    `fed (R, T)` are our answer tokens and `packed [M]` those that are computed. The recorded rows hold
    answers of `stride` tokens, `slots [S]` says where ours stand among them; without queries answers go on
    from the prompt. `left`: its padding is at the left.
    """

    def __init__(self, case, seen, fed, packed=None, stride=1, slots=None, left=False):
        self.seen, (self.rows, self.length) = seen, fed
        visible, self.total = (
            seen.visible,
            case["final_normed" if "final_normed" in case else "blocked"].shape[1],
        )
        self.counts = visible.sum(1)  # [B]
        self.packed = torch.arange(self.rows * self.length) if packed is None else packed
        each = self.rows // len(visible)
        row, at = self.packed // self.length, self.packed % self.length
        self.image = row // each  # [M]
        if slots is None:
            self.begin = self.total - self.counts - 1 if left else torch.zeros_like(self.counts)
            self.place = self.begin[row] + self.counts[row] + at
        else:
            answers = self.total - each * stride
            self.begin = answers - self.counts if left else torch.zeros_like(self.counts)
            self.place = answers + slots[row % each] * stride + at

    def pair(self, prefix: Tensor, answers: Tensor, recorded: Tensor) -> tuple[Tensor, Tensor]:
        """Our prefix `[B, N, ...]` and answers `[M, ...]`, and the same of recorded `[B, total, ...]`."""
        ours = [x[keep] for x, keep in zip(prefix, self.seen.visible, strict=True)]
        theirs = [x[a : a + n] for x, a, n in zip(recorded, self.begin, self.counts, strict=True)]
        return torch.cat([*ours, answers]), torch.cat([*theirs, recorded[self.image, self.place]])

    def sights(self) -> tuple[Tensor, Tensor]:
        """Which recorded tokens `[total]` our prefix tokens, and our answer tokens, attend to."""
        mask, visible = self.seen.masks[0], self.seen.visible
        images, length = visible.shape
        mask = mask[:, 0].expand(images, -1, -1)
        prefix = torch.zeros(images, length, self.total, dtype=torch.bool)
        column = self.begin[:, None] + visible.cumsum(1) - 1  # [B, N], where our prefix is in theirs
        for b in range(images):
            prefix[b][:, column[b][visible[b]]] = mask[b][:, visible[b]]
        probed = seen_by_answers(self.seen.context, (self.rows, self.length), self.packed)
        answers = torch.zeros(len(self.packed), self.total, dtype=torch.bool)
        for m, b in enumerate(self.image.tolist()):
            answers[m, column[b][probed[m, :length] & visible[b]]] = True
            own = probed[m, length:][self.packed]  # [M]
            assert not own[self.image != b].any(), "an answer sees one of another image"
            answers[m, self.place[own]] = True
        return prefix, answers


def seen_by_answers(context: Context, fed: tuple[int, int], packed: Tensor) -> Tensor:
    """bool `[M, N + R*T]`: what each answer token attends to, found out with values that name their keys."""
    images, _, length, _ = context.memory[0].shared[0].shape
    tokens = fed[0] * fed[1]
    names = torch.eye(length + tokens)
    values = names[:length].expand(images, 1, -1, -1)
    memory = [LayerMemory(shared=(torch.zeros_like(values), values))]
    own = names[length:][packed][None, None]  # [1, 1, M, N + R*T]
    zeros = torch.zeros_like(own)
    probe = AnswerPass(0, replace(context, memory=memory), fed, packed)
    return answer_attention(zeros, zeros, own, 1.0, probe)[0, :, 0] > 0
