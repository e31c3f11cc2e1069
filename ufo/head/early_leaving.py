"""Early leaving: a row whose first token begins no class name cannot become an object and ends there.

Most queries answer for nothing; their predictions are the same without the rest of what they would say.
Shapes: `V` vocabulary.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ufo.ops.names import FOLDS
from ufo.tokenizer import Tokenizer

_KEPT = 16


@lru_cache(maxsize=_KEPT)
def tokens_without_class(tokenizer: Tokenizer, classes: tuple[str, ...], size: int) -> Tensor:
    """First tokens, bool `[size]`, after which no answer can name one of the classes any more.

    Names are compared as tolerantly as answers are read (`ufo.ops.names`). Where a token's own text does not
    tell (it vanishes, is punctuation or a part of a letter), a name may still follow.
    """
    fold = FOLDS[-1]
    beginnings = {fold(name)[:n] for name in classes for n in range(len(fold(name)) + 1)} | {""}
    texts = tokenizer.decode([[i] for i in range(len(tokenizer))])
    may_name = ["\ufffd" in text or fold(text.partition(",")[0]) in beginnings for text in texts]
    without = torch.zeros(size, dtype=torch.bool)
    without[: len(may_name)] = ~torch.tensor(may_name)[:size]
    return without
