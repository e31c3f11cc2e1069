"""The Triton kernels of attention with relative positions, in Triton's interpreter, and what is said without.

Triton decides when it is first imported whether it interprets: those tests run in a process of their own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from relative_positions import arguments, given, with_gradients
from test_ufo_vit import answers, pictures, prompt, same
from torch import Tensor
from watched_memory import watched

from ufo import build
from ufo.backbones.attention import image_attention, key_columns
from ufo.backbones.relative_fused import (
    check_available,
    fused_image_attention,
    relative_attention,
    relative_attention_backward,
)
from ufo.backbones.relative_launch import KEYS, Split, _table, interpreted
from ufo.ops.grid import query_grid

pytest.importorskip("triton")

inside = pytest.mark.skipif(not interpreted(), reason="runs in the process of test_in_the_interpreter")
outside = pytest.mark.skipif(interpreted(), reason="is about what happens without the interpreter")

# windows, heads, size of a window, head width, prompt tokens
CASES = {
    "windows": (3, 2, (3, 5), 8, 3),
    "several tiles of keys and queries": (1, 2, (14, 14), 16, 70),
    "several groups of rows": (1, 1, (12, 20), 16, 5),
    "rows and other columns": (2, 1, (3, 70), 16, 4),
    "several tiles of a row, many queries": (1, 1, (8, 130), 16, 2),
    "rows that fill no tile": (2, 1, (3, 50), 16, 3),
    "an odd head, no prompt": (2, 1, (4, 7), 5, 0),
    "an odd head and rows": (1, 1, (2, 66), 5, 1),
    "one patch": (2, 2, (1, 1), 8, 4),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@inside
@pytest.mark.parametrize("shared", [False, True], ids=["", "one prompt for all"])
@pytest.mark.parametrize("case", CASES)
def test_kernels_equal_the_augmented_form(case, shared):
    leaves, arguments_ = arguments(*CASES[case], shared=shared)
    gradient = torch.randn(arguments_[0].shape)
    expected = with_gradients(image_attention, leaves, arguments_, gradient)
    found = with_gradients(fused_image_attention, leaves, arguments_, gradient)
    for mine, theirs in zip(found, expected, strict=True):
        same(mine, theirs, 1e-4)


@inside
def test_a_prompt_that_is_hidden_as_a_whole_changes_nothing():
    leaves, (*_, size, _, _, _) = arguments(2, 1, (3, 4), 8, 5)
    gradient = torch.randn(2, 1, 12, 8)
    hidden = given(leaves, 1, size, torch.zeros(2, 5, dtype=torch.bool))
    found = with_gradients(fused_image_attention, leaves, hidden, gradient)
    none = [leaves[0], leaves[1][:, :, :, :0], *leaves[2:]]
    same(found[0], image_attention(*given(none, 1, size, torch.zeros(2, 0, dtype=torch.bool))), 1e-5)
    assert not found[2].any(), "hidden tokens have a gradient"


@inside
@pytest.mark.parametrize("case", [(1, 2, (5, 18), 16, 9), (1, 1, (3, 70), 16, 9)], ids=["windows", "rows"])
def test_half_precision_is_as_near_to_float64_as_the_augmented_form(case):
    """An error of at most twice that of the augmented form in float16 (interpreted products are exact)."""
    leaves, _ = arguments(*case)
    half = [x.detach().half().requires_grad_() for x in leaves]
    exact = [x.detach().double().requires_grad_() for x in half]  # the same values in every type
    heads, size, mask = *case[1:3], torch.rand(1, case[4]) > 0.4
    gradient = torch.randn(1, heads, size[0] * size[1], case[3]).half()
    true = with_gradients(image_attention, exact, given(exact, heads, size, mask), gradient.double())
    plain = with_gradients(image_attention, half, given(half, heads, size, mask), gradient)
    found = with_gradients(fused_image_attention, half, given(half, heads, size, mask), gradient)
    for mine, theirs, want in zip(found, plain, true, strict=True):
        assert (mine - want).abs().max() <= 2 * (theirs - want).abs().max() + 1e-3


@inside
def test_sums_have_one_order():
    """No two programs add to one place, so that a repetition gives the same bits."""
    leaves, arguments_ = arguments(*CASES["rows and other columns"])
    gradient = torch.randn(arguments_[0].shape)
    first, second = (with_gradients(fused_image_attention, leaves, arguments_, gradient) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@inside
@pytest.mark.parametrize("case", CASES)
def test_kernels_keep_to_the_memory_they_are_given(case):
    leaves, arguments_ = arguments(*CASES[case])
    with watched() as kernels:
        found = with_gradients(fused_image_attention, leaves, arguments_, torch.randn(arguments_[0].shape))
    assert kernels == {"forward", "backward_of_queries", "backward_of_keys"}
    assert not any(x.isnan().any() for x in found)


@inside
@pytest.mark.parametrize("size", [(3, 5), (2, 50), (2, 66)])
@pytest.mark.parametrize("tokens", [0, 3])
def test_keys_that_are_none_stay_hidden_however_low_the_others_are(size, tokens):
    """What fills up the last tile of each kind of keys adds nothing where all logits are -8000."""
    leaves, _ = arguments(1, 1, size, 16, tokens)
    with torch.no_grad():
        q, k, v = leaves[0].unflatten(-1, (3, 16)).unbind(2)
        q[:], k[:] = 20, k - 100
        v[:] = 1
        leaves[1][1] = 1
    out = fused_image_attention(*given(leaves, 1, size, torch.zeros(1, tokens, dtype=torch.bool)))
    same(out, torch.ones_like(out), 1e-5)


@inside
def test_the_backward_pass_takes_any_layout():
    """Expanded gradients, and an output that was kept in another order, as one that was moved to the host."""
    leaves, arguments_ = arguments(*CASES["windows"])

    def gradients(attention) -> list[Tensor]:
        with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.contiguous, lambda kept: kept):
            out = attention(*arguments_).transpose(1, 2).flatten(2)
        sums = (out**2).sum(), out.sum()
        return [x for total in sums for x in torch.autograd.grad(total, leaves, retain_graph=True)]

    for mine, theirs in zip(gradients(fused_image_attention), gradients(image_attention), strict=True):
        same(mine, theirs, 1e-4)


@inside
def test_constants_are_never_dropped():
    """A recording that reads them does not keep them: it does not see what is inside an operation."""
    kept = [_table(1, others, 64, torch.float32, torch.device("cpu")) for others in range(1, 48)]
    again = [_table(1, others, 64, torch.float32, torch.device("cpu")) for others in range(1, 48)]
    assert all(a is b for a, b in zip(kept, again, strict=True))


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
    with patch("ufo.backbones.attention._augmented", side_effect=AssertionError):
        found = step()
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        same(mine, theirs, 1e-4)


@inside
@pytest.mark.parametrize("size", [(2, 3), (2, 64), (2, 66)])
def test_the_operations_are_ones_that_torch_can_trace(size):
    """Also what strides their results have: `torch.compile` reads them as it was told that they lie."""
    q, k, v = torch.randn(3, 1, 2, size[0] * size[1], 8).unbind(0)
    bias = [torch.randn(*q.shape[:3], side) for side in size]
    tensors = [x.clone() for x in (q, k, v, *bias, k[:, :, :2], v[:, :, :2], torch.zeros(1, 2))]
    kept = [*tensors, *relative_attention(*tensors)]
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(relative_attention_backward, (torch.ones_like(kept[-2]), *kept), test_utils=tests)
    training = [x.requires_grad_() for x in tensors[:-1]]
    tests += ("test_autograd_registration",)
    torch.library.opcheck(relative_attention, (*training, tensors[-1]), test_utils=tests)


@outside
@pytest.mark.slow
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=900
    )
    if "only 0-dimensional arrays can be converted" in done.stdout:
        pytest.skip("this version of Triton's interpreter does not go with this one of NumPy")
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and passed, done.stdout + done.stderr
    assert int(passed[1]) > 2 * len(CASES), "most tests were left out"


@outside
def test_every_column_is_seen_once():
    assert Split.of(70, 70) == (64, 6, 9, 16)  # at 1120 px: eight tiles for the last columns of 70 rows
    assert Split.of(14, 14) == (0, 14, 14, 32)
    for rows in (1, 7, 14, 70, 200):
        for columns in range(1, 200):
            split = Split.of(rows, columns)
            assert split.wide + split.others == columns and split.wide % KEYS in (0, *range(48, KEYS))
            assert not split.others or (split.group + split.others < split.terms and split.group > 0)


@outside
def test_shapes_without_values():
    """`ufo memory` counts what the kernels keep."""
    q = torch.empty(2, 3, 12, 8, device="meta", dtype=torch.bfloat16, requires_grad=True)
    rows = [torch.empty(side, side, 8, device="meta", dtype=torch.bfloat16) for side in (3, 4)]
    text = torch.empty(2, 2, 3, 5, 8, device="meta", dtype=torch.bfloat16)
    columns = key_columns(torch.empty(2, 5, device="meta", dtype=torch.bool), (3, 4), 8, torch.bfloat16)
    out = fused_image_attention(q, q, q, (3, 4), tuple(rows), tuple(text), columns)
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
    with pytest.raises(ValueError, match=r"for heads of at most 128 columns, not 256; leave it out"):
        check_available(torch.device("meta"), 256)


@outside
@pytest.mark.parametrize("capability", [(7, 5), (8, 6)])
def test_old_gpus_are_refused(capability):
    about = {"is_available": True, "get_device_capability": capability, "get_device_name": "Tesla T4"}
    with patch.multiple(torch.cuda, **{name: lambda *_, value=value: value for name, value in about.items()}):
        if capability >= (8, 0):
            check_available(torch.device("cuda"), 64)
            return
        with pytest.raises(ValueError, match=r"capability 8.0 or more .* 'Tesla T4' is none; leave it out"):
            check_available(torch.device("cuda"), 64)


@outside
def test_what_a_layer_cannot_compute_is_said():
    _, given_ = arguments(1, 1, (2, 3), 8, 2)
    with pytest.raises(
        ValueError, match="the model has been moved to the CPU; move it back, or load it anew"
    ):
        fused_image_attention(*given_)
    with pytest.raises(ValueError, match=r"set trainer.precision=bf16-mixed, or call the model within"):
        fused_image_attention(given_[0].to("meta"), *given_[1:])


@outside
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_training_in_full_precision_is_refused_before_it_begins(precision, make_model):
    model, root = make_model(), SimpleNamespace(root_device=torch.device("meta"))
    trainer, config = SimpleNamespace(strategy=root, precision=precision), {"triton_attention": True}
    if precision == "bf16-mixed":
        build.choose_kernels(config, model, trainer)
        return
    with pytest.raises(
        ValueError, match=r"not in trainer.precision=32-true; set trainer.precision=bf16-mixe"
    ):
        build.choose_kernels(config, model, trainer)
