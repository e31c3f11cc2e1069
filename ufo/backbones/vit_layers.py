"""Parts of a UFO-ViT: the text embedding, one transformer layer, stochastic depth (paper section 3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ufo.backbones.attention import image_attention


def drop_path(x: Tensor, rate: Tensor, rows: Tensor | None = None) -> Tensor:
    """Stochastic depth: drop whole rows of a residual branch.

    A row is an entry of the first dimension, or `rows [M]` says which row each of M packed tokens is of.
    """
    count = len(x) if rows is None else len(x) + 1  # no row number exceeds the number of tokens
    keep = torch.rand(count, device=x.device).ge(rate).to(x.dtype) / (1 - rate)
    keep = keep if rows is None else keep[rows]
    return x * keep.view(-1, *[1] * (x.ndim - 1))


def joined(heads: Tensor) -> Tensor:
    """What the heads attended to, side by side: `[R, heads, N, d]` -> `[R, N, C]`."""
    return heads.transpose(1, 2).flatten(2)


class Embedding(nn.Module):
    """BERT's embedding module without token types: word + absolute position -> LayerNorm -> dropout."""

    def __init__(self, vocab_size: int, width: int, max_positions: int, dropout: float):
        super().__init__()
        self.word = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(max_positions, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """ids and positions `[...]` -> `[..., C]`."""
        return self.dropout(self.norm(self.word(ids) + self.position(positions)))


class Layer(nn.Module):
    """A pre-norm transformer layer; which stream calls it decides what it attends to."""

    # what stands in for it on a GPU is put here (`UFOViT.use_triton_attention`)
    image_attention = staticmethod(image_attention)
    drop: Tensor | None  # the rate of stochastic depth: as a tensor it is no constant of a compiled graph

    def __init__(self, width: int, heads: int, mlp_width: int, grid: int, windowed: bool, drop: float | None):
        super().__init__()
        self.heads, self.windowed = heads, windowed
        self.register_buffer("drop", None if drop is None else torch.tensor(drop), persistent=False)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid - 1, width // heads))
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of `[R, N, C]`, each `[R, heads, N, d]`."""
        return self.split(self.qkv(self.norm1(x)))

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[R, N, 3C]` -> three `[R, heads, N, d]`."""
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).unbind(-3)  # so gradients are copied once, not twice
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residuals after attention: `[R, N, C]` and `[R, heads, N, d]` -> `[R, N, C]`."""
        return self.mlp(x + self.proj(joined(attended)))

    def mlp(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """The MLP residual branch, dropped per row (`rows`: of packed tokens)."""
        branch = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        if self.training and self.drop is not None:
            branch = drop_path(branch, self.drop, rows)
        return x + branch
