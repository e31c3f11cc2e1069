"""`ufo data list, check, prepare, show, mix` on generated files, whole and broken."""

import json

import numpy as np
import PIL.Image
import pytest
from squares import coco_source

from ufo.data.digits import generate

pytestmark = pytest.mark.heavy

SOURCE = coco_source("birds", "FOLDER", "birds.json", transform="plain_detection")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    generate(folder / "digits", train=6, val=3, size=64, workers=1)
    return folder


@pytest.fixture
def birds(tmp_path):
    """Write a COCO file, changed by a function, and the yaml of a source; returns the yaml."""

    def write(change=lambda content: None, yaml: str = SOURCE):
        (tmp_path / "images").mkdir()
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.jpg")
        content = {
            "images": [{"id": i, "file_name": f"{i}.jpg", "height": 48, "width": 64} for i in range(3)],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 3, "bbox": [4, 8, 20, 16], "area": 320}
                for i in range(3)
            ],
            "categories": [{"id": 3, "name": "owl"}],
        }
        text = change(content) or json.dumps(content)
        (tmp_path / "birds.json").write_text(text)
        path = tmp_path / "mine" / "birds.yaml"
        path.parent.mkdir()
        path.write_text(yaml.replace("FOLDER", str(tmp_path)))
        return path

    return write


def test_list(ufo, root):
    answer = ufo("data", "list", "--root", root)
    lines = {line.split()[0]: line for line in answer.out if line.split()}
    assert answer.code == 0 and "found" in lines["digits_instances"]
    assert "found" not in lines["coco_instances"] and "found" not in lines["refer_segmentation"]
    found = ufo("data", "list", "--root", root, "--found", "--task", "grounding").out
    assert any("digits_expressions" in line for line in found)
    assert not any("digits_semantic" in line or "refcoco" in line for line in found)
    assert ufo("data", "list", "--task", "nothing").code == 1


def test_check_of_a_good_data_set(ufo, root):
    answer = ufo("data", "check", "digits_semantic", "--root", root)
    text = "\n".join(answer.out)
    assert answer.code == 0 and "ERROR" not in text
    assert "6 samples, 11 classes" in text and "photo" in text and "decoded 3: 3 fine, 0 not" in text
    source = ufo("data", "check", "caption", "mixture=digits", "--root", root, "--decode", "2")
    assert source.code == 0 and source.out[0].startswith("digits/caption")


def test_unknown_names_get_the_nearest(ufo):
    answer = ufo("data", "check", "coco_instanzes")
    assert answer.code == 1 and "did you mean coco_instances" in answer.err[-1]
    answer = ufo("data", "check", "detektion", "mixture=digits")
    assert answer.code == 1 and "detection" in answer.err[-1]
    assert "no file" in ufo("data", "check", "nowhere.yaml").err[-1]


def test_missing_files_say_where_they_come_from(ufo, tmp_path):
    answer = ufo("data", "check", "coco_instances", "--root", tmp_path)
    text = "\n".join(answer.out)
    assert answer.code == 1 and "train2017 does not exist" in text and "https://cocodataset.org" in text
    answer = ufo("data", "prepare", "lvis", "--root", tmp_path)
    assert answer.code == 1 and "lvis is not here" in answer.err[-1]


def normalised(content):
    for annotation in content["annotations"]:
        annotation.update(bbox=[0.1, 0.2, 0.3, 0.3], area=0.09)


def negative(content):
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation.update(bbox=[x + w, y + h, -w, -h])


def missing(content):
    content["images"][1]["file_name"] = "nowhere.jpg"


def unknown(content):
    content["annotations"][1]["category_id"] = 0


def cut(content):
    return json.dumps(content)[:-40]


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda content: None, 0, ["usable, nothing is wrong", "owl", "1.0 objects each"]),
        (normalised, 1, ["3x box smaller than a pixel", "numbers from 0 to 1", "no object is left"]),
        (negative, 1, ["3x box of negative size (corners in another order?), left out", "width, height"]),
        (missing, 0, ["sample 1", "nowhere.jpg: there is no such image file", "2 fine, 1 not"]),
        (
            unknown,
            0,
            ["1x category that is not in the file, left out (first: annotation 1 of image 1)", "one counts"],
        ),
        (cut, 1, ["birds.json is cut short at line 1, column"]),
    ],
)
def test_check_explains_what_is_wrong(ufo, birds, change, code, words):
    answer = ufo("data", "check", birds(change))
    text = "\n".join(answer.out)
    assert answer.code == code
    assert not [word for word in words if word not in text]


