"""`ufo export`: what cannot be exported is said in one sentence, before anything is written."""

import pytest

from ufo.export import write


def test_a_folder_that_is_there(ufo, ckpt, tmp_path):
    answer = ufo("export", ckpt, "--out", tmp_path)
    assert answer.code == 1
    assert answer.err == [f"error: {tmp_path} exists; choose another name, or remove it first"]


def test_a_checkpoint_that_is_not_there(ufo, tmp_path):
    answer = ufo("export", tmp_path / "nothing", "--out", tmp_path / "out")
    assert answer.code == 1 and len(answer.err) == 1 and "nothing" in answer.err[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--task", "detektion"), "no task 'detektion'"),
        (("--task", "grounding"), "add --text"),
        (("--task", "caption", "--classes", "owl"), "reads no class names"),
        (("--format", "onnx"), "pip install 'ufo-vision[export]'"),
    ],
)
def test_what_cannot_be_exported(ufo, ckpt, tmp_path, monkeypatch, options, said):
    monkeypatch.setattr(write.importlib.util, "find_spec", lambda name: None)
    answer = ufo("export", ckpt, "--out", tmp_path / "out", *options)
    assert answer.code == 1 and said in answer.err[-1] and answer.err[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []
