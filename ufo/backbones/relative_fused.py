"""Attention with SAM's decomposed relative positions by kernels of its own, in place of the augmented form.

`model.use_triton_attention()` puts `fused_image_attention` where layers call `image_attention`. The tables
and what queries add to rows and columns stay PyTorch's; the kernels (`ufo.backbones.relative_kernels`, the
only file that imports Triton) know nothing of the tables.
Shapes: `W` windows in the batch, `h` heads, `d` head width, `H` x `V` patches of a window, `N` of them, `n`
prompt tokens.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ufo.backbones.attention import image_attention, relative_bias

KEYS = 64  # of a tile
QUERIES = 64  # of a program
DEVICES = ("cuda", "meta")
HALVES = (torch.float16, torch.bfloat16)
Shape = torch.Size


def interpreted() -> bool:
    """Whether Triton computes with NumPy on a CPU, which is for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def check_available(device: torch.device) -> None:
    """Raises ValueError where Triton is missing, or the device is one that it does not compute on."""
    try:
        importlib.import_module("ufo.backbones.relative_kernels")
    except ImportError as error:
        raise ValueError(
            "triton_attention=true needs Triton, which comes with PyTorch for CUDA on Linux and is not "
            f"installed ({error}); leave it out"
        ) from error
    if device.type not in DEVICES and not interpreted():
        raise ValueError(f"triton_attention=true needs a CUDA device, not '{device.type}'; leave it out")


def fused_image_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: tuple[int, int],
    tables: tuple[Tensor, Tensor] | None,
    prompt: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """`ufo.backbones.attention.image_attention`, on CUDA in half precision; else that function itself."""
    here = q.device.type in DEVICES and q.dtype in HALVES
    if tables is None or not (here or interpreted()):
        return image_attention(q, k, v, size, tables, prompt)
    by_row, by_col = relative_bias(q, size, tables)
    return relative_attention(q, k, v, by_row, by_col, *prompt)[0]


