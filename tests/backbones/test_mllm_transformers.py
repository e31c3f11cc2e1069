"""Language-model backbones compute what transformers' own models compute, where they do the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mllm_models import FAMILIES, answers, dense, encode, images, make_backbone, tall
from torch import Tensor

from ufo.backbones.mllm import MLLM
from ufo.backbones.prefix import image_part
from ufo.backbones.qwen2_5_vl import Qwen2_5_VL
from ufo.backbones.tiles import Layout, cut_tiles, mosaic

QUESTION = "what is red"


@pytest.fixture(params=FAMILIES)
def made(request):
    return make_backbone(request.param)


def whole_prompt(backbone: MLLM, ids: Tensor, layout: Layout) -> list[int]:
    """A prompt `[1, n]` as transformers wants it: the image's token as often as the image has tokens."""
    counts = [layout.tokens if token == backbone.patch_id else 1 for token in ids[0].tolist()]
    return [token for token, count in zip(ids[0].tolist(), counts, strict=True) for _ in range(count)]


def vision_inputs(backbone: MLLM, ids: Tensor, layout: Layout) -> dict[str, Any]:
    size = (layout.rows * backbone.tile, layout.cols * backbone.tile)
    if not isinstance(backbone, Qwen2_5_VL):
        tiles = cut_tiles(images(1, *size), backbone.tile, layout.rows, layout.cols)
        return {"pixel_values": backbone.normalise(tiles)}
    # transformers' own order of patches: rows and columns of merged blocks, then inside a block
    p, m = 4, 2
    pixels = backbone.normalise(images(1, layout.height * p * m, layout.width * p * m).float())[0]
    patches = [
        pixels[:, (2 * y + dy) * p :, (2 * x + dx) * p :][:, :p, :p][:, None].expand(-1, 2, -1, -1).flatten()
        for y in range(layout.height)
        for x in range(layout.width)
        for dy in range(m)
        for dx in range(m)
    ]
    return {
        "pixel_values": torch.stack(patches),
        "image_grid_thw": torch.tensor([[1, layout.height * m, layout.width * m]]),
        "mm_token_type_ids": (ids == backbone.patch_id).int(),
    }


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 3)], ids=["square", "tall", "wide"])
def test_causal_answers_are_those_of_transformers(made, shape):
    """The whole model of transformers on the same tokens: embeddings, places, vision tower, logits."""
    backbone, tokenizer = made
    side = 16 if isinstance(backbone, Qwen2_5_VL) else backbone.tile
    size = (shape[0] * side, shape[1] * side)
    ids, mask = tokenizer.encode_prompts([backbone.chat(QUESTION)])
    answer = answers(1)
    answer[:, 0] = ids[:, -1]
    context = backbone.encode(images(1, *size), ids, mask, causal=True)
    ours = backbone.answer(context, answer) @ backbone.output_embedding.T
    layout = backbone.layout(*size)
    assert (layout.rows * layout.height, layout.cols * layout.width) == (2 * shape[0], 2 * shape[1])
    prompt = whole_prompt(backbone, ids, layout)
    whole = torch.tensor([[*prompt, *answer[0, 1:].tolist()]])
    net = backbone.net
    net.set_attn_implementation("eager")
    net.config.image_token_id = backbone.patch_id
    theirs = net(input_ids=whole, **vision_inputs(backbone, whole, layout)).logits
    torch.testing.assert_close(ours, theirs[:, len(prompt) - 1 :], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_the_answer_of_a_query_is_that_of_transformers(name):
    """Transformers' decoder on prompt, image, query and answer in one sequence.

    The query is the image at its place, before the first layer and once more before every further one.
    """
    backbone, tokenizer, _, grid = dense(name, per_window=1)
    size, answer = tall(backbone), answers(2)
    ids, mask = tokenizer.encode_prompts([backbone.chat(QUESTION)])
    ours = backbone.answer(backbone.encode(images(1, *size), ids, mask, grid, causal=True), answer)
    layout = backbone.layout(*size)
    prompt = whole_prompt(backbone, ids, layout)
    backbone.net.set_attn_implementation("eager")
    for row in range(2):
        whole = torch.tensor([[*prompt, *answer[row].tolist()]])
        theirs = decoder_with_local_prompts(backbone, whole, len(prompt), grid.references[:, row : row + 1])
        torch.testing.assert_close(ours[row], theirs[0, len(prompt) :], rtol=1e-4, atol=1e-4)


def sampled(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps `[B, H, W, C]` at normalised points `[B, Q, 2]`, with torch's own kernel."""
    values = F.grid_sample(maps.permute(0, 3, 1, 2), 2 * points[:, None] - 1, align_corners=False)
    return values[:, :, 0].transpose(1, 2)


def decoder_with_local_prompts(backbone: MLLM, ids: Tensor, query: int, point: Tensor) -> Tensor:
    """Hidden states of transformers' decoder; the token `query` also gets the image at `point [1, 1, 2]`."""
    size, net = tall(backbone), backbone.net.model
    layout = backbone.layout(*size)
    image = backbone.read_images(images(1, *size), layout)
    inside = ids == backbone.patch_id
    x = net.get_input_embeddings()(ids)
    x[inside] = image.first[0]
    x[:, query] = sampled(mosaic(image.first, layout), point)[:, 0]
    extra: dict[str, Any] = {}
    if isinstance(backbone, Qwen2_5_VL):
        backbone.net.config.image_token_id = backbone.patch_id
        inputs = vision_inputs(backbone, ids, layout)
        types, shape = inputs["mm_token_type_ids"], inputs["image_grid_thw"]
        extra["position_ids"], _ = net.get_rope_index(ids, mm_token_type_ids=types, image_grid_thw=shape)
    if image.added:
        extra["visual_pos_masks"] = inside
        extra["deepstack_visual_embeds"] = [one[0] for one in image.added]

    def add_image(module, args):
        (x,) = args
        local = sampled(mosaic(image_part(x, inside, layout.tokens), layout), point)
        return (torch.cat([x[:, :query], x[:, query : query + 1] + local, x[:, query + 1 :]], 1),)

    hooks = [layer.register_forward_pre_hook(add_image) for layer in net.language_model.layers[1:]]
    hidden = net.language_model(inputs_embeds=x, **extra).last_hidden_state
    for hook in hooks:
        hook.remove()
    return hidden


@torch.no_grad()
def test_deepstack_reaches_the_answers():
    """What later layers of Qwen3-VL's tower add behind the first decoder layers matters, there alone."""
    backbone, tokenizer = make_backbone("qwen3_vl")
    before = encode(backbone, tokenizer, causal=True)
    for merger in backbone.net.model.visual.deepstack_merger_list:
        merger.linear_fc2.weight.zero_(), merger.linear_fc2.bias.zero_()
    after = encode(backbone, tokenizer, causal=True)
    changed = [
        bool((a.shared[0] - b.shared[0]).abs().max() > 1e-4)
        for a, b in zip(before.memory, after.memory, strict=True)
    ]
    assert changed == [False, True, True]
    assert (before.image_features - after.image_features).abs().max() > 1e-4
    ids = answers(2)
    assert (backbone.answer(before, ids) - backbone.answer(after, ids)).abs().max() > 1e-4
