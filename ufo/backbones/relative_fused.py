"""Attention with SAM's decomposed relative positions by kernels of its own, in place of the augmented form.

`model.use_triton_attention()` puts `fused_image_attention` where layers call `image_attention`. The tables
and what queries add to rows and columns stay PyTorch's; the kernels (`ufo.backbones.relative_kernels`, the
only file that imports Triton) know nothing of the tables. See docs/speed.md#kernels-for-relative-positions.
Shapes: `W` windows in the batch, `h` heads, `d` head width, `H` x `V` patches of a window, `N` of them, `n`
prompt tokens.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ufo.backbones.attention import relative_bias
from ufo.backbones.relative_launch import WIDEST, Call, alike, empty_sums, interpreted

HALVES = (torch.float16, torch.bfloat16)
Shape = torch.Size


def check_available(device: torch.device, head: int) -> None:
    """Raises ValueError where heads of this width or the device have no kernels, or Triton is missing."""
    if head > WIDEST:
        raise ValueError(
            f"triton_attention=true is for heads of at most {WIDEST} columns, not {head}; leave it out"
        )
    if device.type == "meta":  # where nothing is computed
        return
    if device.type != "cuda" and not interpreted():
        raise ValueError(f"triton_attention=true needs a CUDA device, not '{device.type}'; leave it out")
    if device.type == "cuda" and torch.cuda.is_available():
        _check_gpu(device)
    try:
        importlib.import_module("ufo.backbones.relative_kernels")
    except ImportError as error:
        raise ValueError(
            "triton_attention=true needs Triton, which comes with PyTorch for CUDA on Linux and is not "
            f"installed ({error}); leave it out"
        ) from error


def _check_gpu(device: torch.device) -> None:
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        raise ValueError(
            "triton_attention=true is for GPUs of NVIDIA with compute capability 8.0 or more (A100, RTX 30), "
            f"and '{torch.cuda.get_device_name(device)}' is none; leave it out"
        )


def fused_image_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: tuple[int, int],
    rows: tuple[Tensor, Tensor],
    prompt: tuple[Tensor, Tensor],
    columns: Tensor,
) -> Tensor:
    """As `ufo.backbones.attention.image_attention`. Raises ValueError in full precision and on a CPU."""
    if q.device.type == "cpu" and not interpreted():
        raise ValueError(
            "triton_attention=true computes on a GPU, and the model has been moved to the CPU; move it back, "
            "or load it anew"
        )
    if q.dtype not in HALVES and not interpreted():
        raise ValueError(
            "triton_attention=true computes in half precision; set trainer.precision=bf16-mixed, or call the "
            "model within torch.autocast"
        )
    by_row, by_col = (bias.flatten(2, 3) for bias in relative_bias(q, size, rows))
    hidden = columns[:, 0, : prompt[0].shape[2], sum(size)]
    return relative_attention(q, k, v, by_row, by_col, *prompt, hidden)[0]


@torch.library.custom_op("ufo::relative_attention", mutates_args=())
def relative_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    by_row: Tensor,
    by_col: Tensor,
    prompt_k: Tensor,
    prompt_v: Tensor,
    hidden: Tensor,
) -> tuple[Tensor, Tensor]:
    """Patches attend to the prompt and to the patches of their window.

    q, k, v `[W, h, N, d]`; by_row `[W, h, N, H]` and by_col `[W, h, N, V]` are what queries add to the logits
    of rows and columns; prompt_k, prompt_v `[W, h, n, d]`, `hidden [W or 1, n]` is added to the logits of the
    prompt. Returns `[W, h, N, d]` and the logarithms to base 2 of the softmax's sums `[W, h, N, filled up]`.
    """
    out, lse = _empty_out(q), empty_sums(q)
    with torch.cuda.device_of(q):  # Triton takes the current device
        Call(q, k, v, by_row, by_col, prompt_k, prompt_v, hidden).forward(out, lse)
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
    hidden: Tensor,
    out: Tensor,
    lse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the first 7 arguments of `relative_attention` from that of the output `[W, h, N, d]`."""
    # what kept the output for the backward pass may have laid it out anew
    gradient, out = alike(gradient, out)
    with torch.cuda.device_of(q):
        call = Call(q, k, v, by_row, by_col, prompt_k, prompt_v, hidden)
        of_q, of_row, of_col, delta = call.backward_of_queries(gradient, out, lse)
        of_keys = call.backward_of_patches(gradient, delta, lse)
        of_prompt = call.backward_of_prompt(gradient, delta, lse)
    return of_q, *of_keys, _laid_out(of_row, by_row), _laid_out(of_col, by_col), *of_prompt


def _empty_out(q: Tensor) -> Tensor:
    """`[W, h, N, d]` so that the heads of a patch lie side by side, as the next linear map wants them."""
    windows, heads, patches, head = q.shape
    return q.new_empty(windows, patches, heads, head).transpose(1, 2)


def _laid_out(x: Tensor, like: Tensor) -> Tensor:
    """In its type and in the order that `torch.compile` is told: it reads results as if they were so."""
    if x.dtype == like.dtype and x.is_contiguous():
        return x
    return x.new_empty(x.shape, dtype=like.dtype).copy_(x)


@relative_attention.register_fake
def _(q, k, v, by_row, by_col, prompt_k, prompt_v, hidden):
    return _empty_out(q), empty_sums(q)


@relative_attention_backward.register_fake
def _(gradient, q, k, v, by_row, by_col, prompt_k, prompt_v, hidden, out, lse):
    return tuple(t.new_empty(t.shape) for t in (q, k, v, by_row, by_col, prompt_k, prompt_v))


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
