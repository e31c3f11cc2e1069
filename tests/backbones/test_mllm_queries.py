"""Queries of language models: what an answer to one of them sees, and what all of them cost."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from mllm_models import FAMILIES, PROMPTS, answers, dense, encode, images, make_backbone, tall
from tiny_mllm import make_mllm, training_batch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ufo.backbones.context import AnswerCache, Context, LayerMemory
from ufo.backbones.prefix_attention import AnswerPass, answer_attention
from ufo.head.greedy import greedy
from ufo.head.losses import token_loss
from ufo.head.retrieval import retrieve_masks
from ufo.head.strategy import Strategy
from ufo.ops.grid import query_grid


@pytest.fixture(scope="module", params=FAMILIES)
def made(request):
    """A model, two encoded images with eight queries each, and their grid."""
    with torch.no_grad():
        return dense(request.param)


@torch.no_grad()
def test_chunks_with_a_cache_are_the_whole(made):
    backbone, _, context, _ = made
    ids = answers(16)
    cache = AnswerCache(5)
    chunks = [backbone.answer(context, part, cache=cache) for part in ids.split([1, 3, 1], 1)]
    torch.testing.assert_close(torch.cat(chunks, 1), backbone.answer(context, ids), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_decoded_answers_are_what_the_model_says_to_them_as_a_whole(made):
    backbone, tokenizer, context, _ = made
    found = greedy(backbone, context, Strategy(tokenizer.start_id, tokenizer.end_id, 6))
    start = torch.full((16, 1), tokenizer.start_id)
    hidden = backbone.answer(context, torch.cat([start, found.ids[:, :-1]], 1))
    said = (hidden @ backbone.output_embedding.T).argmax(-1)
    ended = (found.ids == tokenizer.end_id).int().cumsum(1) > (found.ids == tokenizer.end_id).int()
    assert torch.equal(said.masked_fill(ended, 0), found.ids.masked_fill(ended, 0))
    torch.testing.assert_close(found.features[~ended], hidden[~ended], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_packed_positions_are_those_of_whole_rows(made):
    backbone, _, context, _ = made
    ids = answers(16)
    lengths = torch.arange(16) % 5 + 1
    packed = (torch.arange(5) < lengths[:, None]).flatten().nonzero()[:, 0]
    whole = backbone.answer(context, ids).flatten(0, 1)[packed]
    torch.testing.assert_close(backbone.answer(context, ids, packed), whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_queries_do_not_see_each_other(made):
    backbone, _, context, _ = made
    ids = answers(16)
    before = backbone.answer(context, ids)
    ids[3] = answers(1, seed=9)[0]
    changed = (backbone.answer(context, ids) - before).abs().amax((1, 2)) > 1e-4
    assert changed.nonzero()[:, 0].tolist() == [3]


@torch.no_grad()
def test_rows_that_stay_do_not_notice_those_that_leave(made):
    backbone, _, context, _ = made
    ids = answers(16)
    whole = backbone.answer(context, ids)
    for rows in ([1, 5, 9], [2, 2, 2, 15], [0], list(range(8, 16))):
        rows = torch.tensor(rows)
        chosen = context.select(rows)
        assert chosen.memory[0].shared[0].data_ptr() == context.memory[0].shared[0].data_ptr()
        torch.testing.assert_close(backbone.answer(chosen, ids[rows]), whole[rows], rtol=1e-4, atol=1e-5)
        again = torch.arange(len(rows)).flip(0)
        torch.testing.assert_close(
            backbone.answer(chosen.select(again), ids[rows[again]]), whole[rows[again]], rtol=1e-4, atol=1e-5
        )


@torch.no_grad()
def test_a_batch_of_images_is_a_loop_over_them(made):
    backbone, tokenizer, context, grid = made
    ids = answers(16)
    together = backbone.answer(context, ids)
    for i, prompt in enumerate(PROMPTS):
        prompt_ids, mask = tokenizer.encode_prompts([backbone.chat(prompt)])
        one = images(2, *tall(backbone))[i : i + 1]
        alone = backbone.encode(one, prompt_ids, mask, grid)
        rows = slice(8 * i, 8 * i + 8)
        torch.testing.assert_close(alone.image_features[0], context.image_features[i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(backbone.answer(alone, ids[rows]), together[rows], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_scores_in_parts_are_those_at_once(made, monkeypatch):
    backbone, _, context, _ = made
    ids = answers(16)
    whole = backbone.answer(context, ids)
    monkeypatch.setattr("ufo.backbones.prefix_attention.SCORES_ON_CPU", 1000)
    torch.testing.assert_close(backbone.answer(context, ids), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_mean_of_many_large_values_is_no_infinity(kind):
    """A query that looks at 2304 image tokens alike: the sum of their values exceeds float16's 65504."""
    keys, values = torch.zeros(1, 1, 2304, 8), torch.full((1, 1, 2304, 8), 40.0)
    context = Context(torch.empty(1, 1), [LayerMemory(shared=(keys.to(kind), values.to(kind)))], 3)
    own = torch.zeros(3, 1, 1, 8, dtype=kind)
    found = answer_attention(own, own, own + 40, 1.0, AnswerPass(0, context, (3, 1)))
    torch.testing.assert_close(found, torch.full_like(found, 40), rtol=1e-2, atol=0)


