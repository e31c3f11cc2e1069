"""`ufo data vocab`: what it prints is what the tokenizer does, and what it writes trains."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from ufo.cli.main import main
from ufo.tokenizer import UFOTokenizer

NAMES = ["Zonotrichia leucophrys", "owl"]


@pytest.fixture
def source(tmp_path):
    """A source with classes that the general vocabulary spells in pieces, and one with captions."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg")
    boxes = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 32, "height": 32}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 9, 9], "area": 81}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    said = [{"image": "a.jpg", "caption": "an egret beside a zonotrichia egret", "image_id": 1}]
    (tmp_path / "captions.json").write_text(json.dumps(said))
    for name, task, loader, file in (
        ("birds", "detection", "CocoDataset", "boxes.json"),
        ("words", "caption", "captions.CaptionDataset", "captions.json"),
    ):
        (tmp_path / f"{name}.yaml").write_text(
            f"# @package sources.{name}\ndefaults: [/transform@transform: plain]\nname: {name}/{task}\n"
            f"task: {task}\ndataset:\n  train:\n    _target_: ufo.data.datasets.{loader}\n"
            "    _partial_: true\n"
            f"    images: {tmp_path}\n    annotations: {tmp_path}/{file}\n    train: true\n"
        )
    return tmp_path


def row(text: str, begin: str) -> list[int]:
    (line,) = [line for line in text.splitlines() if line.startswith(begin)]
    return [int(word) for word in line.removeprefix(begin).split() if word.isdigit()]


def test_tokens_before_and_after(source, capsys):
    out = source / "vocab.txt"
    assert main(["data", "vocab", str(source / "birds.yaml"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    after = UFOTokenizer.from_pretrained(out)
    old, new = row(said, NAMES[0])
    assert old > 6 and new == 2 == len(after.encode([NAMES[0]])[0]) - 2
    assert row(said, "owl") == [1, 1]
    longest, shorter, room = row(said, "birds/detection")
    assert longest - shorter == old - new and room > longest
    assert f"backbone.tokenizer.name_or_path={out}" in said


def test_words_of_texts_and_several_sources(source, capsys):
    files = [str(source / f"{name}.yaml") for name in ("birds", "words")]
    assert main(["data", "vocab", *files, "--out", str(source / "vocab.txt")]) == 0
    words = (source / "vocab.txt").read_text().split()
    assert words[-3:] == ["zonotrichia", "leucophrys", "egret"]  # twice; "beside" was there
    assert len(words) == len(set(words))


def test_nothing_is_written_without_out(source, capsys):
    before = sorted(source.iterdir())
    assert main(["data", "vocab", str(source / "birds.yaml")]) == 0
    assert "--out FILE" in capsys.readouterr().out
    assert sorted(source.iterdir()) == before


def test_a_language_model_keeps_its_tokenizer(source, capsys):
    assert main(["data", "vocab", str(source / "birds.yaml"), "backbone=internvl_tiny"]) == 1
    assert "keeps its own tokenizer" in capsys.readouterr().err


def test_out_replaces_a_vocabulary_only(source, capsys):
    """A slip of the pen must not write a list of words over the source, or over anything else."""
    file = source / "birds.yaml"
    before = file.read_text()
    for out, said in ((file, "is there and is no vocabulary"), (source, "is a folder")):
        assert main(["data", "vocab", str(file), "--out", str(out)]) == 1
        assert said in capsys.readouterr().err and file.read_text() == before
    out = source / "vocab.txt"
    for _ in range(2):
        assert main(["data", "vocab", str(file), "--out", str(out)]) == 0


def test_the_last_line_is_true_of_the_file(source, capsys):
    """Of accented and Chinese names, of one that was unknown, and of one that no vocabulary can cure."""
    out, file = source / "vocab.txt", source / "boxes.json"
    text = file.read_text()
    file.write_text(text.replace(NAMES[0], "K\u00e4fer").replace("owl", "\u65e5\u672c Stra\u00dfe"))
    assert main(["data", "vocab", str(source / "birds.yaml"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "4 words are unknown or spelled in pieces" in said and "has a token for each. Train" in said
    assert row(said, "\u65e5\u672c Stra\u00dfe") == [3] and "unknown  " in said
    assert "3, 1 unknown" in said  # of all classes
    file.write_text(text.replace(NAMES[0], "q" * 101))
    assert main(["data", "vocab", str(source / "birds.yaml"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"with {out} 1 still are: 'qqq" in said and "has a token" not in said
