"""The result of decoding, whichever way it was found.

Shapes: `R` answer rows, `T` answer tokens, `C` width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ufo.head.certainty import Certainty


@dataclass
class Decoded:
    """Answers without the start token; after the end of a row every token is the end token."""

    ids: Tensor  # int64 [R, T]
    # float32 [R, S], the probability of each of the first S tokens given those before it. Greedy decoding
    # computes that of the first token only (S = 1), beam search all (S = T; 1 after the last token)
    scores: Tensor
    features: Tensor  # [R, T, C], the hidden state that emitted each token
    # int64 [R], the query of its image that each row answers for; None: each query has one row, in order
    queries: Tensor | None = None
    refusals: Tensor | None = None  # float32 [R], the probability that a row refuses; None: none may
    certainty: Certainty | None = None  # of the objects in the answers, for who asks

    @property
    def first_scores(self) -> Tensor:
        """The probability of each row's first token, float32 `[R]`: the score of the answer."""
        return self.scores[:, 0]
