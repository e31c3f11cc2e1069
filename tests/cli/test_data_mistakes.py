"""What `ufo data import` and `new` would delete, and where `--config-dir` may stand: refused, or found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))  # the exports of label tools

from files import write_json
from label_files import coco, coco_content, tree_hash

from ufo.cli import data_check, main


@pytest.fixture
def ufo(monkeypatch, tmp_path, capsys):
    """Run a `ufo data` command in `tmp_path`, without the check; returns exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data_check, "run", lambda args: 0)

    def run(*words: object) -> tuple[int, str]:
        code = main.main(["data", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_what_an_import_would_delete_is_refused(ufo, tmp_path, monkeypatch):
    """`--out` is replaced as a whole, so that with `--force`, too, no data of the user may be in it."""
    path = coco(tmp_path / "exports" / "birds")
    images, file = path / "images" / "default", path / "annotations" / "instances_default.json"
    before = tree_hash(tmp_path)
    for out in (".", "exports", path.parent, path):
        code, said = ufo("import", "coco", path, "--out", out, "--force")
        assert code == 1 and "the data themselves" in said and tree_hash(tmp_path) == before
    for words in (["import", "coco", file, "--images", images], ["new", "coco", images, file]):
        code, said = ufo(*words, "--out", file.parent, "--force")
        assert code == 1 and "holds the data themselves" in said and tree_hash(tmp_path) == before
    other = write_json(tmp_path / "val" / "val.json", coco_content([]))
    code, said = ufo("new", "coco", images, file, "--val-data", other, "--out", "val", "--force")
    assert code == 1 and "holds the data themselves" in said and other.is_file()
    (tmp_path / "here" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "deeper")
    for out in (".", ".."):
        code, said = ufo("import", path, "--out", out)
        assert code == 1 and "the folder that you are in" in said
    code, said = ufo("import", path, "--out", "/proc/birds")
    assert code == 1 and "cannot be written" in said and "another folder" in said


def test_files_of_the_user_beside_an_import_and_links(ufo, tmp_path):
    path = coco(tmp_path / "birds")
    (tmp_path / "disk").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "birds").symlink_to(tmp_path / "disk")
    assert ufo("import", path)[0] == ufo("import", path)[0] == 0
    assert (tmp_path / "mine" / "birds").is_symlink() and (tmp_path / "disk" / "train.json").is_file()
    assert not [p.name for p in tmp_path.rglob(".*")]
    (tmp_path / "disk" / "notes.txt").write_text("mine")
    code, said = ufo("import", path)
    assert code == 1 and "(notes.txt) is deleted" in said and (tmp_path / "disk" / "notes.txt").is_file()
    assert ufo("import", path, "--force")[0] == 0


def test_config_dir_in_any_place_and_its_sources_by_name(ufo, tmp_path, monkeypatch):
    ufo("import", coco(tmp_path / "birds"), "--out", tmp_path / "mïne, 2" / "birds")
    folder = str(tmp_path / "mïne, 2")
    words = ["data", "check", "birds", "resolution=224"]
    given = [
        words[:k] + option + words[k:]
        for k in range(5)
        for option in (["--config-dir", folder], [f"--config-dir={folder}"])
    ]
    for argv in given:
        seen = []
        monkeypatch.setattr(data_check, "run", lambda args, seen=seen: seen.append(args) or 0)
        assert main.main(argv) == 0, argv
        assert seen[0].name == str(Path(folder) / "source" / "birds.yaml")
        assert seen[0].overrides[1:] == ["resolution='224'"]
    assert main.main(["config", "sources.birds.task", "--config-dir", folder, "+source=birds"]) == 0


SOURCE = """
name: mine/detection
task: detection
dataset:
  train: {{_target_: ufo.data.datasets.coco.CocoDataset, _partial_: true, images: ., annotations: a.json}}
transform:
  train: {{_target_: ufo.data.transforms.{train}, size: 64}}
  val: {{_target_: ufo.data.transforms.square_resize, size: 64}}
"""


@pytest.mark.parametrize("command", ["show", "check"])
@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("detection_train, smal: 0.2", "'transform.train.smal'; did you mean 'small'?"),
        ("plain, jiter: 0.2", "'transform.train.jiter'; did you mean 'jitter'?"),
        ("plian", "transform.train: there is no 'ufo.data.transforms.plian'"),
    ],
)
def test_a_mistyped_option_of_a_transform_has_its_nearest_name(
    tmp_path, monkeypatch, capsys, command, train, expected
):
    """Whichever command reads the source: in a yaml as among the overrides."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(SOURCE.format(train=train))
    assert main.main(["data", command, "mine.yaml"]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: mine/detection: ") and expected in error and len(error.splitlines()) == 1
    if "." in train:
        option = train.partition(", ")[2].replace(": ", "=")
        words = [f"sources.detection.transform.train.{option}", "mixture=digits"]
        assert main.main(["data", command, "digits/detection", *words]) == 1
        assert f"'transform.train.{option.partition('=')[0]}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("weigth: 2", "'sources.mine.weigth'; did you mean 'weight'?"),
        ("batch_size: four", "sources.mine.batch_size must be a whole number of at least 1, not 'four'"),
        ("weight: -1", "sources.mine.weight must be a number of at least 0, not -1"),
    ],
)
def test_what_a_training_refuses_in_a_source_is_refused_by_a_check(
    tmp_path, monkeypatch, capsys, line, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"{SOURCE.format(train='plain')}\n{line}\n")
    assert main.main(["data", "check", "mine.yaml"]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: mine/detection: ") and expected in error and len(error.splitlines()) == 1


@pytest.mark.heavy
def test_a_check_repeats_what_the_import_left_out(tmp_path, monkeypatch, capsys):
    """An unreadable picture is in no file that a check reads, whether something is labelled in it or not."""
    monkeypatch.chdir(tmp_path)
    folder = coco(tmp_path / "birds") / "images" / "default"
    whole = (folder / "c.jpeg").read_bytes()
    said = {}
    for content in (b"no picture", whole):
        (folder / "c.jpeg").write_bytes(content)
        for words in (["import", "birds"], ["check", "mine/source/birds.yaml"]):
            main.main(["data", *words])
            said[words[0]] = capsys.readouterr().out
        assert "when it was imported" not in said["import"]  # which has just said it
        repeated = [line for line in said["check"].splitlines() if "left out when it was imported" in line]
        assert bool(repeated) == (content != whole) and all("c.jpeg" in line for line in repeated[:1])
