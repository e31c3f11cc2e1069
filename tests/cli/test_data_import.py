"""`ufo data import, new` as a user types them, without the check: that is a slow test at the end."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from hydra.utils import instantiate
from torchvision import tv_tensors

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))  # the exports of label tools

from files import write_json
from label_files import (
    BOXES,
    CLASSES,
    TOOLS,
    boxes,
    coco,
    coco_content,
    imported,
    masks,
    pictures,
    predictions,
    tree_hash,
    true_boxes,
)
from omegaconf import OmegaConf

from ufo.check import check_config
from ufo.checkpoints.recipes import compose
from ufo.cli import CommandError, data_find
from ufo.command_line import searched
from ufo.data.labels.reading import Source

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ufo(ufo_data):
    return ufo_data


@pytest.mark.parametrize("tool", TOOLS)
def test_import_writes_a_source_that_composes(tool, ufo, tmp_path):
    path = TOOLS[tool](tmp_path / "my birds 2")
    before = tree_hash(path)
    code, said = ufo("import", path)
    assert code == 0 and f"taken as {tool} (" in said, said
    assert tree_hash(path) == before
    source = tmp_path / "mine" / "source" / "my_birds_2.yaml"
    assert f"checked {source}" in said and "ufo train mine/source/my_birds_2.yaml" in said
    masks_source = source.with_name("my_birds_2_instance_segmentation.yaml")
    # a polygon is in one picture only, so that it is on one side of the split
    assert not masks_source.exists() and ("no source of masks" in said) == (tool not in BOXES)
    cfg = compose([searched(source.parents[1]), "mixture=own", "+source=my_birds_2"])
    check_config(cfg)
    OmegaConf.resolve(cfg.sources)  # as in the config.yaml of a run, which `ufo evaluate ckpt=RUN` reads
    check_config(cfg)
    OmegaConf.update(cfg, "sources.my_birds_2.dataset.pictures", "elsewhere", force_add=True)
    with pytest.raises(ValueError, match=r"nothing reads .*dataset\.pictures"):
        check_config(cfg)
    found = data_find.find(str(source))
    assert found.source.task == "detection" and found.name == "my_birds_2/detection"
    train, val = found.build("train"), found.build("val")
    assert train.train and not val.train
    assert sorted(train.classes) == sorted(val.classes) == sorted(CLASSES)
    names = [Path(name).name for data in (train, val) for name in data.files()]
    assert sorted(names) == sorted(true_boxes())
    for data in (train, val):
        for place, name in enumerate(data.files()):
            target = data.target(place)
            pairs = zip(target.labels, target.boxes.tolist(), strict=True)
            here = [(data.classes[k], tuple(b)) for k, b in pairs]
            assert here == true_boxes()[Path(name).name]


def test_masks_get_a_source_of_their_own(ufo, tmp_path):
    path = coco(tmp_path / "birds")
    code, said = ufo("import", "coco", path, "--val", "0", "--out", tmp_path / "data" / "owls")
    assert code == 0, said
    folder = tmp_path / "data" / "source"
    assert sorted(p.name for p in folder.iterdir()) == ["owls.yaml", "owls_instance_segmentation.yaml"]
    found = data_find.find(str(folder / "owls_instance_segmentation.yaml"))
    data = found.build("train")
    data.serve(frozenset({"boxes", "labels", "masks"}))
    assert found.source.task == "instance_segmentation" and data[0]["masks"].sum() > 300
    head = (folder / "owls.yaml").read_text().splitlines()[0]
    assert head == "# @package sources.owls"


def test_a_source_that_the_project_has_as_well__gets_a_name_of_its_own(ufo, tmp_path):
    path = coco(tmp_path / "coco")
    code, said = ufo("import", "coco", path, "--val", "0", "--out", tmp_path / "data" / "coco")
    assert code == 0, said
    folder = tmp_path / "data" / "source"
    assert sorted(p.name for p in folder.iterdir()) == ["coco.yaml", "own_coco_instance_segmentation.yaml"]
    found = data_find.find(str(folder / "own_coco_instance_segmentation.yaml"))
    assert found.build("train").files() == data_find.find(str(folder / "coco.yaml")).build("train").files()
    hidden = (folder / "coco.yaml").rename(folder / "coco_detection.yaml")
    with pytest.raises(CommandError, match=r"is not read.* as own_coco_detection\.yaml"):
        data_find.find(str(hidden))


def test_training_sees_parts_of_pictures_with_boxes_and_never_mirrors_them(ufo, tmp_path):
    assert ufo("import", "coco", coco(tmp_path / "owls"), "--val", "0")[0] == 0
    assert ufo("import", masks(tmp_path / "land"))[0] == 0
    names = ("owls", "owls_instance_segmentation", "land")
    chosen = [searched(tmp_path / "mine"), "mixture=own", f"+source=[{','.join(names)}]"]
    sources = compose(chosen).sources
    size = compose(chosen).tasks.detection.image_size
    ramp = torch.arange(120, dtype=torch.uint8).expand(3, 80, 120) * 2  # brighter to the right
    for name in names:
        transform = instantiate(sources[name].transform.train)
        box = tv_tensors.BoundingBoxes([[40.0, 20, 80, 60]], format="XYXY", canvas_size=(80, 120))
        widths = set()
        for seed in range(20):
            torch.manual_seed(seed)
            seen = {"image": tv_tensors.Image(ramp), "boxes": box, "labels": torch.tensor([0])}
            if (found := transform(seen)) is not None:
                assert found["image"].shape == (3, size, size)
                x1, y1, x2, _ = found["boxes"][0].int().tolist()  # around the box it may be grey
                assert found["image"][0, y1, x1] < found["image"][0, y1, x2 - 1]
                widths.add(x2 - x1)
        assert (len(widths) > 3) == (name != "land")


def test_maps_and_captions_get_sources(ufo, tmp_path):
    code, said = ufo("import", masks(tmp_path / "land"))
    assert code == 0, said
    found = data_find.find(str(tmp_path / "mine/source/land.yaml"))
    train, val = found.build("train"), found.build("val")
    assert found.source.task == "semantic_segmentation" and (len(train), len(val)) == (2, 1)
    assert train.classes == ("background", *CLASSES) and not train.problems.counts
    pictures(tmp_path / "said" / "train")
    lines = [json.dumps({"file_name": name, "text": f"A bird in {name}."}) for name in true_boxes()]
    (tmp_path / "said" / "train" / "metadata.jsonl").write_text("\n".join(lines))
    code, said = ufo("import", "hf", tmp_path / "said")
    found = data_find.find(str(tmp_path / "mine/source/said.yaml"))
    assert found.source.task == "caption" and len(found.build("train")) == 2


def test_again_and_what_is_not_replaced(ufo, tmp_path):
    path = coco(tmp_path / "birds")
    assert ufo("import", path)[0] == ufo("import", path)[0] == 0
    assert ufo("import", path, "--val", "0.5")[0] == 0  # the data change, the sources do not
    yaml_file = tmp_path / "mine" / "source" / "birds.yaml"
    yaml_file.write_text(yaml_file.read_text().replace("weight: 1.0", "weight: 3.0"))
    before = (tmp_path / "mine" / "birds" / "train.json").read_text()
    code, said = ufo("import", path)
    assert code == 1 and "was edited" in said and "--force" in said
    assert (tmp_path / "mine" / "birds" / "train.json").read_text() == before
    assert ufo("import", path, "--force")[0] == 0 and "weight: 1.0" in yaml_file.read_text()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    code, said = ufo("import", path, "--out", tmp_path / "other")
    assert code == 1 and "has other files" in said and (tmp_path / "other" / "thesis.txt").is_file()
    left = [p.name for p in tmp_path.rglob(".*")]
    assert not left


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["yollo", "birds"], r"no format 'yollo'; did you mean 'yolo'?"),
        (["labelmee"], r"no format 'labelmee'; did you mean 'labelme'?"),
        (["yolo"], "name the folder or file, too"),
        (["nope"], "there is no file or folder nope"),
        (["empty"], "the folder empty is empty; name the one with the labels"),
        (["coco", "empty"], "the folder empty is empty"),
        (["yolo", "brids"], "did you mean 'birds'?"),
        (["birds", "--out", "birds/out"], "inside of the data themselves"),
        (["birds", "--images", "nowhere"], "--images nowhere is not a folder"),
        (["cvat", "notes"], "export the task as 'CVAT for images 1.1'"),
        (["notes"], "not recognised as the export of any tool"),
        (["birds.zip"], "unpack it"),
        (["birds", "--classes", "dog"], "object of class 'owl', which is not among the classes"),
        (["birds", "--name", "a b"], "take a_b"),
    ],
)
def test_mistakes_are_one_sentence(words, message, ufo, tmp_path):
    coco(tmp_path / "birds")
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("x")
    (tmp_path / "birds.zip").write_bytes(b"PK")
    code, said = ufo("import", *words)
    assert code == 1 and message in said and "Traceback" not in said
    assert not (tmp_path / "mine").exists() or not any((tmp_path / "mine").rglob("*.yaml"))


@pytest.mark.parametrize("tool", TOOLS)
def test_another_format_than_the_named_one_is_told(tool, ufo, tmp_path):
    """Whatever is named: the format that the files show is in the sentence, or the import works."""
    path = TOOLS[tool](tmp_path / "birds")
    for name in TOOLS:
        code, said = ufo("import", name, path, "--force")
        if code:
            assert f"write ufo data import {tool} {path}" in said and f"no export of {name}," in said
            assert len(said.strip().splitlines()) == 1 and said.count(". ") == 0
        else:
            assert name == tool or {name, tool} & {"roboflow", "cvat"}  # which export in others' formats


def test_what_is_left_out_is_printed(ufo, tmp_path):
    path = coco(tmp_path / "birds")
    (path / "images" / "default" / "c.jpeg").unlink()
    code, said = ufo("import", path)
    assert code == 0 and "1x picture that is not there, left out (first: c.jpeg)" in said
    assert "1x annotation of a picture that was left out, left out" in said


# ---------------------------------------------------------------- new


def test_objects_in_one_split_alone__name_the_option_that_imports_them(ufo, tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    for name in ("a", "b"):
        PIL.Image.new("RGB", (20, 20)).save(folder / f"{name}.png")
    (folder / "few.csv").write_text("file,xmin,ymin,xmax,ymax,label\na.png,1,2,9,9,owl\nb.png,5,5,5,5,owl\n")
    code, said = ufo("import", "csv", folder)
    assert code == 1 and "--val 0 validates on the training pictures" in said
    assert ufo("import", "csv", folder, "--val", "0")[0] == 0


def test_new_coco_maps_and_jsonl(ufo, tmp_path):
    path = coco(tmp_path / "birds")
    images, file = path / "images" / "default", path / "annotations" / "instances_default.json"
    before = tree_hash(path)
    code, said = ufo("new", "coco", images, file, "--val", "0.4")
    assert code == 0 and "40% by a hash" in said, said
    found = data_find.find(str(tmp_path / "mine/source/birds.yaml"))
    parts = [found.build(split) for split in ("train", "val")]
    assert [len(part) for part in parts] == [2, 1] and parts[0].category_ids == (3, 13)
    code, said = ufo("new", "coco", images, file, "--val-data", file, "--name", "named", "--classes", "owl")
    found = data_find.find(str(tmp_path / "mine/source/named.yaml"))
    assert code == 0 and found.build("val").classes == ("owl",)
    assert found.splits["val"]["annotations"] == str(file)

    for name in ("a", "b 1", "c"):
        labels = np.zeros((48, 64), np.uint8)
        labels[20:] = 1
        (tmp_path / "maps").mkdir(exist_ok=True)
        PIL.Image.fromarray(labels).save(tmp_path / "maps" / f"{name}.png")
    code, said = ufo("new", "maps", images, tmp_path / "maps", "--classes", "sky,sea", "--name", "land")
    found = data_find.find(str(tmp_path / "mine/source/land.yaml"))
    parts = [found.build(split) for split in ("train", "val")]
    assert [len(part) for part in parts] == [2, 1] and not any(part.problems.counts for part in parts)
    code, said = ufo("new", "maps", images, tmp_path / "maps", "--name", "other")
    assert code == 1 and "--classes" in said

    lines = [{"image": name, "text": "the owl", "bbox": [1, 2, 30, 30]} for name in true_boxes()]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, said = ufo("new", "jsonl", images, tmp_path / "texts.jsonl")
    found = data_find.find(str(tmp_path / "mine/source/texts.yaml"))
    assert code == 0 and found.source.task == "grounding" and len(found.build("train")) == 2
    assert tree_hash(path) == before
    for text in (tmp_path / "mine" / "source").iterdir():
        assert yaml.safe_load(text.read_text())["dataset"]["train"]["train"] is True


# ---------------------------------------------------------------- the documents


def documented() -> list[list[str]]:
    """The commands of docs/your_data.md that import, write and export; in blocks and in tables."""
    text = (ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")
    found = re.findall(r"^(ufo data (?:import|new|export) .*)$", text, re.M)
    found += re.findall(r"`(ufo data (?:import|new|export) [^`]+)`", text)
    return [shlex.split(command, comments=True)[2:] for command in found]


def test_every_command_of_the_documents_runs(ufo, tmp_path):
    for tool, write in {**TOOLS, "masks": masks, "birds": TOOLS["yolo"]}.items():
        write(tmp_path / "exports" / tool)
    pictures(tmp_path / "photos" / "images")
    (tmp_path / "photos" / "maps").mkdir()
    for name in true_boxes():
        numbers = np.arange(48 * 64).reshape(48, 64) // 1024
        path = tmp_path / "photos" / "maps" / f"{Path(name).stem}.png"
        PIL.Image.fromarray(numbers.astype(np.uint8)).save(path)
    write_json(tmp_path / "photos" / "birds.json", coco_content(list(true_boxes())))
    lines = [{"image": name, "text": "the owl", "bbox": [1, 2, 30, 30]} for name in true_boxes()]
    (tmp_path / "photos" / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    predictions(tmp_path)
    (tmp_path / "pictures").rename(tmp_path / "photos" / "new")
    commands = documented()
    assert len(commands) > 15
    for words in commands:
        code, said = ufo(*words)
        assert code == 0, (words, said)


def test_format_of_the_documents_works(tmp_path, monkeypatch):
    """The file of docs/extending.md, in place of one of the package."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    code = text.split("# ufo/data/formats/points.py\n")[1].split("```")[0]
    module = types.ModuleType("points")
    exec(compile(code, "points.py", "exec"), module.__dict__)
    pictures(tmp_path, "a.jpg")
    (tmp_path / "a.points").write_text("owl 4 8 24 24\nowl 1 2\n")
    labels = imported(module, tmp_path)
    assert boxes(labels) == {"a.jpg": [("owl", (4, 8, 24, 24))]}
    assert labels.problems.left_out == {"line without four numbers": 1}
    assert module.recognise(Source(tmp_path)) == "a.points" and module.ABOUT


# ---------------------------------------------------------------- the whole way


@pytest.mark.slow
def test_import_then_check_as_a_user(tmp_path):
    """Real processes: an import says that its result is usable, and so does `ufo data check`."""
    path = coco(tmp_path / "birds")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ufo.cli.main", "data"]
    for words in (["import", str(path), "--val", "0"], ["check", "mine/source/birds.yaml"]):
        given = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        done = subprocess.run([*command, *words], **given)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "usable, nothing is wrong" in done.stdout
