"""Rows of an embedding or an output head for a tokenizer with other tokens than the pretrained one.

Shapes: `V` tokens, `C` width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fit_vocabulary(old: Tensor, rows: int, known: int, fresh: Tensor | None = None) -> Tensor:
    """An embedding or output head `[V, C]` with as many rows as a tokenizer has tokens.

    Args:
        old: pretrained; rows that no token has are cut.
        rows: how many to return.
        known: how many of them are pretrained tokens; those after it are new.
        fresh: where a new row is not in `old`: an initial value `[rows, C]` for the input; None: the mean of
            the older rows, for the output head.
    """
    known = min(known, len(old), rows)
    kept = old[:known]
    if fresh is None:
        new = kept.float().mean(0, keepdim=True).to(old.dtype).expand(rows - known, -1)
        return torch.cat([kept, new])
    kept = old[:rows]  # a row that was reserved for later has an initial value
    return torch.cat([kept, fresh[len(kept) :].to(old)])
