"""On a GPU: attention by Triton kernels in bfloat16, against float32 and the augmented form."""

from __future__ import annotations

import pytest
import torch
from relative_positions import arguments, given, with_gradients

from ufo.backbones.attention import image_attention
from ufo.backbones.relative_fused import fused_image_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
# windows, heads, size of a window, head width, prompt tokens
CASES = {
    "windows": (25, 3, (14, 14), 64, 250),
    "global": (1, 2, (70, 70), 64, 250),
    "rows that fill no tile": (2, 2, (56, 56), 80, 33),
    "several tiles of a row": (1, 1, (20, 84), 64, 0),
}


def on_a_gpu(case):
    """Leaves in bfloat16 and the same values in float32, a mask, a gradient."""
    windows, heads, size, width, tokens = case
    leaves, _ = arguments(*case)
    half = [x.detach().cuda().bfloat16().requires_grad_() for x in leaves]
    exact = [x.detach().float().requires_grad_() for x in half]
    mask = torch.rand(windows, tokens, device="cuda") > 0.4
    gradient = torch.randn(windows, heads, size[0] * size[1], width, device="cuda").bfloat16()
    return half, exact, mask, gradient


@pytest.mark.parametrize("case", CASES)
def test_kernels_are_as_near_to_float32_as_the_augmented_form(case):
    torch.manual_seed(0)
    heads, size = CASES[case][1:3]
    half, exact, mask, gradient = on_a_gpu(CASES[case])
    true = with_gradients(image_attention, exact, given(exact, heads, size, mask), gradient.float())
    plain = with_gradients(image_attention, half, given(half, heads, size, mask), gradient)
    found = with_gradients(fused_image_attention, half, given(half, heads, size, mask), gradient)
    for mine, theirs, want in zip(found, plain, true, strict=True):
        if want.numel():
            error, allowed = (mine - want).float().norm(), (theirs - want).float().norm()
            assert error <= 1.5 * allowed + 1e-3 * want.norm(), f"{error} of {want.norm()}"


@pytest.mark.parametrize("case", CASES)
def test_kernels_give_the_same_bits_again(case):
    torch.manual_seed(0)
    heads, size = CASES[case][1:3]
    half, _, mask, gradient = on_a_gpu(CASES[case])
    given_ = given(half, heads, size, mask)
    first, second = (with_gradients(fused_image_attention, half, given_, gradient) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("training", [False, True], ids=["predicting", "training"])
def test_a_network_computes_as_without_them(training, make_model, make_batch):
    model, batch = make_model().cuda().train(training), make_batch("detection").to("cuda")
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16), torch.set_grad_enabled(training):
            loss = model.loss(batch)["loss"]
        if training:
            loss.backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append((loss.detach(), torch.cat(gradients) if gradients else loss.detach()))
        model.use_triton_attention()
    (loss, gradients), (mine, my_gradients) = found
    torch.testing.assert_close(mine, loss, rtol=0.03, atol=0.03)
    assert (my_gradients - gradients).norm() <= 0.05 * gradients.norm()


def test_what_is_recorded_takes_them_too(make_model, make_batch):
    model, batch = make_model().cuda(), make_batch("detection").to("cuda")
    model.use_triton_attention()
    with torch.autocast("cuda", torch.bfloat16):
        expected = model.predict_batch(batch)
        model.use_cuda_graphs()
        for _ in range(3):
            found = model.predict_batch(batch)
    assert [p.text for p in found] == [p.text for p in expected]