@torch.no_grad()
def test_a_query_starts_from_the_image_at_its_place(made):
    """The map is upright, and each layer adds what the layer below saw at the place."""
    backbone, tokenizer, context, grid = made
    size = tall(backbone)
    height, width = context.image_features.shape[1:3]
    assert height == 2 * width
    tokens = backbone.read_images(images(2, *size), backbone.layout(*size)).first
    # a query at the centre of the last token of the lower window is that token
    last = grid.select(torch.tensor([[0], [0]]))
    last.references = torch.tensor([1 - 0.5 / width, 1 - 0.5 / height]).expand(2, 1, 2)
    ids, mask = tokenizer.encode_prompts([backbone.chat("what")])
    found = backbone.encode(images(2, *size), ids, mask, last)
    torch.testing.assert_close(found.first_token.embedding, tokens[:, -1], rtol=1e-4, atol=1e-5)
    assert found.memory[0].local is None and all(m.local is not None for m in found.memory[1:])


@torch.no_grad()
def test_masks_are_found_at_their_pixels(made):
    """Four mask tokens of a row give one mask of twice the map's height and width."""
    backbone, _, context, _ = made
    hidden = backbone.answer(context, answers(16, 4))
    features = context.image_features
    masks = retrieve_masks(hidden, features, [8, 8])
    assert masks.shape == (16, 2 * features.shape[1], 2 * features.shape[2])
    expected = hidden[9, 3] @ features[1, 1, 0] / features.shape[-1] ** 0.5
    torch.testing.assert_close(masks[9, 3, 1], expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- what they cost


class Shapes(TorchDispatchMode):
    """The shape of every tensor that is computed, also in the backward pass."""

    def __init__(self):
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen |= {tuple(x.shape) for x in tree_leaves(result) if isinstance(x, torch.Tensor)}
        return result


def test_no_scores_between_answers_in_training():
    """Answers cost Q*T x N scores, never (N + Q*T)^2: no tensor has two dimensions as long as all answers."""
    backbone, tokenizer = make_backbone("internvl")
    grid, length = query_grid(*backbone.grid_windows(32, 16), 4), 5
    queries = grid.references.shape[1]
    ids = answers(2 * queries, length)
    with Shapes() as shapes:
        context = encode(backbone, tokenizer, size=(32, 16), grid=grid)
        hidden = backbone.answer(context, ids, torch.arange(ids.numel()))
        (hidden.square().mean() + context.image_features.mean()).backward()
    prefix = context.memory[0].shared[0].shape[2]
    together = queries * length
    assert prefix < together
    assert any(shape[-1:] == (prefix,) and shape[-2] >= together for shape in shapes.seen if len(shape) > 1)
    assert not [shape for shape in shapes.seen if sum(n >= together for n in shape) > 1]


def test_logits_of_supervised_positions_only():
    model, batch = make_mllm().train(), training_batch()
    targets = []

    def listen(hidden, wanted, embedding, count):
        targets.append(len(wanted))
        return token_loss(hidden, wanted, embedding, count)

    with patch("ufo.head.learning.token_loss", listen), Shapes() as shapes:
        model.loss(batch)["loss"].backward()
    words, width = model.backbone.output_embedding.shape
    logits = {torch.Size(shape) for shape in shapes.seen if shape[-1:] == (words,)} - {(width, words)}
    assert logits and max(shape[:-1].numel() for shape in logits) == targets[0]
