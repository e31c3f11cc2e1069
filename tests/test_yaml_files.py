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
