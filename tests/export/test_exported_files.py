"""What `ufo export` writes: any batch, the model's answers, and no need of this package to run it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from sharing import shared
from test_docs import ROOT, blocks
from tiny_mllm import make_mllm

from ufo.export import ExportError, export_model
from ufo.export.check import check
from ufo.export.parts import Encoder, example_inputs, make_parts
from ufo.export.run import answer, onnx_session, torch_program
from ufo.export.write import OLDEST, ONNX_NEEDS
from ufo.head.decoding import decode
from ufo.inference.asking import Request, make_requests

HERE = all(importlib.util.find_spec(name) for name in ONNX_NEEDS)
VERSION = tuple(map(int, torch.__version__.split(".")[:2]))
pytestmark = [
    pytest.mark.slow(minutes=1),
    pytest.mark.skipif(VERSION < OLDEST, reason="torch is too old to export: docs/export.md"),
]


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(depth=1, global_layers=[0], new_layers=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model) -> Path:
    """Detection in each format that can be written here without a compiler."""
    formats = ["torch", *["onnx"] * HERE]
    return (
        shared(
            tmp_path_factory,
            "exported",
            lambda out: export_model(model, out / "x", "detection", formats=formats),
        )
        / "x"
    )


def programs(folder: Path, kind: str):
    if kind == "onnx":
        if not HERE:
            pytest.skip("the extra `export` is not installed")
        return onnx_session(folder / "encoder.onnx"), onnx_session(folder / "step.onnx")
    return torch_program(folder / "encoder.pt2"), torch_program(folder / "step.pt2")


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_any_batch_is_answered_as_by_the_model(folder, model, kind):
    encoder, step = programs(folder, kind)
    about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    right = Encoder(model, Request("detection", classes=model.classes["detection"])).eval()
    for batch in (1, 2, 3, 4):
        (images,) = example_inputs(right, batch, seed=batch)
        with torch.no_grad():
            features, logits, *_ = right(images)
        said = answer(encoder, step, about["end"], about["max_length"], images)
        assert torch.allclose(said.features, features, atol=1e-4)
        assert torch.allclose(encoder(images)[1], logits, atol=1e-4)
        assert model.tokenizer.decode(said.ids.tolist()) == spoken(model, images)


def spoken(model, images) -> list[str]:
    """What the model says at every query."""
    task = model.task("detection")
    question = task.prompt(model.classes["detection"], "")
    with torch.no_grad():
        context = model.encode(images, [question], model.grid(task, *images.shape[-2:]), task)
        return model.tokenizer.decode(decode(model.backbone, context, model.tokenizer, task).ids.tolist())


def test_the_script_of_the_documents_runs_without_this_package(folder, tmp_path):
    """It is started where this package cannot be found."""
    (script,) = (text for text in blocks("python", ROOT / "docs" / "export.md") if "sys.argv" in text)
    ending = "\nassert not [name for name in sys.modules if name.split('.')[0] == 'ufo']\n"
    (tmp_path / "boxes.py").write_text(script + ending, encoding="utf-8")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "picture.png")
    command = [sys.executable, "boxes.py", "picture.png", str(folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PATH": "/usr/bin"})
    assert done.returncode == 0, done.stderr


def test_the_description_says_what_a_program_needs(folder, model):
    about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert about["classes"] == list(model.classes["detection"])
    assert len(about["queries"]) == 16 and about["num_bins"] == 48
    assert about["outputs"]["encoder"] == ["features", "logits", "hidden", "memory"]
    assert set(about["differences"]) == {"torch", *["onnx"] * HERE}


def test_a_text_is_an_argument(model, tmp_path):
    """Questions of another length than the example's, two at once: what `predict` answers."""
    export_model(model, tmp_path / "x", "vqa", text="the owl?")
    encoder, step = programs(tmp_path / "x", "torch")
    task, questions = model.task("vqa"), ["owl?", "the red cat left?"]
    right = Encoder(model, Request("vqa", questions[0])).eval()
    (images, *_) = example_inputs(right, 2, seed=1)
    ids, mask = model.tokenizer.encode_prompts([task.prompt((), text) for text in questions])
    said = answer(encoder, step, model.tokenizer.end_id, task.max_length, images, ids, mask)
    for image, question, row in zip(images, questions, said.ids.tolist(), strict=True):
        assert model.tokenizer.decode([row]) == [model.predict(image, "vqa", text=question).text]
    about = json.loads((tmp_path / "x" / "export.json").read_text())
    assert about["question"].replace("{text}", "owl?") == task.prompt((), "owl?")


@pytest.mark.parametrize("name", ["detection", "grounding"])
def test_graphs_of_a_language_model_take_any_number_of_pictures(name):
    """`check` compares them with the model for one picture and for four."""
    model = make_mllm("internvl", tasks=[name])
    (request,), _ = make_requests(model, [name], ["red cat" if name == "grounding" else ""], None)
    parts = make_parts(model, request)
    runs = tuple(part.program().module() for part in parts)
    assert {"prefix", "position"} <= check(parts, runs, "torch").keys()


def test_what_cannot_be_a_graph_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"cannot make a graph of the encoder .*docs/export.md"):
        export_model(make_mllm("llava"), tmp_path / "out")
    assert not list(tmp_path.iterdir())