def test_strict_check(ufo, birds):
    assert ufo("data", "check", birds(unknown), "--strict").code == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("annotations:", "anotations:", "did you mean 'annotations'"),
        ("    annotations: FOLDER/birds.json\n", "", "needs `annotations`"),
        ("CocoDataset", "Cocos", "did you mean 'ufo.data.datasets.CocoDataset'?"),
        ("    _target_: ufo.data.datasets.CocoDataset\n", "", "has no `_target_` in `train`"),
        ("dataset:", "data:", "describes no data set"),
    ],
)
def test_mistakes_in_the_yaml(ufo, birds, old, new, words):
    answer = ufo("data", "check", birds(yaml=SOURCE.replace(old, new)))
    assert answer.code == 1 and words in answer.err[-1]


def test_a_task_that_the_data_do_not_serve(ufo, birds):
    answer = ufo("data", "check", birds(yaml=SOURCE.replace("task: detection", "task: grounding")))
    assert answer.code == 1 and "needs expression" in "\n".join(answer.out)


def test_a_task_that_is_not_there(ufo, birds):
    """In both halves the same sentence, although a transform of the training half refers to the task."""
    answer = ufo("data", "check", birds(yaml=SOURCE.replace("task: detection", "task: detecton")))
    errors = [line for line in answer.out if "ERROR" in line]
    assert answer.code == 1 and errors
    assert all("unknown task 'detecton'; did you mean 'detection'?" in line for line in errors)


def test_show_writes_what_training_asks_and_answers(ufo, birds, tmp_path):
    small = ("backbone=ufo_vit_tiny", "resolution='112'")
    answer = ufo("data", "show", birds(), *small, "-n", 2, "--out", tmp_path / "out")
    assert answer.code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *("000.png", "001.png", "sheet.png", "texts.txt")
    ]
    text = (tmp_path / "out" / "texts.txt").read_text()
    assert text.count("prompt: Task: detection; Class: owl,background; Bin: 0 to 56") == 2
    assert ": owl," in text and ": background" in text
    assert PIL.Image.open(tmp_path / "out" / "000.png").width == 448
    assert "does not serve" in ufo("data", "show", tmp_path / "mine" / "birds.yaml", "--task", "vqa").err[-1]


def test_mix_counts_what_the_mixer_draws(ufo, root):
    mixture = ("mixture=digits", "sources.caption=null", "sources.grounding.weight=0")
    answer = ufo("data", "mix", *mixture, "--root", root, "--steps", 1000, "--devices", 2)
    rows = {line.split()[0]: line for line in answer.out if line.startswith("digits/")}
    assert answer.code == 0 and len(rows) == 3
    assert all("33.33%" in row for row in rows.values())
    assert "1,000 batches on 2 processes: 32,000 samples" in answer.out[-1]
    absent = ufo("data", "mix", "mixture=five_task", "--root", root, "--steps", 10)
    assert absent.code == 0 and "118,000" in "\n".join(absent.out)
    assert all("size as stated" in line for line in absent.out if "/" in line)


def test_own_sources_join_a_mixture(ufo, birds, root):
    path = birds()
    mine = path.parent.parent
    words = ("--config-dir", mine, "mixture=own", "+mine=birds", "--steps", 100)
    answer = ufo("data", "mix", *words)
    assert answer.code == 0 and "100.00%" in "\n".join(answer.out)
    (mine / "birds.json").rename(mine / "elsewhere.json")
    absent = ufo("data", "mix", *words)
    (row,) = [line for line in absent.out if line.startswith("birds/detection")]
    assert absent.code == 0 and "size unknown" in row and row.count(" ?") == 2
    assert any("1 of 1 sources are not here" in line for line in absent.out)


def test_every_task_can_be_shown(ufo, root, tmp_path):
    """Also those that the default mixture has not; of several, the one that uses most of the data."""
    small = ("backbone=ufo_vit_tiny", "resolution='112'", "--root", root, "-n", 1, "--out", tmp_path)
    assert ufo("data", "show", "digits_conversations", *small).code == 0
    assert "prompt: Task: vqa" in (tmp_path / "texts.txt").read_text()
    assert ufo("data", "show", "digits_reasoning", *small).code == 0
    assert "<MASK><MASK>" in (tmp_path / "texts.txt").read_text()
