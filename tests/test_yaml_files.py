"""A yaml of a few lines that spells gigabytes is refused before it is read."""

from __future__ import annotations

import sys
import time

import pytest

from ufo.cli import CommandError
from ufo.cli.data_find import find
from ufo.command_line import clear_command_line
from ufo.yaml_files import check_yaml


def bomb(levels: int, wide: int = 9) -> str:
    lines = ["a0: &a0 [x]"]
    for k in range(1, levels):
        lines.append(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * wide)}]")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("content", [bomb(30), "a: &a [*a]\n", "a: &a\n  b: *a\n"])
def test_aliases_without_end_are_refused_within_a_second(tmp_path, content, monkeypatch, capsys):
    path = tmp_path / "mine" / "own.yaml"
    path.parent.mkdir()
    path.write_text(content)
    begin = time.process_time()
    with pytest.raises(ValueError, match=r"own\.yaml: its aliases"):
        check_yaml(path)
    with pytest.raises(CommandError, match=r"own\.yaml: its aliases"):
        find(str(path))
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir", str(path.parent)])
    with pytest.raises(SystemExit), clear_command_line():
        raise AssertionError("the job must not begin")
    assert "its aliases" in capsys.readouterr().err
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("content", [bomb(4), "a: 1\n", "a: &x 2\nb: *x\n", "{", "a: '*' # & b\n", ""])
def test_other_files_are_left_to_those_who_read_them(tmp_path, content):
    (tmp_path / "a.yaml").write_text(content)
    check_yaml(tmp_path / "a.yaml")
    check_yaml(tmp_path / "nowhere.yaml")


BROKEN = {
    "an open bracket": (b"train: [a\n", "while parsing a flow sequence"),
    "a key twice": (b"train: 1\ntrain: 2\n", "duplicate key"),
    "a tag without a meaning": (b"train: [=]\n", "could not determine a constructor"),
    "code": (b"train: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
    "nested without end": (b"train: " + b"[" * 20_000, "nested too deeply"),
    "not UTF-8": (b"train: \xff\xfe\n", "not UTF-8"),
    "a number of 5000 digits": (b"train: " + b"9" * 5000, "5000 digits"),
}


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_yaml_ends_in_a_sentence(content, said, tmp_path, monkeypatch, capsys):
    """In `ufo data check` and in train.py, whose `hydra.main` composes within `clear_command_line`."""
    import hydra

    path = tmp_path / "dataset" / "own.yaml"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CommandError, match=said) as error:
        find(str(path))
    assert len(str(error.value).splitlines()) == 1
    monkeypatch.setattr(sys, "argv", ["train.py"])
    composing = hydra.initialize_config_dir(str(tmp_path), version_base="1.3")
    with pytest.raises(SystemExit), clear_command_line(), composing:
        hydra.compose("dataset/own")
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and said in printed and len(printed.splitlines()) == 1


def test_an_error_of_the_job_itself_keeps_its_traceback(monkeypatch):
    from ufo.command_line import job_begins

    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(ValueError, match="a bug"), clear_command_line():
        job_begins()
        raise ValueError("a bug")
