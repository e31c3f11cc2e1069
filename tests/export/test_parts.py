"""Encoder and step as modules say what the model says, and what cannot be exported is refused."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny_fixtures import TEXTS
from tiny_mllm import make_mllm

from ufo.export import ExportError, export_model, write
from ufo.export.check import check
from ufo.export.parts import as_defined, example_inputs, make_parts
from ufo.export.run import answer, compiled_program
from ufo.head.decoding import decode
from ufo.inference.asking import make_requests
from ufo.ops.faster import faster


def decoded(model, encoder, images):
    """What the model says about the images with its own cache, guesses and leaving rows."""
    task, queries = encoder.task, encoder.queries
    with torch.no_grad():
        context = model.backbone.encode(images, encoder.ids, encoder.mask, queries, task.causal_image)
        return context, decode(model.backbone, context, model.tokenizer, task)


@pytest.mark.parametrize("family", ["vit", "internvl", "llava"])
@pytest.mark.parametrize("name", ["detection", "instance_segmentation", "caption", "grounding"])
def test_answers_are_those_of_the_model(make_model, family, name):
    if family != "vit" and name != "detection":
        pytest.skip("the tiny language models have one task")
    model = make_model() if family == "vit" else make_mllm(family)
    (request,), _ = make_requests(model, [name], [TEXTS.get(name, "")], None)
    encoder, step = make_parts(model, request)
    given = example_inputs(encoder.module, 2, seed=3)
    end, longest = model.tokenizer.end_id, encoder.module.task.max_length
    said = answer(encoder.module, step.module, end, longest, *given)
    context, right = decoded(model, encoder.module, given[0])
    assert torch.allclose(said.features, context.image_features, atol=1e-5)
    assert torch.equal(said.ids, right.ids[:, : said.ids.shape[1]])
    assert right.ids[:, said.ids.shape[1] :].eq(end).all()
    assert torch.allclose(said.scores, right.first_scores, atol=1e-5)
    spoken = said.ids != end
    assert torch.allclose(said.hidden[spoken], right.features[:, : said.ids.shape[1]][spoken], atol=1e-4)


def test_a_part_that_computes_something_else_is_refused(make_model):
    model = make_model()
    (request,), _ = make_requests(model, ["detection"], [""], None)
    parts = make_parts(model, request)
    encoder, step = (part.module for part in parts)
    found = check(parts, (encoder, step), "torch")
    assert set(found) == {"features", "logits", "hidden", "memory"} and max(found.values()) == 0

    def wrong(*given):
        logits, *rest = step(*given)
        return (logits + 0.1, *rest)

    with pytest.raises(ExportError, match="logits of the step differs"):
        check(parts, (encoder, wrong), "torch")


def test_a_part_that_reads_a_picture_in_another_order_is_refused(make_model):
    model = make_model()
    (request,), _ = make_requests(model, ["detection"], [""], None)
    parts = make_parts(model, request)
    encoder, step = (part.module for part in parts)

    def blind(images):
        in_order = torch.empty(images.shape).stride()
        return encoder(torch.as_strided(images, images.shape, in_order))

    with pytest.raises(ExportError, match="of the encoder differs"):
        check(parts, (blind, step), "aoti")


def test_a_compiled_program_is_given_tensors_in_the_order_of_their_axes(monkeypatch, tmp_path):
    given = []

    def run(*tensors):
        given.extend(tensors)
        return tensors

    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path: run)
    picture = torch.rand(2, 4, 4, 3).permute(0, 3, 1, 2)
    (same,) = compiled_program(tmp_path / "encoder.aoti.pt2")(picture)
    assert given[0].is_contiguous() and torch.equal(same, picture)


def test_nothing_stands_in_for_a_definition():
    def stand_in(x):
        return x + 1

    @faster(stand_in, on_cpu=True)
    def definition(x):
        return x

    with as_defined():
        assert definition(torch.zeros(1)) == 0
    assert definition(torch.zeros(1)) == 1


# ---------------------------------------------------------------- refusals


def test_a_folder_that_is_there_is_left_alone(make_model, tmp_path):
    with pytest.raises(ExportError, match="is there already"):
        export_model(make_model(), tmp_path)


def test_a_format_that_is_not_there(make_model, tmp_path):
    with pytest.raises(ExportError, match=r"'tflite'.*torch, aoti, onnx"):
        export_model(make_model(), tmp_path / "out", formats=["tflite"])


def test_without_a_compiler_aotinductor_is_refused(make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ExportError, match=r"C\+\+ compiler"):
        export_model(make_model(), tmp_path / "out", formats=["aoti"])


def test_without_its_libraries_onnx_is_refused(make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(write.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"onnx, onnxscript, onnxruntime.*ufo-vision\[export\]"):
        export_model(make_model(), tmp_path / "out", formats=["onnx"])


def test_what_fails_leaves_nothing(make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "make_parts", lambda *given: 1 / 0)
    monkeypatch.setattr(write, "OLDEST", (0, 0))  # whichever torch this is
    with pytest.raises(ZeroDivisionError):
        export_model(make_model(), tmp_path / "out", "detection")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version, old", [("2.6.0+cu124", True), ("2.11.0", False), ("3.0.0a0+git1", False)])
def test_a_torch_that_is_too_old_is_refused(make_model, tmp_path, monkeypatch, version, old):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(write, "make_parts", lambda *given: 1 / 0)  # what comes next
    expected = pytest.raises(ExportError, match=r"torch 2\.11 or a later one, .* torch 2\.6\.0")
    with expected if old else pytest.raises(ZeroDivisionError):
        export_model(make_model(), tmp_path / "x", "detection")
