"""Every combination of the parts of decoding equals plain loops over single answers, or is refused."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from plain_decoding import Plain, PlainDecoder, Talker

from ufo.head.decoding import Decoded, decode
from ufo.head.early_leaving import tokens_without_class
from ufo.head.strategy import check_settings
from ufo.tasks.instance_segmentation import InstanceSegmentation

pytestmark = pytest.mark.heavy

PARTS = ("beams", "grammar", "expansion", "masks", "drafts", "leaving")
EXCLUDE = [{"beams", "expansion"}]  # the table of docs/architecture.md
COMBINATIONS = [
    frozenset(p for p, on in zip(PARTS, chosen, strict=True) if on)
    for chosen in itertools.product((False, True), repeat=len(PARTS))
]
NAMES, RUN, LENGTH = ("red cat", "owl", "dog"), 3, 7
ANSWERS = ("background", *(f"{name}," + "<MASK>" * RUN for name in NAMES))
DRAFTS = ("owl," + "<MASK>" * 4, "owl", "red cat," + "<MASK>" * RUN, "background")
KEYS = torch.arange(3 * 8).view(3, 8)  # of three images
SEARCH = {"num_beams": 3, "temperature": 1.5, "length_penalty": 0.7}
TOP, KEEP = 2, 11


@dataclass(kw_only=True)
class AnyTask(InstanceSegmentation):
    """A task whose parts of decoding can be switched on one by one."""

    names_first: bool = False
    likely: tuple[str, ...] = ()

    @property
    def drafts(self) -> tuple[str, ...]:
        return self.likely

    def check_mask_tokens(self) -> None:
        """Any number, and none, will do: nobody makes a picture of these masks."""

    def object_grammar(self):
        return (("<MASK>" * RUN,),)


def make_task(parts: frozenset[str]) -> AnyTask:
    settings = {"image_size": 24, "max_length": LENGTH, "grid_per_window": 2}
    settings["mask_tokens"] = RUN if "masks" in parts else 0
    settings["constrained"] = "grammar" in parts
    settings["names_first"] = "leaving" in parts
    settings["likely"] = DRAFTS if "drafts" in parts else ()
    if "beams" in parts:
        settings |= SEARCH
    if "expansion" in parts:
        settings |= {"top_tokens": TOP, "keep_queries": KEEP}
    return AnyTask(**settings)


def make_talker(tokenizer, seed: int) -> Talker:
    """Answers with names, commas and masks are likely, and so are those that part from them."""
    likely: dict[int, set[int]] = {}
    for row in tokenizer.encode([*ANSWERS, *DRAFTS]):
        for token, successor in itertools.pairwise(row):
            likely.setdefault(token, set()).add(successor)
    return Talker(len(tokenizer), {k: sorted(v) for k, v in likely.items()}, seed)


def make_plain(tokenizer, talker: Talker, parts: frozenset[str]) -> PlainDecoder:
    answers, leave = None, frozenset()
    if "grammar" in parts:
        answers = {tuple(row[1:]) for row in tokenizer.encode(ANSWERS)}
    elif "leaving" in parts:
        leave = tokens_without_class(tokenizer, NAMES, len(tokenizer)).nonzero()[:, 0].tolist()
    return PlainDecoder(
        talker.logits, tokenizer.start_id, tokenizer.end_id, LENGTH, answers, frozenset(leave)
    )


def expected(plain: PlainDecoder, tokenizer, parts: frozenset[str], keys: list[list[int]]) -> list[Plain]:
    if "expansion" in parts:
        [[_, silent, *_]] = tokenizer.encode(["background"])
        return [answer for image in keys for answer in plain.expanded(image, TOP, KEEP, silent)]
    rows = [(key, query) for image in keys for query, key in enumerate(image)]
    if "beams" in parts:
        return [plain.beams(*row, *SEARCH.values()) for row in rows]
    return [plain.greedy(*row) for row in rows]


def assert_equal(found: Decoded, answers: list[Plain], end: int) -> None:
    assert len(found.ids) == len(answers)
    for row, answer in enumerate(answers):
        length = len(answer.tokens)
        assert found.ids[row].tolist() == [*answer.tokens, *[end] * (LENGTH - length)]
        assert found.first_scores[row].item() == pytest.approx(answer.score or 1.0, rel=1e-4, abs=1e-7)
        for feature, theirs in zip(found.features[row, :length], answer.features, strict=True):
            assert torch.equal(feature, theirs)
        assert found.queries is None or found.queries[row] == answer.query
        assert not found.features[row, length:].any()


def test_the_documents_table_says_what_is_refused():
    text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.search(r"^\| \| beams .*?\n\n", text, re.M | re.S)[0].strip()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.split("\n")]
    (_, *columns), _, *rows = lines
    cells = {(row, column): cell for row, *line in rows for column, cell in zip(columns, line, strict=True)}
    refused = [set(pair) for pair, cell in cells.items() if cell == "refused"]
    assert {*columns, *(row[0] for row in rows)} == set(PARTS)
    assert refused == EXCLUDE


@pytest.mark.parametrize("parts", COMBINATIONS, ids=lambda parts: "+".join(sorted(parts)) or "none")
def test_composes_or_is_refused(tokenizer, parts):
    task = make_task(parts)
    if any(pair <= parts for pair in EXCLUDE):
        talker = make_talker(tokenizer, 0)
        for refuses in (check_settings, partial(decode, talker, talker.context(KEYS), tokenizer)):
            with pytest.raises(ValueError, match="num_beams=3 and top_tokens=2 exclude each other"):
                refuses(task)
        assert not talker.calls
        return
    check_settings(task)
    for seed in range(2):
        talker = make_talker(tokenizer, seed)
        found = decode(talker, talker.context(KEYS), tokenizer, task, NAMES)
        answers = expected(make_plain(tokenizer, talker, parts), tokenizer, parts, KEYS.tolist())
        assert_equal(found, answers, tokenizer.end_id)


@pytest.mark.parametrize("parts", [frozenset(), frozenset({"grammar"}), frozenset({"expansion"})])
def test_guesses_save_calls(tokenizer, parts):
    """And the answers that they are about do occur."""
    calls = {}
    for guesses in ((), ("masks",), ("drafts",), ("masks", "drafts")):
        talker = make_talker(tokenizer, 1)
        task = make_task(parts | set(guesses))
        for key in KEYS.flatten().tolist()[: 8 if parts else 24]:
            if "expansion" in parts:
                task.keep_queries = 1
            decode(talker, talker.context(torch.tensor([[key]])), tokenizer, task, NAMES)
        calls[guesses] = talker.calls
    assert calls["masks",] < calls[()] and calls["drafts",] < calls[()]
    assert calls["masks", "drafts"] <= min(calls["masks",], calls["drafts",])


def test_every_step_waits_for_the_device_once(tokenizer, monkeypatch):
    """Tensors go to the CPU once after every call of the backbone but the last, however rows part."""
    moved = []
    original = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: (moved.append(x), original(x))[1])
    for parts in COMBINATIONS:
        if "beams" in parts:
            continue
        talker = make_talker(tokenizer, 0)
        moved.clear()
        decode(talker, talker.context(KEYS), tokenizer, make_task(parts), NAMES)
        assert len(moved) <= talker.calls


def test_fewer_possible_first_tokens_than_top_tokens(tokenizer):
    """Under a grammar of one class there is one token to go on from; the others say nothing."""
    task, talker = make_task(frozenset({"grammar", "expansion"})), make_talker(tokenizer, 0)
    task.top_tokens, task.keep_queries = 3, 0
    found = decode(talker, talker.context(KEYS), tokenizer, task, ("owl",))
    texts = [text.replace(" ", "") for text in tokenizer.decode(found.ids.tolist())]
    assert sorted(set(texts)) == ["", "owl," + "<MASK>" * RUN]
    assert len(texts) == 72 and texts.count("") == 48
    assert [text == "" for text in texts] == [score == 0 for score in found.first_scores.tolist()]


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (
            {"num_beams": 3, "top_tokens": 2},
            "num_beams=3 and top_tokens=2 exclude each other",
        ),
        ({"keep_queries": 5}, "keep_queries=5 chooses among .* top_tokens=1 makes none; set keep_queries=0"),
        ({"top_tokens": 2, "keep_queries": 33}, "keep_queries=33 .* 16 queries with top_tokens=2 make 32"),
        ({"top_tokens": 2, "grid_per_window": 0}, "top_tokens=2 needs queries .* set top_tokens=1"),
        ({"top_tokens": 101}, "top_tokens=101 is more than a vocabulary of 100 tokens"),
        ({"num_beams": 51}, "num_beams=51 is too many .* use num_beams=50 or fewer"),
        ({"num_beams": 0}, "num_beams=0 is too small; use num_beams=1 or more"),
        ({"max_length": 0}, "max_length=0 is too small"),
        ({"temperature": 0.0}, "temperature=0.0 is too small"),
        ({"length_penalty": -1.0}, "length_penalty=-1.0 is too small"),
    ],
)
def test_refused_settings(make_tiny_task, settings, sentence):
    task = make_tiny_task("detection", **settings)
    with pytest.raises(ValueError, match=f"^task 'detection': {sentence}"):
        check_settings(task, vocabulary=100, queries=16)


def test_free_text_has_no_grammar(make_tiny_task):
    with pytest.raises(ValueError, match="task 'caption': its answers are free text; leave constrained="):
        check_settings(make_tiny_task("caption", constrained=True))
