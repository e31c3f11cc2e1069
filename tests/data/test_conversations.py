"""Conversations in LLaVA's format: which records are used, what is asked and answered."""

from __future__ import annotations

import json

import pytest
from files import write_image, write_json

from ufo.data.datasets.conversations import ConversationDataset
from ufo.data.errors import DataError


def talk(*said: str, first: str = "human") -> list[dict]:
    roles = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return [{"from": roles[i % 2], "value": text} for i, text in enumerate(said)]


GOOD = {"id": 1, "image": "a/0.jpg", "conversations": talk("<image>\nWhat?", "A cat.", "Where?", "There.")}


def make(folder, *records, **options) -> ConversationDataset:
    write_image(folder / "images" / "a" / "0.jpg")
    write_json(folder / "talks.json", list(records))
    return ConversationDataset(folder / "images", folder / "talks.json", **options)


def test_training_has_all_turns_and_evaluation_the_first_question(tmp_path):
    data = make(tmp_path, GOOD, train=True)
    assert data[0]["conversation"] == ["What?", "A cat.", "Where?", "There."]
    assert data[0]["text"] == "What?"
    shown = make(tmp_path, GOOD)
    assert set(shown[0]) == {"image", "text"}
    target = shown.target(0)
    assert (target.text, target.answers, target.size) == ("What?", ["A cat."], (48, 64))
    assert shown.portrait().tolist() == [False]


def test_lines_are_read_as_a_list_is(tmp_path):
    data = make(tmp_path, GOOD, GOOD, train=True)
    lines = tmp_path / "talks.jsonl"
    lines.write_text("\n".join(json.dumps(r) for r in (GOOD, GOOD)) + "\n\n")
    other = ConversationDataset(tmp_path / "images", lines, train=True)
    assert len(other) == len(data) == 2
    assert other[1]["conversation"] == data[1]["conversation"]
    lines.write_text("{}\n{")
    with pytest.raises(DataError, match="line 2"):
        ConversationDataset(tmp_path / "images", lines)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"image": None}, "no image"),
        ({"image": "a/0.gif"}, "image of another kind"),
        ({"conversations": talk("Only?")}, "not a question and an answer in turn"),
        ({"conversations": talk("Hello.", "What?", first="gpt")}, "not a question and an answer in turn"),
        ({"conversations": talk("What?", " ")}, "empty question or answer"),
        ({"conversations": [{"from": "human"}]}, "message without a text"),
        ({"conversations": None}, "no conversation"),
        ({"conversations": talk("x" * 200, "y")}, "too long"),
    ],
)
def test_unusable_records_are_left_out_and_counted(tmp_path, changes, problem):
    data = make(tmp_path, {**GOOD, **changes}, GOOD, "no record", max_characters=100, train=True)
    assert len(data) == 1 and data[0]["text"] == "What?"
    assert data.problems.counts[problem] >= 1


def test_turns_are_cut_before_they_are_measured(tmp_path):
    long = {**GOOD, "conversations": talk("What?", "A cat.", "x" * 99, "y" * 99, "and?")}
    data = make(tmp_path, long, max_turns=1, max_characters=50, train=True)
    assert data[0]["conversation"] == ["What?", "A cat."]


def test_a_last_question_without_an_answer_is_left_out(tmp_path):
    open_end = {**GOOD, "conversations": [*GOOD["conversations"], {"from": "human", "value": "Why?"}]}
    assert len(make(tmp_path, open_end, train=True)[0]["conversation"]) == 4


def test_folders_may_be_called_otherwise(tmp_path):
    data = make(tmp_path, {**GOOD, "image": "gqa/0.jpg"}, rename={"gqa/": "a/"})
    assert data[0]["image"].shape == (3, 48, 64)
    with pytest.raises(DataError, match="images"):
        make(tmp_path, {**GOOD, "image": "gqa/0.jpg"})


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no conversation about an image \(1x no conversation\)"):
        make(tmp_path, {})
    write_json(tmp_path / "talks.json", {"talks": [GOOD]})
    with pytest.raises(DataError, match="not a list of conversations, but an object with 'talks'"):
        ConversationDataset(tmp_path / "images", tmp_path / "talks.json")
