"""Rows of attention alone: without positions, and with relative ones, augmented and by our kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from gpu_rows import Bench
from gpu_vit import Rows
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ufo.backbones.attention import image_attention, key_columns, relative_rows_of
from ufo.backbones.relative_fused import fused_image_attention

HEADS, WIDTH, PROMPT = 12, 64, 250
SHAPES = {  # of the base model at 1120 px: windows in the batch, side of a window in patches
    "global, 1 image": (1, 70),
    "global, 3 images": (3, 70),
    "25 windows": (25, 14),
    "75 windows": (75, 14),
}


def plain(q: Tensor, k: Tensor, v: Tensor, *others: tuple[Tensor, ...]) -> Tensor:
    prompt = others[-2]
    keys, values = torch.cat([prompt[0], k], 2), torch.cat([prompt[1], v], 2)
    return F.scaled_dot_product_attention(q, keys, values)


def by_cudnn(*given: object) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return image_attention(*given)


def attention(bench: Bench) -> Rows:
    ways: dict[str, Callable[..., Tensor]] = {"without positions": plain, "augmented": image_attention}
    if bench.cuda:  # cuDNN takes global windows, of 208 columns, in later versions of PyTorch alone
        ways |= {"augmented, cuDNN": by_cudnn, "kernels": fused_image_attention}
    for name, (windows, side) in SHAPES.items() if not bench.miniature else [("tiny", (2, 7))]:
        for way, function in ways.items():
            yield f"{name}, {way}: forward", partial(_forward, bench, function, windows, side)
            yield f"{name}, {way}: and backward", partial(_both, bench, function, windows, side)


def _given(bench: Bench, windows: int, side: int) -> tuple[list[Tensor], tuple[object, ...]]:
    """What trains, and the arguments of `image_attention`."""
    kind = torch.bfloat16 if bench.cuda else torch.float32
    new = partial(torch.randn, device=bench.device, dtype=kind)
    heads, tokens = (2, 9) if bench.miniature else (HEADS, PROMPT)
    qkv = new(windows, side * side, 3 * heads * WIDTH)
    text, tables = new(2, windows, heads, tokens, WIDTH), new(2, 2 * side - 1, WIDTH)
    leaves = [x.requires_grad_() for x in (qkv, text, tables)]
    q, k, v = qkv.unflatten(-1, (3, heads, WIDTH)).permute(2, 0, 3, 1, 4).unbind(0)
    mask = torch.ones(windows, tokens, dtype=torch.bool, device=bench.device)
    columns = key_columns(mask, (side, side), WIDTH, kind)
    return leaves, (q, k, v, (side, side), relative_rows_of(tables, side), text.unbind(0), columns)


def _forward(bench: Bench, function: Callable[..., Tensor], windows: int, side: int) -> dict[str, float]:
    _, given = _given(bench, windows, side)
    with torch.no_grad():
        return bench.measure(lambda: function(*given), repeats=10)


def _both(bench: Bench, function: Callable[..., Tensor], windows: int, side: int) -> dict[str, float]:
    leaves, given = _given(bench, windows, side)
    gradient = torch.randn_like(given[0])

    def step() -> None:
        torch.autograd.grad(function(*given), leaves, gradient, retain_graph=True, allow_unused=True)

    return bench.measure(step, repeats=10)
