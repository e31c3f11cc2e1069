"""Several first tokens of a query: which pairs are kept, and that each is decoded as if it were alone."""

from __future__ import annotations

import pytest
import torch
from mllm_models import make_backbone

from ufo.head.expand import Expansion
from ufo.head.greedy import greedy
from ufo.head.strategy import Strategy
from ufo.ops.grid import query_grid


def test_the_best_pairs_of_each_image():
    logits = torch.tensor([[9.0, 5, 1, 0], [9, 0, 4, 3], [0, 0, 0, 9], [0, 8, 7, 0]])  # 2 images, 2 queries
    rows, tokens, scores = Expansion(top=2, keep=3, silent=0).pick(logits, 2)
    probability = logits.softmax(-1)
    pairs = list(zip(rows.tolist(), tokens.tolist(), strict=True))
    assert pairs[:3] == [(0, 1), (0, 2), (1, 2)] or pairs[:3] == [(0, 1), (1, 2), (0, 2)] or len(pairs) == 6
    assert all(token != 0 for _, token in pairs)
    assert [row // 2 for row, _ in pairs] == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(scores, probability[rows, tokens])
    best = [sorted((probability[2 * i : 2 * i + 2, 1:]).flatten().tolist())[::-1] for i in range(2)]
    assert scores.view(2, 3)[:, 0].tolist() == pytest.approx([b[0] for b in best])
    assert (scores.view(2, 3).diff(dim=1) <= 0).all()


def test_too_few_pairs():
    with pytest.raises(ValueError, match="lower keep_queries"):
        Expansion(top=2, keep=9, silent=0).pick(torch.zeros(4, 6), 4)


@torch.no_grad()
def test_expanded_rows_are_decoded_as_if_alone():
    backbone, tokenizer = make_backbone("internvl")
    ids, mask = tokenizer.encode_prompts([backbone.chat("three")] * 2)
    images = torch.randint(256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
    context = backbone.encode(images, ids, mask, query_grid(1, 1, 3))
    strategy = Strategy(tokenizer.start_id, tokenizer.end_id, 6, expansion=Expansion(3, 14, silent=0))
    found = greedy(backbone, context, strategy)
    assert len(found.ids) == 28 and found.queries.max() < 9
    for row in (0, 5, 13, 14, 27):
        query = found.queries[row] + (row // 14) * 9
        said = [tokenizer.start_id, *found.ids[row].tolist()]
        fed = torch.full((18, 6), 5)
        fed[query] = torch.tensor(said[:-1])
        hidden = backbone.answer(context, fed)[query]
        logits = hidden @ backbone.output_embedding.T
        torch.testing.assert_close(
            logits[0].softmax(-1)[said[1]], found.first_scores[row], rtol=1e-4, atol=1e-6
        )
        ended = tokenizer.end_id in said[1:]
        length = said.index(tokenizer.end_id) if ended else 6
        assert logits[1:length].argmax(-1).tolist() == said[2 : length + 1]
        torch.testing.assert_close(found.features[row, :length], hidden[:length], rtol=1e-3, atol=1e-4)
