"""Whatever happens while a file is written, readers find the old one or the new one."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest

from ufo.files import replace_folder, scratch_for, second_name, stems, write_json, write_text, writing

ROOT = Path(__file__).parents[1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("alone", [False, True])
def test_a_file_appears_whole_or_not_at_all(tmp_path, alone):
    path = tmp_path / "deeper" / "file.txt"
    with writing(path, alone=alone, durable=True) as file:
        file.write("first\n")
        file.flush()
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), writing(path, alone=alone) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first\n" and names(path.parent) == ["file.txt"]


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with writing(path, "wb") as one, writing(path, "wb") as other:
        one.write(b"1" * 9)
        other.write(b"2" * 5)
    assert path.read_bytes() in (b"1" * 9, b"2" * 5) and names(tmp_path) == ["file"]


def test_what_a_killed_writer_left_does_not_pile_up(tmp_path):
    path = tmp_path / "large.ckpt"
    for text in ("one", "two"):
        with scratch_for(path, alone=True) as scratch:
            scratch.write_text(text)
            (tmp_path / "kept").write_text("")
        scratch.write_text("as a kill leaves it")
    assert len(names(tmp_path)) == 3


def test_rights_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_json_keeps_every_letter(tmp_path):
    write_json(tmp_path / "file.json", {"name": "Zürich 猫"}, indent=1)
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert "Zürich 猫" in text and text.endswith("}\n") and json.loads(text) == {"name": "Zürich 猫"}


def test_content_that_is_no_json_leaves_the_older_file(tmp_path):
    write_json(tmp_path / "file.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {1, 2})
    assert json.loads((tmp_path / "file.json").read_text()) == [1]


def test_files_about_things_of_similar_names_are_several():
    names = ["a b/detection", "a_b/detection", "A_b/detection", "\u9ce5/caption"]
    assert list(stems(names).values()) == [
        "a_b_detection",
        "a_b_detection_2",
        "A_b_detection_3",
        "\u9ce5_caption",
    ]


def test_second_names_cost_nothing_and_can_be_repeated(tmp_path):
    file, name = tmp_path / "step_2.ckpt", tmp_path / "last.ckpt"
    file.write_text("weights")
    name.write_text("older")
    assert second_name(file, name) and second_name(file, name)
    assert name.samefile(file) and names(tmp_path) == ["last.ckpt", "step_2.ckpt"]
    assert not second_name(tmp_path / "missing", name) and name.samefile(file)


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path, aside = tmp_path / "model", tmp_path / ".model.old"
    for text in ("one", "two"):
        new = tmp_path / "new"
        new.mkdir()
        (new / "file").write_text(text)
        replace_folder(new, path, aside)
        assert (path / "file").read_text() == text and names(tmp_path) == ["model"]
    with pytest.raises(OSError):
        replace_folder(tmp_path / "missing", path, aside)
    assert (path / "file").read_text() == "two" and names(tmp_path) == ["model"]


def test_nobody_else_renames_scratch_files():
    """`os.replace`, `os.rename` and `mkstemp` are this module's business, so that there is one way to write.

    A run's own records move aside under another name, which is not a writing: `run_info.py`. Who owns a run's
    folder is decided by the renaming itself: `owner.py`.
    """
    allowed = {
        "ufo/files.py": None,
        "ufo/callbacks/run_info.py": {"replace"},
        "ufo/runs/owner.py": {"replace", "rename"},
    }
    found = []
    for path in sorted((ROOT / "ufo").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
                continue
            call = (node.value.id, node.attr)
            if call in {("os", "replace"), ("os", "rename"), ("tempfile", "mkstemp")}:
                known = allowed.get(name, set())
                if known is not None and node.attr not in known:
                    found.append(f"{name}:{node.lineno} {'.'.join(call)}")
    assert not found


@pytest.mark.skipif(not Path("/dev/stdout").is_symlink(), reason="a system without /dev/stdout")
def test_a_link_of_the_system_is_not_replaced(tmp_path, monkeypatch):
    """/dev/stdout leads to a file where the output goes into one; root could replace the link."""
    monkeypatch.setattr(os, "replace", None)
    with pytest.raises(OSError, match="a device or a pipe"), scratch_for(Path("/dev/stdout")):
        raise AssertionError("nothing is written")


def test_no_two_files_of_the_tests_have_one_name():
    """pytest imports them by their name alone: of two, one could not be collected."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []
