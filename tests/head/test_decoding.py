"""Decoding: batched equals plain; neither the cache nor rows that leave change an answer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from plain_decoding import PlainDecoder
from torch import Tensor

from ufo.backbones.context import AnswerCache, Context
from ufo.backbones.ufo_vit import UFOViT
from ufo.head.beam import CachedLogits, NextLogits, beam_search
from ufo.head.decoding import Decoded, decode
from ufo.head.greedy import greedy
from ufo.head.guesses import MaskRun
from ufo.head.strategy import Strategy
from ufo.ops.grid import query_grid
from ufo.tasks.caption import Caption

START, END, VOCABULARY, LENGTH = 1, 2, 13, 7
KEYS = torch.arange(10)
SEARCHES = [  # beams, temperature, length penalty, bonus of the end token
    (1, 1.0, 0.0, 0.0),
    (2, 1.0, 0.7, 0.5),
    (3, 1.5, 10.0, 1.0),
    (3, 0.4, 10.0, -2.0),
    (4, 1.0, 1.0, 4.0),
    (5, 2.0, 0.0, -50.0),
]
searches = pytest.mark.parametrize("beams, temperature, penalty, bonus", SEARCHES)


# ------------------------------------------------------------------------------- a model of tables


class Script:
    """Logits and features that depend on a query's key and on every token so far."""

    def __init__(self, bonus: float, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.logits = 2 * torch.randn(101, VOCABULARY, generator=generator)
        self.logits[:, END] += bonus
        self.features = torch.randn(101, 4, generator=generator)

    def code(self, prefix: Tensor) -> Tensor:
        """Prefixes `[R, key + tokens]` -> row of the tables."""
        return (prefix * 5 ** torch.arange(prefix.shape[1])).sum(1) % 101

    def step(self, keys: Tensor, calls: list[int] | None = None) -> NextLogits:
        """The step of queries with these keys; `calls` takes down the rows of each call."""
        prefix = keys[:, None]

        def step(tokens: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal prefix
            prefix = torch.cat([prefix[parents], tokens[:, None]], 1)
            code = self.code(prefix)
            if calls is not None:
                calls.append(len(tokens))
            return self.logits[code], self.features[code]

        return step


def search(step: NextLogits, queries: int, beams: int, temperature=1.0, penalty=1.0, **changes):
    arguments = {"start_id": START, "end_id": END, "max_length": LENGTH, **changes}
    return beam_search(
        step,
        queries,
        num_beams=beams,
        temperature=temperature,
        length_penalty=penalty,
        **arguments,
    )


def plain_search(script: Script, key: int, beams: int, temperature: float, penalty: float):
    """The same rules for one query, with lists: the winner's tokens and their log probabilities."""

    def logits(key: int, tokens) -> Tensor:
        return script.logits[script.code(torch.tensor([[key, *tokens]]))[0]]

    return PlainDecoder(logits, START, END, LENGTH).search(key, beams, temperature, penalty)


def assert_equal(one: Decoded, other: Decoded) -> None:
    assert torch.equal(one.ids, other.ids)
    torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.features, other.features, atol=1e-4, rtol=1e-4)


@searches
@pytest.mark.parametrize("seed", range(3))
def test_all_queries_at_once_equal_a_plain_search(beams, temperature, penalty, bonus, seed):
    """Also says that leaving changes nothing: a plain search has no rows to leave."""
    script = Script(bonus, seed)
    winners = search(script.step(KEYS), len(KEYS), beams, temperature, penalty)
    for row, key in enumerate(KEYS.tolist()):
        tokens, gains = plain_search(script, key, beams, temperature, penalty)
        count = len(tokens)
        assert winners.ids[row].tolist() == [*tokens, *[END] * (LENGTH - count)]
        scores = torch.tensor([*gains, *[0.0] * (LENGTH - count)]).exp()
        torch.testing.assert_close(winners.scores[row], scores, atol=1e-6, rtol=1e-4)
        prefixes = [torch.tensor([[key, START, *tokens[:t]]]) for t in range(count)]
        for at, prefix in enumerate(prefixes):
            assert torch.equal(winners.features[row, at], script.features[script.code(prefix)[0]])
        assert not winners.features[row, count:].any()


@searches
def test_one_query_at_a_time_and_any_order(beams, temperature, penalty, bonus):
    script = Script(bonus)
    together = search(script.step(KEYS), len(KEYS), beams, temperature, penalty)
    for row in range(len(KEYS)):
        alone = search(script.step(KEYS[row : row + 1]), 1, beams, temperature, penalty)
        assert torch.equal(alone.ids[0], together.ids[row])
    order = torch.randperm(len(KEYS), generator=torch.Generator().manual_seed(3))
    shuffled = search(script.step(KEYS[order]), len(KEYS), beams, temperature, penalty)
    assert torch.equal(shuffled.ids, together.ids[order])
    assert torch.equal(shuffled.scores, together.scores[order])
    assert torch.equal(shuffled.features, together.features[order])


@pytest.mark.parametrize("penalty", [0.0, 0.7, 10.0])
def test_one_beam_is_greedy(penalty):
    script = Script(bonus=1.0)
    winners = search(script.step(KEYS), len(KEYS), 1, penalty=penalty)
    rows, prefix = torch.arange(len(KEYS)), torch.full((len(KEYS), 1), START)
    step = script.step(KEYS)
    for _ in range(LENGTH):
        chosen = step(prefix[:, -1], rows)[0].argmax(1)
        prefix = torch.cat([prefix, chosen[:, None]], 1)
    ids = prefix[:, 1:]
    ended = (ids == END).cumsum(1) > 0
    assert ended.any(1).sum() not in (0, len(KEYS))
    assert torch.equal(winners.ids, ids.masked_fill(ended, END))


def test_finished_queries_leave_with_all_their_beams():
    calls: list[int] = []
    search(Script(bonus=2.0).step(KEYS, calls), len(KEYS), 3)
    assert calls[:2] == [10, 30]
    assert all(rows % 3 == 0 for rows in calls[1:])
    assert calls[1:] == sorted(calls[1:], reverse=True) and calls[-1] < calls[1]
    calls.clear()
    search(Script(bonus=50.0).step(KEYS, calls), len(KEYS), 3)
    assert len(calls) < LENGTH  # nobody is left before the last step


def test_length_penalty_prefers_the_longer_answer():
    """After the start: the end (0.6) or a word (0.4) that always goes on to the fifth token."""
    step_number = -1

    def step(tokens, parents):
        nonlocal step_number
        step_number += 1
        probability = torch.full((len(tokens), VOCABULARY), 1e-9)
        if step_number == 0:
            probability[:, END], probability[:, 5] = 0.6, 0.4
        else:
            probability[:, END if step_number == 5 else 6] = 1.0
        return probability.log(), torch.zeros(len(tokens), 4)

    assert (search(step, 1, 2, penalty=0.0).ids == END).all()
    step_number = -1
    winners = search(step, 1, 2, penalty=10.0)
    assert winners.ids.tolist() == [[5, 6, 6, 6, 6, END, END]]
    assert winners.scores[0, 0].item() == pytest.approx(0.4, abs=1e-6)


def test_an_empty_answer_scores_one():
    winners = search(Script(bonus=50.0).step(KEYS), len(KEYS), 2)
    assert (winners.ids == END).all() and (winners.scores == 1).all()


def test_more_beams_than_the_vocabulary_allows():
    with pytest.raises(ValueError, match="num_beams=6 or fewer"):
        search(Script(0.0).step(KEYS), len(KEYS), 7)


# ------------------------------------------------------------------------------- a tiny UFO-ViT


@pytest.fixture(scope="module")
def backbone() -> UFOViT:
    torch.manual_seed(0)
    model = UFOViT(
        vocab_size=20,
        width=32,
        depth=2,
        heads=2,
        global_layers=[1],
        new_layers=1,
        image_size=16,
        patch_size=4,
        window_size=2,
        max_positions=16,
    )
    with torch.no_grad():  # larger than for training: answers should differ between queries
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


IMAGES = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
CASES = ["dense", "caption"]  # own memory of 16 queries per image; image memory shared, one query


def encode(backbone: UFOViT, case: str, images: Tensor = IMAGES) -> Context:
    prompt = torch.tensor([[START, 5, 6]])
    grid = query_grid(2, 2, 2) if case == "dense" else None
    return backbone.encode(images, prompt, torch.ones_like(prompt, dtype=torch.bool), grid)


def lock_step(backbone: UFOViT, context: Context) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy ids, features and logits where no row ever leaves."""
    token = torch.full((context.num_rows, 1), START)
    memory, steps = AnswerCache(LENGTH), []
    for _ in range(LENGTH):
        hidden = backbone.answer(context, token, cache=memory)[:, -1]
        logits = hidden @ backbone.output_embedding.T
        token = logits.argmax(1, keepdim=True)
        steps.append((token[:, 0], hidden, logits))
    ids, features, logits = (torch.stack(x, 1) for x in zip(*steps, strict=True))
    return ids, features, logits


def common_token(ids: Tensor) -> int:
    """A token that ends some rows, at different steps, when taken for the end."""
    spread = [len({*(ids == t).int().argmax(1)[(ids == t).any(1)].tolist()}) for t in range(20)]
    missing = [not (ids == t).any(1).all() for t in range(20)]
    return max(range(20), key=lambda t: (missing[t], spread[t]))


def uncached(backbone: UFOViT, context: Context) -> NextLogits:
    """A step that runs the whole answers so far from scratch."""
    rows, prefix = torch.arange(context.num_rows), torch.empty(context.num_rows, 0).long()

    def step(tokens: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal rows, prefix
        rows, prefix = rows[parents], torch.cat([prefix[parents], tokens[:, None]], 1)
        hidden = backbone.answer(context.select(rows), prefix)[:, -1]
        return hidden @ backbone.output_embedding.T, hidden

    return step


@pytest.mark.parametrize("case", CASES)
def test_greedy_rows_that_leave_equal_lock_step(backbone, case):
    context = encode(backbone, case)
    ids, features, logits = lock_step(backbone, context)
    end = common_token(ids)
    decoded = greedy(backbone, context, Strategy(START, end, LENGTH))
    ended = (ids == end).cumsum(1) > 0
    assert 0 < ended.any(1).sum() < len(ids) and len(ended.sum(1).unique()) > 2
    assert torch.equal(decoded.ids, ids.masked_fill(ended, end))
    emitted = ended.cumsum(1) <= 1  # the end's own feature counts as well
    torch.testing.assert_close(decoded.features[emitted], features[emitted], atol=1e-4, rtol=1e-4)
    expected = logits[:, 0].softmax(1).amax(1)
    torch.testing.assert_close(decoded.first_scores, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.heavy
@pytest.mark.parametrize("chunk", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_verified_mask_chunks_give_the_answers_of_single_steps(backbone, case, chunk):
    """Taking any frequent token for `<MASK>` gives rows that continue a chunk, rows that do not, and both."""
    context = encode(backbone, case)
    ids, _, _ = lock_step(backbone, context)
    end = common_token(ids)
    rows_in_chunk = rows_back = 0
    for mask in ids.unique().tolist():
        if mask == end:
            continue
        plain = greedy(backbone, context, Strategy(START, end, LENGTH))
        runs_of_masks = Strategy(START, end, LENGTH, guesses=(MaskRun(mask, chunk),))
        chunked = greedy(backbone, context, runs_of_masks)
        assert torch.equal(chunked.ids, plain.ids), mask
        torch.testing.assert_close(chunked.features, plain.features, atol=1e-4, rtol=1e-4)
        runs = (ids.unfold(1, chunk, 1) == mask).all(-1).any(1)
        rows_in_chunk += int(runs.sum())
        rows_back += int(((ids == mask).any(1) & ~runs).sum())
    assert rows_in_chunk and rows_back


@pytest.mark.parametrize("case", CASES)
def test_greedy_with_cache_equals_without(backbone, case):
    context = encode(backbone, case)
    end = common_token(lock_step(backbone, context)[0])
    decoded = greedy(backbone, context, Strategy(START, end, LENGTH))
    inputs = torch.cat([torch.full_like(decoded.ids[:, :1], START), decoded.ids[:, :-1]], 1)
    hidden = backbone.answer(context, inputs)
    emitted = (decoded.ids == end).cumsum(1) <= 1
    torch.testing.assert_close(decoded.features[emitted], hidden[emitted], atol=1e-4, rtol=1e-4)
    chosen = (hidden @ backbone.output_embedding.T).argmax(2)
    assert torch.equal(chosen[emitted], decoded.ids[emitted])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("beams, penalty", [(1, 1.0), (2, 0.7), (3, 10.0)])
def test_beams_with_cache_equal_those_without(backbone, case, beams, penalty):
    context = encode(backbone, case)
    end = common_token(lock_step(backbone, context)[0])
    arguments = {"beams": beams, "temperature": 1.5, "penalty": penalty, "end_id": end}
    one = search(CachedLogits(backbone, context, LENGTH), context.num_rows, **arguments)
    other = search(uncached(backbone, context), context.num_rows, **arguments)
    assert_equal(one, other)
    if beams == 1:
        assert torch.equal(one.ids, greedy(backbone, context, Strategy(START, end, LENGTH)).ids)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("beams", [1, 3])
def test_decode_one_image_at_a_time(backbone, case, beams):
    together = encode(backbone, case)
    end = common_token(lock_step(backbone, together)[0])
    tokenizer = SimpleNamespace(start_id=START, end_id=end, mask_id=-1)
    task = Caption(image_size=16, max_length=LENGTH, num_beams=beams, length_penalty=0.7)
    batch = decode(backbone, together, tokenizer, task)
    alone = [decode(backbone, encode(backbone, case, image[None]), tokenizer, task) for image in IMAGES]
    assert torch.equal(torch.cat([a.ids for a in alone]), batch.ids)
    scores = torch.cat([a.first_scores for a in alone])
    torch.testing.assert_close(scores, batch.first_scores, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_decode_does_what_the_task_says(backbone, case):
    context = encode(backbone, case)
    end = common_token(lock_step(backbone, context)[0])
    tokenizer = SimpleNamespace(start_id=START, end_id=end, mask_id=-1)
    settings = {"image_size": 16, "max_length": LENGTH, "temperature": 1.5, "length_penalty": 10.0}
    expected = greedy(backbone, context, Strategy(START, end, LENGTH))
    plain = decode(backbone, context, tokenizer, Caption(num_beams=1, **settings))
    assert torch.equal(plain.ids, expected.ids)
    beams = decode(backbone, context, tokenizer, Caption(num_beams=3, **settings))
    arguments = {"beams": 3, "temperature": 1.5, "penalty": 10.0, "end_id": end}
    winners = search(CachedLogits(backbone, context, LENGTH), context.num_rows, **arguments)
    assert torch.equal(beams.ids, winners.ids) and not torch.equal(beams.ids, plain.ids)
    assert torch.equal(beams.first_scores, winners.scores[:, 0])
    assert torch.equal(beams.features, winners.features)
