"""What the kernels of `ufo.backbones.relative_kernels` are given: tiles, terms as they want them, strides.

Shapes: `W` windows in the batch, `h` heads, `d` head width, `H` x `V` patches of a window, `N` of them, `n`
prompt tokens. Terms are what queries add to logits, over the scale of products.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.ops.constants import remembered

KEYS = 64  # of a tile
# of a program; large ones read keys less often, which pays where there are many
FEW_QUERIES, MANY_QUERIES, MANY = 64, 128, 1024
# registers of a thread of the forward kernel with many queries: two programs share a multiprocessor
REGISTERS = 128
# A program may have 99 KB of shared memory on capabilities 8.6, 8.9 and 12.0. So wider heads, which are
# padded to 128 columns, have few queries and one tile less on its way (else they need 144 KB), and many
# queries with so many terms have one tile less, too (else 128 KB).
NARROW, WIDEST, MANY_TERMS = 64, 128, 64
KEPT = 1 << 16  # constants: all of them
LOG2E = 1.4426950408889634  # the kernels' logits are in units of log 2


def interpreted() -> bool:
    """Whether Triton computes with NumPy on a CPU, which is for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


class Split(NamedTuple):
    """How the columns of a window are divided among the first two kinds of keys."""

    wide: int  # that are seen row by row
    others: int
    group: int  # rows whose other columns are seen together
    terms: int  # of a query for them: one per row, one per column, what hides keys that are none, zeros

    @classmethod
    def of(cls, rows: int, columns: int) -> Split:
        """Tiles of a row have three quarters of `KEYS` columns or more: of 70, 64 are seen so, of 14 none."""
        wide = columns if 4 * (columns % KEYS) >= 3 * KEYS else columns // KEYS * KEYS
        others = columns - wide
        if not others:
            return cls(wide, 0, 0, 0)
        terms = max(_power_of_two(others + 1 + min(rows, 8)), 16)
        return cls(wide, others, min(rows, terms - others - 1), terms)


