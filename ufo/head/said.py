"""What was decoded, image by image, as a task reads it: texts, scores, masks that are made when asked for.

Shapes: `B` images, `R` rows of all of them, `T` answer tokens, `M` masks, `K` mask tokens, `C` width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ufo.backbones.context import Context
from ufo.head.decoding import Decoded
from ufo.head.retrieval import retrieve_masks
from ufo.ops.grid import Queries
from ufo.ops.resize import resize_mask_logits
from ufo.tasks.base import Answers, Task
from ufo.tokenizer import Tokenizer
from ufo.types import given


@dataclass(frozen=True)
class Said:
    """The answers to a batch. Lists have an entry for each of the R rows."""

    decoded: Decoded
    context: Context
    queries: Queries | None
    task: Task
    mask_id: int
    texts: list[str]
    mask_counts: list[int]
    cut: list[bool]  # whether an answer reached the length that is allowed

    @classmethod
    def of(
        cls, decoded: Decoded, context: Context, queries: Queries | None, task: Task, tokenizer: Tokenizer
    ) -> Said:
        ids = decoded.ids.cpu()  # one transfer for all images
        return cls(
            *(decoded, context, queries, task, tokenizer.mask_id),
            texts=_decode_distinct(tokenizer, ids),
            mask_counts=ids.eq(tokenizer.mask_id).sum(1).tolist(),
            cut=ids.ne(tokenizer.end_id).all(1).tolist(),
        )

    def answers(self, image: int, size: tuple[int, int], classes: tuple[str, ...]) -> Answers:
        """What the rows of one image say, which has that size."""
        decoded = self.decoded
        per_image = len(decoded.ids) // len(self.context.image_features)
        rows = slice(image * per_image, (image + 1) * per_image)
        masks = _Masks(self, rows, self.context.image_features[image : image + 1], size)
        references = None if self.queries is None else self.queries.references[0].to(decoded.ids.device)
        if references is not None and decoded.queries is not None:
            references = references[decoded.queries[rows]]
        return Answers(
            texts=self.texts[rows],
            scores=decoded.first_scores[rows],
            references=references,
            size=size,
            classes=classes,
            mask_counts=self.mask_counts[rows],
            retrieve_masks=masks.probabilities,
            retrieve_logits=masks.logits,
            refusals=None if decoded.refusals is None else decoded.refusals[rows],
            cut=self.cut[rows],
            certainty=lambda score: given(decoded.certainty, "certainties").of(score)[rows],
            numbers=lambda: given(decoded.certainty, "certainties").numbers(rows),
        )


@dataclass(frozen=True)
class _Masks:
    """The masks of one image's rows; `which` mask of an answer is asked for, else its first one."""

    said: Said
    rows: slice
    features: Tensor  # [1, H, W, C]
    size: tuple[int, int]

    def logits(self, chosen: Tensor, which: Tensor | None = None) -> Tensor:
        """Of rows `[M]`, at the size of the features."""
        emitted = self.said.decoded.ids[self.rows].eq(self.said.mask_id)[chosen]
        number, length = emitted.cumsum(1), self.said.task.mask_tokens
        if which is not None:
            number = number - which[:, None] * length
            emitted = emitted & (number > 0)
        emitted = emitted & (number <= length)
        embeddings = self.said.decoded.features[self.rows][chosen][emitted]
        embeddings = embeddings.unflatten(0, (len(chosen), -1))  # [M, K, C]
        return retrieve_masks(embeddings, self.features, [len(chosen)])

    def probabilities(self, chosen: Tensor, which: Tensor | None = None) -> Tensor:
        """Of rows `[M]`, at the size of the image."""
        if not len(chosen):
            return self.features.new_zeros(0, *self.size, dtype=torch.float32)
        return resize_mask_logits(self.logits(chosen, which), self.size).sigmoid()


def _decode_distinct(tokenizer: Tokenizer, ids: Tensor) -> list[str]:
    """The texts of token ids `[R, T]`: most queries of a picture say the same word, which is decoded once."""
    rows = ids.contiguous().numpy()
    keys = rows.view(f"V{rows.shape[1] * rows.itemsize}")[:, 0].tolist()  # one number of many bytes for a row
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    texts = dict(zip(first, tokenizer.decode(ids[list(first.values())].tolist()), strict=True))
    return [texts[key] for key in keys]
