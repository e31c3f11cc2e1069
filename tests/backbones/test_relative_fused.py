"""The Triton kernels of attention with relative positions, in Triton's interpreter and compiled.

Triton decides when it is first imported whether it interprets: those tests run in a process of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from test_ufo_vit import answers, pictures, prompt, same
from torch import Tensor

from ufo.backbones.attention import image_attention
from ufo.backbones.relative_fused import (
    column_tiles,
    fused_image_attention,
    interpreted,
    relative_attention,
)
from ufo.ops.grid import query_grid

pytest.importorskip("triton")

inside = pytest.mark.skipif(not interpreted(), reason="runs in the process of test_in_the_interpreter")
outside = pytest.mark.skipif(interpreted(), reason="starts a process, or compiles")

# windows, heads, size of a window, head width, prompt tokens
CASES = {
    "windows": (3, 2, (3, 5), 8, 3),
    "two tiles of rows": (1, 2, (14, 14), 16, 5),
    "two widths of tiles": (1, 1, (3, 20), 16, 70),
    "several wide tiles": (1, 1, (2, 150), 16, 2),
    "an odd head, no prompt": (2, 1, (4, 7), 5, 0),
    "one patch": (2, 2, (1, 1), 8, 4),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def arguments(windows, heads, size, width, tokens, dtype=torch.float32, shared=False):
    """What trains, and the arguments made of it, as a layer makes them: heads are views of one product."""
    patches, rows = size[0] * size[1], 1 if shared else windows
    qkv = torch.randn(windows, patches, 3 * heads * width).to(dtype)
    text = torch.randn(2, rows, heads, tokens, width).to(dtype)
    tables = [torch.randn(2 * side - 1, width).to(dtype) for side in size]
    leaves = [x.requires_grad_() for x in (qkv, text, *tables)]
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    mask = torch.rand(rows, tokens) > 0.4
    prompt_ = tuple(x.expand(windows, *x.shape[1:]) for x in (*text.unbind(0), mask))
    return leaves, (q, k, v, size, tuple(tables), prompt_)


def with_gradients(attention, leaves, given, gradient) -> list[Tensor]:
    out = attention(*given)
    return [out, *torch.autograd.grad(out, leaves, gradient, retain_graph=True)]


@inside
@pytest.mark.parametrize("case", CASES)
def test_kernels_equal_the_augmented_form(case):
    leaves, given = arguments(*CASES[case])
    gradient = torch.randn(given[0].shape)
    expected = with_gradients(image_attention, leaves, given, gradient)
    for mine, theirs in zip(
        with_gradients(fused_image_attention, leaves, given, gradient), expected, strict=True
    ):
        same(mine, theirs, 2e-5)


@inside
def test_a_prompt_that_all_windows_share_is_not_copied():
    leaves, given = arguments(3, 2, (3, 4), 8, 5, shared=True)
    gradient = torch.randn(given[0].shape).transpose(1, 2).contiguous().transpose(1, 2)
    expected = with_gradients(image_attention, leaves, given, gradient)
    found = with_gradients(fused_image_attention, leaves, given, gradient)
    for mine, theirs in zip(found, expected, strict=True):
        same(mine, theirs, 2e-5)


@inside
def test_a_prompt_that_is_hidden_as_a_whole_changes_nothing():
    leaves, (*given, (keys, values, mask)) = arguments(2, 1, (3, 4), 8, 5)
    hidden = (keys, values, torch.zeros_like(mask))
    gradient = torch.randn(given[0].shape)
    found = with_gradients(fused_image_attention, leaves, (*given, hidden), gradient)
    none = (keys[:, :, :0], values[:, :, :0], mask[:, :0])
    same(found[0], image_attention(*given, none), 1e-5)
    assert not found[2].any(), "hidden tokens have a gradient"


@inside
def test_half_precision__is_as_near_to_float32_as_the_augmented_form():
    """An error of at most twice that of the augmented form in float16 (interpreted products are exact)."""
    case = (1, 2, (5, 18), 16, 9)
    leaves, given = arguments(*case)
    exact = arguments(*case, dtype=torch.float64)
    with torch.no_grad():
        for whole, half in zip(exact[0], leaves, strict=True):
            half.copy_(half.half())  # the same values in every type
            whole.copy_(half)
    half_leaves = [x.detach().half().requires_grad_() for x in leaves]
    mask = given[5][2]

    def made(qkv, text, rows, columns):
        q, k, v = qkv.unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v, case[2], (rows, columns), (*text.unbind(0), mask)

    gradient = torch.randn(given[0].shape).half()
    true = with_gradients(image_attention, exact[0], made(*exact[0]), gradient.double())
    plain = with_gradients(image_attention, half_leaves, made(*half_leaves), gradient)
    found = with_gradients(fused_image_attention, half_leaves, made(*half_leaves), gradient)
    for mine, theirs, want in zip(found, plain, true, strict=True):
        assert (mine - want).abs().max() <= 2 * (theirs - want).abs().max() + 1e-3


@inside
def test_sums_have_one_order():
    """No two programs add to one place, so that a repetition gives the same bits."""
    leaves, given = arguments(*CASES["two tiles of rows"])
    gradient = torch.randn(given[0].shape)
    first, second = (with_gradients(fused_image_attention, leaves, given, gradient) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@inside
def test_a_network_trains_as_without_them(make_backbone):
    backbone, images, queries = make_backbone(), pictures(1), query_grid(2, 2, 2)

    def step() -> list[Tensor]:
        torch.manual_seed(1)
        backbone.zero_grad()
        context = backbone.encode(images, *prompt(), queries)
        (backbone.answer(context, ids) ** 2).sum().backward()
        return [context.image_features, *(p.grad for p in backbone.parameters() if p.grad is not None)]

    ids = answers(queries.references.shape[1])
    expected = step()
    backbone.use_triton_attention()
    found = step()
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        same(mine, theirs, 1e-4)


@inside
def test_the_operation_is_one_that_torch_can_trace():
    _, (q, k, v, size, _, text) = arguments(1, 1, (2, 3), 8, 2)
    bias = [torch.randn(*q.shape[:3], side) for side in size]
    given = [x.detach().clone().requires_grad_() for x in (q, k, v, *bias, *text[:2])]
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(relative_attention, (*given, text[2]), test_utils=tests)


@outside
@pytest.mark.slow
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


@outside
def test_tiles_cover_the_columns():
    assert column_tiles(14) == (16, 16, 0)
    assert column_tiles(70) == (64, 64, 8)
    for width in range(1, 300):
        wide, first, rest = column_tiles(width)
        assert wide + rest >= width and wide % first == 0
        assert rest == 0 or wide < width
        assert wide + rest < 2 * width


@outside
def test_shapes_without_values(make_backbone):
    """`ufo memory` counts what the kernels keep: less than wide queries and keys."""
    q = torch.empty(2, 3, 12, 8, device="meta", dtype=torch.bfloat16, requires_grad=True)
    tables = [torch.empty(2 * side - 1, 8, device="meta", dtype=torch.bfloat16) for side in (3, 4)]
    text = torch.empty(2, 2, 3, 5, 8, device="meta", dtype=torch.bfloat16)
    mask = torch.empty(2, 5, device="meta", dtype=torch.bool)
    with patch(f"{fused_image_attention.__module__}.image_attention", side_effect=AssertionError):
        out = fused_image_attention(q, q, q, (3, 4), tuple(tables), (*text, mask))
    assert out.shape == q.shape and out.transpose(1, 2).is_contiguous()
    out.sum().backward()
    assert q.grad.shape == q.shape


@outside
def test_where_there_is_no_kernel_it_is_said(make_backbone, make_model):
    with pytest.raises(ValueError, match="triton_attention=true needs a CUDA device, not 'cpu'; leave it"):
        make_model().use_triton_attention()
    missing = patch.dict(sys.modules, {"triton": None, "ufo.backbones.relative_kernels": None})
    with missing, pytest.raises(ValueError, match="needs Triton, which comes with PyTorch for CUDA"):
        make_backbone().use_triton_attention(torch.device("cuda"))
    backbone = make_backbone()
    backbone.use_triton_attention(torch.device("cuda"))
    _, given = arguments(1, 1, (2, 3), 8, 2)
    same(backbone.layers[0].image_attention(*given), image_attention(*given), 0)  # on this CPU


KERNELS = ["forward", "backward_of_queries", "backward_of_keys", "backward_of_keys"]


@outside
@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(KERNELS)))
def test_kernels_compile_for_a_gpu(number, tmp_path, monkeypatch):
    """In bfloat16, which the interpreter cannot multiply, for compute capability 9.0; without a GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from ufo.backbones import relative_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    kernel = getattr(relative_kernels, KERNELS[number])
    constants = {"P": 16, "A": 64, "K": 64, "D": 64}
    constants |= {"PROMPT": number == 3} if "PROMPT" in kernel.arg_names else {"REST": 0}
    full = {"lse_ptr", "delta_ptr", "of_row_ptr", "of_col_ptr"}

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name.endswith("_ptr"):
            return "*fp32" if name in full else "*u8" if name == "mask_ptr" else "*bf16"
        return "fp32" if name == "scale" else "i32"

    source = ASTSource(
        kernel,
        {name: kind(name) for name in kernel.arg_names},
        {(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    made = compile(source, target=GPUTarget("cuda", 90, 32))
    assert "mma" in made.asm["ptx"] and made.metadata.shared < 99 << 10
