"""`ufo convert`: from a `.pth` to a folder that loads, or to one sentence and nothing on disk."""

from __future__ import annotations

import os

import pytest
import torch
from cli_model import tiny_model

import ufo as package
from ufo.checkpoints.vit_names import key_table

EXPERIMENT = ("experiment=ufo_vit_b_multi", "tasks.detection.image_size=32")


@pytest.fixture
def released(tmp_path):
    """The tiny model as mmengine would have saved it, with its vocabulary beside it."""
    model = tiny_model()
    ours = model.backbone.state_dict()
    table = key_table(len(model.backbone.layers))
    state = {theirs: ours[name] for theirs, name in table.items() if name}
    model.tokenizer.save(tmp_path)
    path = tmp_path / "tiny.pth"
    torch.save({"meta": {}, "state_dict": state, "message_hub": {}}, path)
    return path


def test_a_file_becomes_a_folder(ufo, released, tmp_path, caplog):
    out = tmp_path / "new" / "folder"
    answer = ufo("convert", released, out, *EXPERIMENT, "--tasks", "detection,caption")
    assert answer.code == 0, answer.err
    [line] = answer.out
    assert "UFO-ViT (1+1 layers of width 16, 32 px" in line and "tasks: detection, caption" in line
    assert sum("matched, 0 missing, 0 unexpected" in text for text in caplog.messages) == 1
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
    assert [p.name for p in out.parent.iterdir()] == ["folder"]
    model, ours = package.load(out), tiny_model().state_dict()
    assert all(torch.equal(v, ours[k]) for k, v in model.state_dict().items())
    assert set(model.tasks) == {"detection", "caption"} and len(model.classes["detection"]) == 80


def test_vocabulary_and_class_names_can_be_given(ufo, released, tmp_path):
    vocab = (tmp_path / "vocab.txt").rename(tmp_path / "words.txt")
    names = tmp_path / "names.txt"
    names.write_text("tree\ncat\n")
    dense = "detection,instance_segmentation,semantic_segmentation"
    options = ("--tasks", dense, "--vocab", vocab, "--classes", "cat, dog")
    answer = ufo(
        "convert",
        released,
        tmp_path / "out",
        *EXPERIMENT,
        *options,
        "--classes",
        f"semantic_segmentation={names}",
    )
    assert answer.code == 0, answer.err
    classes = package.load(tmp_path / "out").classes
    assert classes["detection"] == classes["instance_segmentation"] == ("cat", "dog")
    assert classes["semantic_segmentation"] == ("tree", "cat")


class Attack:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def break_file(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
        return
    content = torch.load(path)
    if how == "code":
        content["message_hub"] = Attack(path.parent / "executed")
    elif how == "another family":
        content["state_dict"] = {"backbone.language_model.model.norm.weight": torch.zeros(4)}
    elif how == "missing":
        del content["state_dict"]["backbone.layers.0.ln1.bias"]
    elif how == "shape":
        content["state_dict"]["backbone.layers.1.attn.qkv.bias"] = torch.zeros(5)
    torch.save(content, path)


@pytest.mark.parametrize(
    "how, said",
    [
        ("truncated", "cut short"),
        ("code", "mkdir"),
        ("another family", "unmapped keys (language_model.model.norm.weight)"),
        ("missing", "1 missing keys (backbone.layers.0.ln1.bias)"),
        ("shape", "layers.1.qkv.bias: (5,)"),
    ],
)
def test_a_bad_file_leaves_one_sentence_and_nothing_else(ufo, released, tmp_path, how, said):
    break_file(released, how)
    before = sorted(tmp_path.rglob("*"))
    answer = ufo("convert", released, tmp_path / "out", *EXPERIMENT, "--tasks", "detection")
    assert answer.code == 1 and not answer.out
    assert [line for line in answer.err if line.startswith("error: ")] == answer.err[-1:]
    assert said in answer.err[-1]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("nowhere.pth", "out"), "there is no file nowhere.pth"),
        (("tiny.pth", "there"), "there exists"),
        (("tiny.pth", "out", "ufo_vit_b_multi"), "not an override"),
        (("tiny.pth", "out", "experiment=nope"), "no experiment 'nope'"),
        (("tiny.pth", "out"), "not a released size of UFO-ViT"),
        (("tiny.pth", "out", *EXPERIMENT, "--tasks", "depth"), "cannot do 'depth'"),
        (("tiny.pth", "out", *EXPERIMENT, "--classes", "caption=a"), "'caption' reads no class names"),
        (("tiny.pth", "out", *EXPERIMENT, "--classes", "a,a"), "must be different"),
    ],
)
def test_wrong_arguments(ufo, released, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    answer = ufo("convert", *arguments)
    assert answer.code == 1
    assert len(answer.err) == 1 and said in answer.err[0]
    assert not (tmp_path / "out").exists() and not list((tmp_path / "there").iterdir())