@torch.library.custom_op("ufo::relative_attention", mutates_args=())
def relative_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    by_row: Tensor,
    by_col: Tensor,
    prompt_k: Tensor,
    prompt_v: Tensor,
    prompt_mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """Patches attend to the prompt and to the patches of their window.

    q, k, v `[W, h, N, d]`; by_row `[W, h, N, H]` and by_col `[W, h, N, V]` are what queries add to the logits
    of rows and columns; prompt_k, prompt_v `[W, h, n, d]`, prompt_mask `[W, n]` (True = visible). Returns
    `[W, h, N, d]` and the logarithms of the softmax's sums `[W, h, N]`.
    """
    call = _Call(q, k, v, by_row, by_col, prompt_k, prompt_v, prompt_mask)
    out, lse = _empty_out(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    call.kernels.forward[call.grid](*call.tensors, out, lse, *call.strides(out), *call.sizes, **call.tiles)
    return out, lse


@torch.library.custom_op("ufo::relative_attention_backward", mutates_args=())
def relative_attention_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    by_row: Tensor,
    by_col: Tensor,
    prompt_k: Tensor,
    prompt_v: Tensor,
    prompt_mask: Tensor,
    out: Tensor,
    lse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the first 7 arguments of `relative_attention` from that of the output `[W, h, N, d]`."""
    call = _Call(q, k, v, by_row, by_col, prompt_k, prompt_v, prompt_mask)
    gradient = _empty_out(q).copy_(gradient) if gradient.stride() != out.stride() else gradient
    delta = torch.empty_like(lse)
    of_q, of_k, of_v, of_row, of_col, of_pk, of_pv = _empty_gradients(call.tensors[:7])
    groups = call.wide // call.tiles["P"] + (call.tiles["REST"] > 0)
    of_rows = by_row.new_empty((groups, *by_row.shape), dtype=torch.float32)
    of_cols = torch.empty_like(of_col, dtype=torch.float32)
    call.kernels.backward_of_queries[call.grid](
        *(*call.tensors, out, lse, gradient, delta, of_q, of_rows, of_cols),
        *(*call.strides(out), *call.sizes),
        **call.tiles,
    )
    of_row.copy_(of_rows.sum(0))
    of_col.copy_(of_cols)
    shared = (gradient, delta, lse)
    call.backward_of_keys(shared, of_k, of_v, 0, call.tiles["P"], call.wide // call.tiles["P"])
    if call.tiles["REST"]:
        call.backward_of_keys(shared, of_k, of_v, call.wide, call.tiles["REST"], 1)
    if prompt_k.shape[2]:
        call.backward_of_prompt(shared, of_pk, of_pv)
    return of_q, of_k, of_v, of_row, of_col, of_pk, of_pv


class _Call:
    """What the launches for one set of arguments share."""

    def __init__(self, q, k, v, by_row, by_col, prompt_k, prompt_v, prompt_mask):
        self.kernels: Any = importlib.import_module("ufo.backbones.relative_kernels")
        q, k, v = _alike(q, k, v)
        prompt_k, prompt_v = _alike(prompt_k, prompt_v)
        mask = (
            prompt_mask if prompt_mask.shape[1] and prompt_mask.stride(1) == 1 else prompt_mask.contiguous()
        )
        self.tensors = (
            q,
            k,
            v,
            by_row.contiguous(),
            by_col.contiguous(),
            prompt_k,
            prompt_v,
            mask.view(torch.uint8),
        )
        windows, heads, patches, head = q.shape
        height, width = by_row.shape[-1], by_col.shape[-1]
        self.pairs, self.height, self.scale = windows * heads, height, head**-0.5
        self.wide, first, rest = column_tiles(width)
        self.about = (heads, height, width, head)
        self.sizes = (*self.about, prompt_k.shape[2], self.scale, self.wide)
        self.tiles: dict[str, int] = {"P": first, "REST": rest, **self.block(head)}
        self.grid = (-(-patches // QUERIES), self.pairs)

    @staticmethod
    def block(head: int) -> dict[str, int]:
        return {"A": QUERIES, "K": KEYS, "D": max(_power_of_two(head), 16)}

    def strides(self, out: Tensor) -> tuple[int, ...]:
        q, prompt, mask = self.tensors[0], self.tensors[5], self.tensors[7]
        return (*q.stride()[:3], *prompt.stride()[:3], mask.stride(0), *out.stride()[:3])

    def backward_of_keys(
        self, shared: tuple[Tensor, ...], of_k: Tensor, of_v: Tensor, start: int, columns: int, groups: int
    ) -> None:
        q, k, v, by_row, by_col, *_, mask = self.tensors
        tiles = groups * -(-self.height // (KEYS // columns))
        self._launch(tiles, (q, k, v, by_row, by_col, mask), shared, (of_k, of_v), k, start, columns)

    def backward_of_prompt(self, shared: tuple[Tensor, ...], of_k: Tensor, of_v: Tensor) -> None:
        q, _, _, by_row, by_col, k, v, mask = self.tensors
        tiles = -(-k.shape[2] // KEYS)
        self._launch(tiles, (q, k, v, by_row, by_col, mask), shared, (of_k, of_v), k, 0, KEYS, prompt=True)

    def _launch(self, tiles, inputs, shared, outputs, keys, start, columns, prompt=False) -> None:
        gradient, delta, lse = shared
        strides = self.strides(gradient)
        self.kernels.backward_of_keys[(tiles, self.pairs)](
            *(*inputs, lse, gradient, delta, *outputs),
            *(*strides[:3], *keys.stride()[:3], *strides[6:]),
            *(*self.about, keys.shape[2], self.scale, start),
            PROMPT=prompt,
            P=columns,
            **self.block(self.about[-1]),
        )


def column_tiles(width: int) -> tuple[int, int, int]:
    """Columns of a window that the first tiles cover, the width of these tiles, and that of the last.

    Widths are powers of two; 70 columns are one tile of 64 and one of 8, 14 are one of 16.
    """
    first = min(_power_of_two(width), KEYS)
    if 4 * width < 3 * first:  # more than a quarter would be empty
        first //= 2
    wide = max(width // first, 1) * first
    return wide, first, _power_of_two(width - wide) if width > wide else 0


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << (number - 1).bit_length()


def _alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors with the same strides, the last of them 1."""
    strides = {t.stride() for t in tensors}
    if len(strides) == 1 and tensors[0].stride(-1) == 1:
        return tensors
    return tuple(t.contiguous() for t in tensors)


def _empty_out(q: Tensor) -> Tensor:
    """`[W, h, N, d]` so that the heads of a patch lie side by side, as the next linear map wants them."""
    windows, heads, patches, head = q.shape
    return q.new_empty(windows, patches, heads, head).transpose(1, 2)


def _empty_gradients(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in tensors]


@relative_attention.register_fake
def _(q, k, v, by_row, by_col, prompt_k, prompt_v, prompt_mask):
    return _empty_out(q), q.new_empty(q.shape[:3], dtype=torch.float32)


@relative_attention_backward.register_fake
def _(gradient, q, k, v, by_row, by_col, prompt_k, prompt_v, prompt_mask, out, lse):
    return tuple(_empty_gradients((q, k, v, by_row, by_col, prompt_k, prompt_v)))


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*relative_attention_backward(gradient, *ctx.saved_tensors), None)


relative_attention.register_autograd(_backward, setup_context=_keep)


def _products(q: Shape, prompt: Shape) -> int:
    """FLOP of one product of all queries with all keys."""
    windows, heads, patches, head = q
    return 2 * windows * heads * patches * (patches + prompt[2]) * head


@register_flop_formula(torch.ops.ufo.relative_attention)
def _(q, k, v, by_row, by_col, prompt, *_args, **_kwargs) -> int:
    return 2 * _products(q, prompt)


@register_flop_formula(torch.ops.ufo.relative_attention_backward)
def _(gradient, q, k, v, by_row, by_col, prompt, *_args, **_kwargs) -> int:
    return 7 * _products(q, prompt)  # two passes over the logits: three and four products
