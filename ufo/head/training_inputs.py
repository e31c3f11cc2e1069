"""A training batch as the network meets it (paper section 3.5): tensors, and numbers that shapes decide.

`rounded` pads them, so that batches of nearly one length have one shape; nothing that is added is learned.
Shapes: `B` images, `n` prompt tokens, `R` rows, `T` fed tokens, `M` computed and `S` supervised ones, `m`
masks, `K` tokens of a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.head.losses import IGNORED, mean_over_ranks
from ufo.head.teacher import TeacherForcing
from ufo.ops.grid import Queries
from ufo.tasks.base import Asked

PROMPT_STEP, ANSWER_STEP = 16, 8  # lengths are rounded up to multiples of so many tokens


@dataclass
class MaskTargets:
    """The masks that answers of a batch should show, sorted by image."""

    true: Tensor  # uint8 [m, H, W]
    emits: Tensor  # int64 [P*K], which of the S tokens say the P = sum(counts) masks that are retrieved
    counts: list[int]  # B, retrieved masks of each image
    learned: Tensor  # float32 [], masks of this batch, the mean over all processes
    slots: Tensor | None = None  # int64 [m], which of the P these are; None: all of them
    kept: Tensor | None = None  # float32 [m], 0 for a mask that is padding; None: none is

    def map(self, function: Callable[[Tensor], Tensor]) -> MaskTargets:
        """The same with a function applied to all tensors."""
        mapped: dict[str, Any] = {n: function(x) for n, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **mapped)


@dataclass
class TrainingInputs:
    """What a network is shown, asked and told to say."""

    images: Tensor  # uint8 [B, 3, H, W]
    prompt: Tensor  # int64 [B or 1, n]
    prompt_mask: Tensor  # bool [B or 1, n], which of them may be seen
    queries: Queries | None
    causal: bool  # whether image tokens do not see later ones
    inputs: Tensor  # int64 [R, T]
    packed: Tensor  # int64 [M], flat positions that must be computed
    supervised: Tensor | None  # int64 [S], which of those; None: all
    targets: Tensor  # int64 [S], `IGNORED` where nothing is learned
    learned: Tensor  # float32 [], supervised tokens of this batch, the mean over all processes
    masks: MaskTargets | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> TrainingInputs:
        """The same with a function, such as a move to a device, applied to all tensors."""
        mapped: dict[str, Any] = {n: function(x) for n, x in vars(self).items() if isinstance(x, Tensor)}
        queries = self.queries and self.queries.map(function)
        return replace(self, **mapped, queries=queries, masks=self.masks and self.masks.map(function))


def make_training_inputs(
    images: Tensor,
    asked: Asked,
    prompt: tuple[Tensor, Tensor],
    forced: TeacherForcing,
    mask_id: int,
    device: torch.device,
    causal: bool = False,
) -> TrainingInputs:
    """What images `[B, 3, H, W]` are asked, as tokens and their mask, and should answer.

    Counts and masks are on the `device`, where processes agree about the counts; the rest is where it was.
    """
    masks = None
    if asked.masks is not None:
        true = asked.masks.to(device, non_blocking=True)
        emits = forced.targets.eq(mask_id).nonzero()[:, 0]
        masks = MaskTargets(true, emits, asked.mask_counts, mean_over_ranks(len(true), device))
    return TrainingInputs(
        images=images,
        prompt=prompt[0],
        prompt_mask=prompt[1],
        queries=asked.queries,
        causal=causal,
        inputs=forced.inputs,
        packed=forced.packed,
        supervised=forced.supervised,
        targets=forced.targets,
        learned=mean_over_ranks(len(forced.targets), device),
        masks=masks,
    )


def rounded(batch: TrainingInputs, pads_prompts: bool = True, most: int | None = None) -> TrainingInputs:
    """The batch with lengths of which there are few; it gives the same loss and the same gradients.

    `pads_prompts`: whether tokens behind a prompt change nothing if they are hidden. `most`: a network has no
    place for more tokens.
    """
    most = most or 10**9
    if pads_prompts:
        prompt, mask = rounded_prompt(batch.prompt, batch.prompt_mask, most)
        batch = replace(batch, prompt=prompt, prompt_mask=mask)
    batch = _rounded_answers(batch, most)
    return replace(batch, masks=batch.masks and _rounded_masks(batch.masks))


def rounded_prompt(ids: Tensor, mask: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Prompts `[b, n]` of a multiple of tokens, the last ones invisible, unless that is more than `most`."""
    more = -ids.shape[1] % PROMPT_STEP
    if ids.shape[1] + more > most:
        return ids, mask
    return F.pad(ids, (0, more)), F.pad(mask, (0, more), value=False)


def _rounded_answers(batch: TrainingInputs, most: int) -> TrainingInputs:
    """Further columns, and tokens computed in the last one of the first row, which nothing before it sees."""
    length = batch.inputs.shape[1]
    columns = length + 1 + -(length + 1) % ANSWER_STEP
    if columns > most:
        return batch
    row, column = batch.packed // length, batch.packed % length
    packed = row * columns + column
    packed = F.pad(packed, (0, few_lengths(len(packed)) - len(packed)), value=columns - 1)
    supervised, count = batch.supervised, len(packed)
    if supervised is not None:
        count = few_lengths(len(supervised))
        supervised = F.pad(supervised, (0, count - len(supervised)))
    return replace(
        batch,
        inputs=F.pad(batch.inputs, (0, columns - length)),
        packed=packed,
        supervised=supervised,
        targets=F.pad(batch.targets, (0, count - len(batch.targets)), value=IGNORED),
    )


def _rounded_masks(masks: MaskTargets) -> MaskTargets:
    """As many masks as there are few numbers of; equally many are retrieved in each image."""
    count = sum(masks.counts)
    if not count:
        return masks
    each, total = 1 << (max(masks.counts) - 1).bit_length(), few_lengths(count)
    slots = torch.tensor([i * each + j for i, n in enumerate(masks.counts) for j in range(n)])
    tokens = masks.emits.unflatten(0, (count, -1))  # [m, K]
    emits = tokens.new_zeros(each * len(masks.counts), tokens.shape[1]).index_copy(0, slots, tokens)
    return replace(
        masks,
        true=torch.cat([masks.true, masks.true.new_zeros(total - count, *masks.true.shape[1:])]),
        emits=emits.flatten(),
        counts=[each] * len(masks.counts),
        slots=F.pad(slots, (0, total - count)),
        kept=F.pad(torch.ones(count), (0, total - count)),
    )


def few_lengths(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24 ...: at most half of it more."""
    power = 1 << max(count - 1, 0).bit_length()
    return power * 3 // 4 if power > 3 and count <= power * 3 // 4 else power