class Call:
    """What the launches for one set of arguments share."""

    def __init__(self, q, k, v, by_row, by_col, prompt_k, prompt_v, hidden):
        self.kernels: Any = importlib.import_module("ufo.backbones.relative_kernels")
        windows, heads, patches, head = q.shape
        self.shape, self.rows, self.columns = q.shape[:3], by_row.shape[-1], by_col.shape[-1]
        self.scale, self.pairs = head**-0.5, windows * heads
        self.split = split = Split.of(self.rows, self.columns)
        self.queries = queries_of_program(patches, head)
        self.length, self.filled = _up(patches, self.queries), _up(split.wide, KEYS)
        q, k, v = alike(q, k, v)
        prompt_k, prompt_v = alike(prompt_k, prompt_v)
        self.prompt = prompt_k.shape[2]
        filled = F.pad(hidden.float(), (0, -self.prompt % KEYS), value=_of_none(torch.float32))
        hidden = (filled * LOG2E).contiguous()
        terms = self.terms(by_row / self.scale, by_col / self.scale)
        self.tensors = (q, k, v, *terms, prompt_k, prompt_v, hidden)
        self.grid = (self.length // self.queries * self.pairs,)  # other axes have 65535 programs at most
        self.about = (heads, self.rows, self.columns, split.wide)
        self.factor = self.scale * LOG2E
        self.sizes = (*self.about, self.filled, split.others, self.prompt, self.length, self.factor)
        self.block = {"HEAD": head, "D": padded_head(head), "K": KEYS}
        self.options = compiler_options(self.queries, head, split.terms)
        self.group = {"GROUP": split.group, "E": split.terms}
        self.tiles: dict[str, Any] = {"WIDE": split.wide > 0, "EVEN": split.wide % KEYS == 0}
        self.tiles |= self.group | self.block | {"A": self.queries}

    def terms(self, by_row: Tensor, by_col: Tensor) -> list[Tensor]:
        """Terms as each kind of keys wants them, and the table of the last kind.

        `[W, h, H, N filled up]`, `[W, h, N, wide, filled up]`, `[W, h, groups, N, terms]`, `[keys, terms]`.
        """
        nothing, (wide, others, group, terms) = by_row.new_empty(0), self.split
        none = _of_none(by_row.dtype)
        row = column = other = table = nothing
        if wide:
            row = F.pad(by_row.mT, (0, self.length - by_row.shape[2]))
            column = F.pad(by_col[..., :wide], (0, self.filled - wide), value=none)
        if others:
            groups = -(-self.rows // group)
            rows = F.pad(by_row, (0, groups * group - self.rows), value=none)
            rows = rows.unflatten(-1, (groups, group)).movedim(-2, 2)  # [W, h, groups, N, group]
            cols = by_col[:, :, None, :, wide:].expand(-1, -1, groups, -1, -1)
            ends = _ends(terms - group - others, by_row.dtype, by_row.device)
            other = torch.cat([rows, cols, ends.expand(*rows.shape[:-1], -1)], -1)
            table = _table(group, others, terms, by_row.dtype, by_row.device)
        return [row.contiguous(), column.contiguous(), other.contiguous(), table]

    def forward(self, out: Tensor, lse: Tensor) -> None:
        """Fills the output `[W, h, N, d]` and the logarithms of the sums of weights."""
        limit = {} if interpreted() else register_limit(self.queries)
        self.kernels.forward[self.grid](
            *(*self.tensors, out, lse, *self.strides(out), *self.sizes),
            **self.tiles,
            **self.options,
            **limit,
        )

    def backward_of_queries(self, gradient: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, ...]:
        """Gradients of queries and of what they add to rows and columns, and a sum per query for keys."""
        row, column, other = (x.new_empty(x.shape) for x in self.tensors[3:6])
        # of the rows for every tile of columns: they are added up afterwards
        row = row.new_empty((self.filled // KEYS, *row.shape), dtype=torch.float32)
        delta, of_q = torch.empty_like(lse), out.new_empty(out.shape)
        self.kernels.backward_of_queries[self.grid](
            *(*self.tensors, out, lse, gradient, delta, of_q, row, column, other),
            *(*self.strides(out), *self.sizes, self.scale),
            **self.tiles,
            **self.options,
        )
        return of_q, *self.of_bias(row, column, other), delta

    def strides(self, out: Tensor) -> tuple[int, ...]:
        q, prompt, hidden = self.tensors[0], self.tensors[7], self.tensors[9]
        one_for_all = hidden.shape[0] == 1
        hidden_w = 0 if one_for_all else hidden.shape[1]
        return (*q.stride()[:3], *prompt.stride()[:3], hidden_w, *out.stride()[:3])

    def of_bias(self, of_row: Tensor, of_column: Tensor, of_other: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of what queries add to rows and to columns, from those of `terms`."""
        patches, (wide, others, group, _) = self.shape[2], self.split
        rows, columns = [], []
        if wide:
            rows.append(of_row.sum(0)[..., :patches].mT)
            columns.append(of_column[..., :wide])
        if others:
            rows.append(of_other[..., :group].movedim(2, -2).flatten(-2)[..., : self.rows])
            columns.append(of_other[..., group : group + others].sum(2))
        return sum(rows[1:], rows[0]), torch.cat(columns, -1)

    def backward_of_patches(self, gradient: Tensor, delta: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of keys and values, of the first two kinds."""
        kernels, (q, k, v, row, column, other, table, *_) = self.kernels, self.tensors
        of_k, of_v = k.new_empty(k.shape), v.new_empty(v.shape)
        given = (lse, gradient, delta, of_k, of_v)
        if self.split.wide:
            one = _identity(KEYS, q.dtype, q.device)
            tiles, of_row = self.filled // KEYS * self.rows, {"GROUP": 0, "E": KEYS}
            self._of_keys(tiles, (k, v, row, column, one), given, kernels.ROWS, self.filled, of_row)
        if self.split.others:
            _, others, group, terms = self.split
            tiles = -(-self.rows // group) * -(-group * others // KEYS)
            self._of_keys(tiles, (k, v, row, other, table), given, kernels.OTHERS, terms, self.group)
        return of_k, of_v

    def backward_of_prompt(self, gradient: Tensor, delta: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.tensors[0], *self.tensors[7:9]
        of_k, of_v = k.new_empty(k.shape), v.new_empty(v.shape)
        if self.prompt:
            given, nothing = (lse, gradient, delta, of_k, of_v), q
            tiles, kind = -(-self.prompt // KEYS), self.kernels.PROMPT
            self._of_keys(tiles, (k, v, nothing, nothing, nothing), given, kind, 0, {"GROUP": 0, "E": 0})
        return of_k, of_v

    def _of_keys(self, tiles, keys, given, kind, filled, group) -> None:
        strides = self.strides(given[1])
        self.kernels.backward_of_keys[(tiles * self.pairs,)](
            *(self.tensors[0], *keys, self.tensors[9], *given),
            *(*strides[:3], *keys[0].stride()[:3], *strides[6:]),
            *(*self.about, filled, self.split.others, keys[0].shape[2], self.length, tiles),
            *(self.factor, self.scale),
            KIND=kind.value,
            WIDE=self.split.wide > 0,
            A=FEW_QUERIES,
            **group,
            **self.block,
            **compiler_options(FEW_QUERIES, self.block["HEAD"]),
        )


# Constants are never dropped: recordings of CUDA graphs go on reading them, and keep only what they saw an
# operation take. What one of our own reads besides they do not see. All there can be in a type are 50 MB.
@remembered(maxsize=KEPT)
def _table(group: int, others: int, terms: int, kind: torch.dtype, device: torch.device) -> Tensor:
    """Which terms keys of a group have, `[keys, terms]`: of row and column, or what hides those beyond."""
    keys = torch.arange(group * others, device=device)
    table = torch.zeros(_up(len(keys), KEYS), terms, dtype=kind, device=device)
    table[keys, keys // others] = 1
    table[keys, group + keys % others] = 1
    table[len(keys) :, group + others] = 1
    return table


@remembered(maxsize=KEPT)
def _ends(count: int, kind: torch.dtype, device: torch.device) -> Tensor:
    """The last terms of every query: the first of them hides keys that are none."""
    return F.pad(torch.full((1,), _of_none(kind), dtype=kind, device=device), (0, count - 1))


@remembered(maxsize=KEPT)
def _identity(size: int, kind: torch.dtype, device: torch.device) -> Tensor:
    return torch.eye(size, dtype=kind, device=device)


def _of_none(kind: torch.dtype) -> float:
    """What hides keys that are none, below any logit. In the kernels' units it still is a number."""
    return torch.finfo(kind).min / 2


def queries_of_program(patches: int, head: int) -> int:
    """How many queries a program of the kernels that go through keys has."""
    return MANY_QUERIES if patches >= MANY and head <= NARROW else FEW_QUERIES


def padded_head(head: int) -> int:
    """Columns of a head in the kernels: products want a power of two, and 16 or more."""
    return max(_power_of_two(head), 16)


def compiler_options(queries: int, head: int, terms: int = 0) -> dict[str, int]:
    """Warps of a program, and tiles of its loop that are in shared memory at once."""
    large = head > NARROW or (queries == MANY_QUERIES and terms >= MANY_TERMS)
    return {"num_warps": queries // 16, "num_stages": 2 if large else 3}


def register_limit(queries: int) -> dict[str, int]:
    """A further option of the forward kernel."""
    return {"maxnreg": REGISTERS} if queries == MANY_QUERIES else {}


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << (number - 1).bit_length()


def _up(number: int, unit: int) -> int:
    """The smallest multiple of the unit that is not smaller."""
    return -(-number // unit) * unit


def alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors with the same strides, the last of them 1."""
    strides = {t.stride() for t in tensors}
    if len(strides) == 1 and tensors[0].stride(-1) == 1:
        return tensors
    return tuple(t.contiguous() for t in tensors)


def empty_sums(q: Tensor) -> Tensor:
    """Memory for one number per query of all programs: `[W, h, N filled up]`."""
    length = _up(q.shape[2], queries_of_program(*q.shape[2:]))
    return q.new_empty((*q.shape[:2], length), dtype=torch.float32)
