"""Top-k first tokens: a query may answer for several objects, the best pairs are decoded.

See docs/published_system.md#single-answers.
Shapes: `B` images, `Q` queries, `R = B*Q` rows, `k` tokens of a row, `n` pairs of an image, `V` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ufo.backbones.context import Context


@dataclass(frozen=True)
class Expansion:
    """Go on from the `top` likeliest first tokens of each query, with the `keep` best pairs of each image.

    `silent` is the first token of what a query says that answers for nothing; it is never taken.
    `keep = 0` keeps all pairs.
    """

    top: int
    keep: int
    silent: int

    def pick(self, logits: Tensor, queries: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, tokens and probabilities of the pairs, `[B*n]` each, best first within an image.

        logits `[R, V]`, a row per query. Raises ValueError where an image has fewer pairs than `keep`.
        """
        probability = logits.float().softmax(-1)
        probability[:, self.silent] = 0
        scores, tokens = (x.view(-1, queries * self.top) for x in probability.topk(self.top, dim=-1))
        keep = self.keep or scores.shape[1]
        if keep > scores.shape[1]:
            raise ValueError(
                f"keep_queries={keep} needs {keep} pairs of query and token and {queries} queries with "
                f"top_tokens={self.top} make {scores.shape[1]}; lower keep_queries"
            )
        scores, index = scores.topk(keep, dim=1)  # [B, n]
        first = torch.arange(len(index), device=index.device)[:, None] * queries
        return (first + index // self.top).flatten(), tokens.gather(1, index).flatten(), scores.flatten()


def repeat_rows(context: Context, rows: Tensor) -> Context:
    """The context of equally many rows of each image, some of them several times; keys stay shared."""
    images = len(context.image_features)
    chosen = context.select(rows)
    return replace(chosen, num_queries=len(rows) // images, rows=None)
