"""Constrained decoding: well-formed answers only, and unchanged where they were; rows that leave early."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from ufo.head.decoding import decode
from ufo.head.early_leaving import tokens_without_class
from ufo.head.grammar import DEAD, START, grammar_of
from ufo.ops.names import find_class
from ufo.tasks.wording import UFO_VIT

CONSTRAINED = ("detection", "instance_segmentation", "semantic_segmentation", "grounding")
NAMES = ("dog", "red cat", "red", "owl")
BINS = tuple(map(str, range(13)))


def words_of(tokenizer, *fields) -> set[tuple[int, ...]]:
    """All answers of one alternative as ids with the end."""
    encoded = [[ids[1:-1] for ids in tokenizer.encode(texts)] for texts in fields]
    return {(*itertools.chain(*parts), tokenizer.end_id) for parts in itertools.product(*encoded)}


def accepted(grammar) -> set[tuple[int, ...]]:
    """All sequences that lead from the start to a state that nothing follows."""
    found, open_ = set(), [((), START)]
    while open_:
        said, state = open_.pop()
        following = [(i, s) for i, s in zip(grammar.ids.tolist(), grammar.table[state].tolist(), strict=True)]
        following = [((*said, i), s) for i, s in following if s != DEAD]
        open_ += following
        if not following:
            found.add(said)
    return found


def test_the_automaton_accepts_all_well_formed_answers_and_no_others(tokenizer):
    comma = (",",)
    grammar = grammar_of(tokenizer, ((NAMES, comma, BINS, comma, BINS), (("background",),)))
    expected = words_of(tokenizer, NAMES, comma, BINS, comma, BINS) | words_of(tokenizer, ("background",))
    assert accepted(grammar) == expected
    assert grammar.longest == max(map(len, expected))


def test_alternatives_that_begin_alike(tokenizer):
    """`red` may end, go on as `red cat`, or be followed by a comma."""
    grammar = grammar_of(tokenizer, ((NAMES,), (("red", "red owl"), (",",), ("dog", "3"))))
    expected = words_of(tokenizer, NAMES) | words_of(tokenizer, ("red", "red owl"), (",",), ("dog", "3"))
    assert accepted(grammar) == expected


def test_numbers_share_their_states(tokenizer):
    """The table grows with the fields, not with the numbers."""
    small, large = (tuple(map(str, range(n))) for n in (40, 49))
    few, many = (grammar_of(tokenizer, ((bins, (",",), bins, (",",), bins),)) for bins in (small, large))
    assert len(few.table) == len(many.table) <= 7


def test_texts_that_the_vocabulary_cannot_write(tokenizer):
    grammar = grammar_of(tokenizer, ((("dog", "\u0416"),),))
    assert accepted(grammar) == words_of(tokenizer, ("dog",))
    with pytest.raises(ValueError, match="cannot write"):
        grammar_of(tokenizer, ((("\u0416",), (",",)),))


def test_states_of_rows_follow_their_tokens(tokenizer):
    grammar = grammar_of(tokenizer, ((NAMES, (",",), ("<MASK>" * 4,)),))
    [said] = tokenizer.encode(["red cat," + "<MASK>" * 4])
    state = torch.tensor([START, START, DEAD])
    for token in said[1:]:
        assert state[0] != DEAD
        _, picked = grammar.pick(torch.zeros(1, len(grammar.ids)), state[:1])
        assert picked != DEAD
        following = torch.tensor([token, tokenizer.mask_id, token])  # the second row starts with a mask
        state = grammar.advance(state, following)
    assert state[1:].eq(DEAD).all()
    before = grammar.advance(torch.tensor([START]), torch.tensor(said[1:2]))
    for token in said[2:5]:
        before = grammar.advance(before, torch.tensor([token]))
    masks = torch.full((1, 4), tokenizer.mask_id)
    run = grammar.follow(before, masks)  # after the first mask: three more, then the end
    assert run.shape == (1, 5) and run[0, :4].ne(DEAD).all() and run[0, 4] == DEAD


# ------------------------------------------------------------------------------- whole answers


class Pushed:
    """A backbone whose likeliest tokens are those of `script [R, T]`."""

    def __init__(self, backbone, script: Tensor):
        self.backbone, self.script = backbone, script

    def __getattr__(self, name):
        return getattr(self.backbone, name)

    def answer(self, context, ids, packed=None, cache=None):
        start = cache.length
        hidden = self.backbone.answer(context, ids, packed, cache)
        # rows are told apart by the feature that a memory carries: which of the context's own rows it is
        spoken = context.memory[0].own[0][:, 0, 0, 0]
        row = (spoken[:, None] - self.keys).abs().argmin(1)
        at = (torch.arange(ids.shape[1]) + start).clamp(max=self.script.shape[1] - 1)
        return hidden + 1000 * self.backbone.output_embedding[self.script[row][:, at]]


@pytest.fixture
def encoded(make_model, make_batch):
    """Encodes the tiny images with a task: model, task, batch, context."""

    def encode(name: str, **changes):
        model, batch = make_model(seed=3), make_batch(name)
        task = model.task(name)
        for key, value in changes.items():
            setattr(task, key, value)
        with torch.no_grad():
            grid = model.grid(task, *batch.images.shape[-2:])
            context = model.encode(batch.images, task.ask(batch, grid).prompts, grid)
        return model, task, batch, context

    return encode


def well_formed(task, tokenizer, text: str, classes) -> bool:
    """By the text alone, as an independent reader would say."""
    mask = "<MASK>"
    fields = text.replace(" ", "").replace(mask, "m").split(",")
    names = [name.replace(" ", "") for name in classes]
    if task.name == "grounding":
        return len(fields) == 4 and all(f.isdigit() and int(f) <= task.num_bins for f in fields)
    if text == UFO_VIT.background:
        return task.name != "semantic_segmentation"
    if fields[0] not in names:
        return False
    if task.name == "detection":
        return len(fields) == 5 and all(f.isdigit() and int(f) <= task.num_bins for f in fields[1:])
    return fields[1:] == ["m" * task.mask_tokens]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", CONSTRAINED)
@torch.no_grad()
def test_constrained_answers_are_well_formed(encoded, name, beams):
    model, task, batch, context = encoded(name, num_beams=beams)
    free = decode(model.backbone, context, model.tokenizer, task, batch.classes)
    texts = model.tokenizer.decode(free.ids.tolist())
    assert not all(well_formed(task, model.tokenizer, t, batch.classes) for t in texts)
    task.constrained = True
    found = decode(model.backbone, context, model.tokenizer, task, batch.classes)
    for text in model.tokenizer.decode(found.ids.tolist()):
        assert well_formed(task, model.tokenizer, text, batch.classes), text
    assert found.first_scores.gt(0).all() and found.first_scores.le(1).all()
    model.predict_batch(batch)


@pytest.mark.parametrize("name", ["detection", "instance_segmentation"])
@torch.no_grad()
def test_well_formed_answers_stay_as_they_are(encoded, name):
    """Ids, scores and hidden states of a model that says nothing else; mask chunks included."""
    model, task, batch, context = encoded(name)
    end = "4,48,0,13" if name == "detection" else "<MASK>" * task.mask_tokens
    texts = ["background", f"red cat,{end}", f"dog,{end}", "background"]
    rows = model.tokenizer.encode([texts[i % 4] for i in range(context.num_rows)])
    script = torch.full((len(rows), task.max_length), model.tokenizer.end_id)
    for out, row in zip(script, rows, strict=True):
        out[: len(row) - 1] = torch.tensor(row[1:])
    embedding = model.backbone.output_embedding  # of one length: each is the most like itself
    embedding.copy_(torch.nn.functional.normalize(embedding))
    backbone = Pushed(model.backbone, script)
    backbone.keys = context.memory[0].own[0][:, 0, 0, 0].clone()
    assert len(backbone.keys.unique()) == context.num_rows
    free = decode(backbone, context, model.tokenizer, task)
    assert torch.equal(free.ids, script)
    for constrained in (False, True):
        task.constrained = constrained
        found = decode(backbone, context, model.tokenizer, task, batch.classes)
        assert torch.equal(found.ids, free.ids)
        torch.testing.assert_close(found.first_scores, free.first_scores)
        said = script != model.tokenizer.end_id
        torch.testing.assert_close(found.features[said], free.features[said])


def test_free_text_has_no_grammar(encoded):
    model, task, batch, context = encoded("caption", constrained=True)
    with pytest.raises(ValueError, match="constrained=false"):
        decode(model.backbone, context, model.tokenizer, task, batch.classes)


@torch.no_grad()
def test_well_formed_answers_get_the_room_they_need(encoded):
    model, task, batch, context = encoded("detection", constrained=True, max_length=4)
    found = decode(model.backbone, context, model.tokenizer, task, batch.classes)
    assert found.ids.shape[1] == 10  # red cat , n , n , n , n
    texts = model.tokenizer.decode(found.ids.tolist())
    assert all(well_formed(task, model.tokenizer, text, batch.classes) for text in texts)


# ------------------------------------------------------------------------------- rows that leave early


def test_no_answer_that_names_a_class_begins_with_a_token_that_leaves(tokenizer):
    """Class names in any pieces: a name may be spelled letter by letter, too."""
    classes = ("Red cat", "owl", "t-shirt", "dog, left")
    leaves = tokens_without_class(tokenizer, classes, len(tokenizer) + 3)
    assert not leaves[len(tokenizer) :].any()
    assert leaves[tokenizer.encode(["background"])[0][1]]
    assert 0.5 < leaves.float().mean() < 1
    generator = torch.Generator().manual_seed(0)
    letters = [ids[1] for ids in tokenizer.encode(list("redcatowl-shg,"))]
    pieces = [i for i in range(len(tokenizer)) if tokenizer.decode([[letters[0], i]])[0][:2] in ("re", "rd")]
    pool = torch.tensor([*letters, *pieces, 0, 1, 2, *tokenizer.encode(["red cat owl"])[0][1:-1]])
    rows = pool[torch.randint(len(pool), (3000, 5), generator=generator)]
    named = [find_class(text, classes)[0] >= 0 for text in tokenizer.decode(rows.tolist())]
    assert sum(named) >= 3
    assert not (leaves[rows[:, 0]] & torch.tensor(named)).any()


@torch.no_grad()
def test_giving_up_changes_no_prediction(encoded):
    """Rows that go on say what they said, and the others would have been left out."""
    model, task, batch, context = encoded("detection")
    leaves = tokens_without_class(model.tokenizer, batch.classes, len(model.tokenizer))
    whole = decode(model.backbone, context, model.tokenizer, task)
    short = decode(model.backbone, context, model.tokenizer, task, batch.classes)
    stops = leaves[whole.ids[:, 0]]
    assert stops.any()
    assert torch.equal(short.ids[~stops], whole.ids[~stops])
    assert torch.equal(short.ids[:, 0], whole.ids[:, 0])
    assert short.ids[stops, 1:].eq(model.tokenizer.end_id).all()
    torch.testing.assert_close(short.first_scores, whole.first_scores)
    texts = model.tokenizer.decode(whole.ids[stops].tolist())
    assert all(find_class(text, batch.classes)[0] < 0 for text in texts)
