"""`ufo data check` refuses what training would refuse, and counts and names what training would not use."""

import json
from typing import ClassVar

import numpy as np
import PIL.Image
import pytest
import torch
from cli_model import tiny_model
from torchvision import tv_tensors

from ufo.check import check_source
from ufo.cli.data_check import _problems
from ufo.cli.data_folders import missing_files, unused_files
from ufo.cli.data_samples import Seen, decode, text_warnings
from ufo.data.datasets import CocoDataset
from ufo.data.datasets.base import ImageDataset
from ufo.data.errors import DataError
from ufo.data.problems import Problems
from ufo.types import Sample, Target

SIZE = (48, 64)  # height, width


def picture(path, seed=0, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)


def number_map(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


@pytest.fixture
def coco(tmp_path):
    """Write four pictures with two boxes each, as `change` makes them; returns the folder."""

    def write(change=lambda content: None, names=("kite", "boat"), size=SIZE):
        height, width = size
        content = {
            "images": [
                {"id": 10 + i, "file_name": f"{i}.png", "height": height, "width": width} for i in range(4)
            ],
            "categories": [{"id": 5 + k, "name": name} for k, name in enumerate(names)],
            "annotations": [
                {"id": 2 * i + k, "image_id": 10 + i, "category_id": 5 + k, "bbox": [4 + 9 * k, 6, 12, 10]}
                for i in range(4)
                for k in range(len(names))
            ],
        }
        for i in range(4):
            picture(tmp_path / "images" / f"{i}.png", i, size)
        change(content)
        (tmp_path / "kites.json").write_text(json.dumps(content))
        return tmp_path

    return write


def read(folder, train=True):
    return CocoDataset(folder / "images", folder / "kites.json", train=train)


def source(folder, splits=("train", "val"), task="detection"):
    """The yaml of a source of the folder's data."""
    lines = [f"# @package sources.kites\nname: kites/{task}\ntask: {task}\nbatch_size: 2\ndataset:"]
    for split in splits:
        lines.append(
            f"  {split}:\n    _target_: ufo.data.datasets.CocoDataset\n    _partial_: true\n"
            f"    images: '{folder}/images'\n    annotations: '{folder}/kites.json'\n"
            f"    train: {'true' if split == 'train' else 'false'}"
        )
    path = folder / "my sources" / "kites.yaml"  # a name that is not a config group
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


# ---------------------------------------------------------------- the model that would be trained


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("Kite", "kite"), "'Kite' and 'kite' are the same tokens"),
        (("kite", "k\u00ecte"), "are the same tokens"),  # an uncased vocabulary drops accents
        (("kite", "background"), "'background' is what the model answers where there is no object"),
        (("kite", "\u9ce5"), "no pieces for the class '\u9ce5'"),
        (tuple(f"a long name of boat {i}" for i in range(20)), "tokens and the backbone reads 64"),
    ],
)
def test_classes_that_a_model_cannot_answer_with(names, words):
    with pytest.raises(ValueError, match="mine: ") as refused:
        check_source(tiny_model(), "mine", "detection", names)
    assert words in str(refused.value)


def test_a_class_with_a_comma_is_named_in_both_halves(ufo, coco):
    answer = ufo("data", "check", source(coco(names=("kite, small", "boat"))))
    lines = [line for line in answer.out if "'kite, small' with a comma inside" in line]
    assert answer.code == 0 and len(lines) == 2 and all("warning" in line for line in lines)
    assert "'boat'" not in "".join(lines)


def test_more_classes_than_tokens_are_refused_at_once(monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(model.tokenizer, "encode", None)  # nothing is written as tokens
    with pytest.raises(ValueError, match=r"more than 200000 tokens, one for each class.* reads 64; raise"):
        check_source(model, "mine", "detection", [f"class {i}" for i in range(200_000)])


def test_a_category_without_a_name(coco):
    folder = coco(names=("kite", " "))
    with pytest.raises(DataError, match="a category has an empty name"):
        read(folder)
    assert CocoDataset(folder / "images", folder / "kites.json", classes=["kite"]).classes == ("kite",)


def test_only_tasks_with_a_word_for_nothing_reserve_it():
    check_source(tiny_model(), "mine", "semantic_segmentation", ("kite", "background"))


def test_the_command_is_as_strict_as_training_in_both_halves(ufo, coco):
    path = source(coco(names=("Kite", "kite")))
    answer = ufo("data", "check", "resolution=112", path, "backbone=ufo_vit_tiny", "--decode", 1)
    errors = [line for line in answer.out if "ERROR" in line]
    assert answer.code == 1 and len(errors) == 2 and all("the same tokens" in line for line in errors)
    assert any("UFOViT, 112 px" in line and "defaults" not in line for line in answer.out)


def test_the_model_that_is_named_decides(ufo, coco):
    """A prompt that the default model cannot read is none too long for a larger one."""
    names = tuple(f"long boat number {i}" for i in range(60))
    path = source(coco(names=names), splits=("train",))
    answer = ufo("data", "check", path)
    assert answer.code == 1
    assert any("reads 256; raise backbone.network.max_positions" in line for line in answer.out)
    assert any("train.py's defaults" in line for line in answer.out)
    longer = ufo("data", "check", "backbone.network.max_positions=512", path)
    assert longer.code == 0 and any("up to 512 tokens" in line for line in longer.out)
    short = ufo(
        "data",
        "check",
        "backbone.network.max_positions=512",
        "+backbone.tokenizer.max_prompt_length=99",
        path,
    )
    assert any("reads 99; raise backbone.tokenizer.max_prompt_length" in line for line in short.out)


def test_texts_that_the_model_cannot_write():
    model = tiny_model()
    (strange,) = text_warnings(model, "grounding", Seen(texts=[("sample 0", "a"), ("sample 2", "a \u9ce5")]))
    assert "1x text with pieces that the vocabulary lacks" in strange and "sample 2" in strange
    (cut,) = text_warnings(model, "caption", Seen(texts=[("sample 3", "a"), ("sample 4", "a red cat " * 5)]))
    assert "1x answer of more than 6 tokens" in cut and "sample 4" in cut


def test_what_only_the_model_makes_a_problem(ufo, coco):
    """More objects than the grid has queries: counted by the check as by training."""

    def many(content):
        first = content["annotations"][0]
        content["annotations"] += [{**first, "id": 100 + i} for i in range(150)]

    path = source(coco(many))
    answer = ufo("data", "check", path)
    lost = [line for line in answer.out if "52x object for which the grid has no query" in line]
    assert len(lost) == 2 and "100 queries" in lost[0]
    assert not any(
        "no query" in line for line in ufo("data", "check", path, "tasks.detection.grid_per_window=7").out
    )


# ---------------------------------------------------------------- folders


def test_files_that_no_record_uses_and_records_without_file(coco):
    folder = coco()
    for name in ("9.JPG", "8.tiff", "notes.txt", ".hidden.png"):
        picture(folder / "images" / "x.png")
        (folder / "images" / "x.png").rename(folder / "images" / name)
    (folder / "images" / "2.png").unlink()
    data = read(folder)
    assert missing_files(data) == ["2.png"]
    ((where, line),) = unused_files([data, read(folder, train=False)])
    assert where == folder / "images" and line.startswith("2x image file that no record uses")
    assert "9.JPG" in line and "8.tiff" in line and "notes" not in line


def test_a_file_in_another_spelling_is_neither_missing_nor_unused(coco):
    def spell(content):
        for image, name in zip(content["images"], ("0.PNG", ".\\\\1.png", "./2.png", "%33.png"), strict=True):
            image["file_name"] = name.replace("\\\\", "\\")

    data = read(coco(spell))
    assert not missing_files(data) and not list(unused_files([data]))
    assert not decode(data, None).failed


def test_a_file_of_the_other_half_is_used(coco):
    folder = coco()
    content = json.loads((folder / "kites.json").read_text())
    halves = []
    for part in (slice(0, 2), slice(2, 4)):
        ids = [image["id"] for image in content["images"][part]]
        half = {**content, "images": content["images"][part]}
        half["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
        (folder / "half.json").write_text(json.dumps(half))
        halves.append(CocoDataset(folder / "images", folder / "half.json", train=not halves))
    assert list(unused_files(halves[:1])) and not list(unused_files(halves))


def test_images_of_both_halves_are_said(ufo, coco):
    folder = coco()
    content = json.loads((folder / "kites.json").read_text())
    content["images"] = content["images"][2:]
    content["annotations"] = content["annotations"][4:]
    (folder / "half.json").write_text(json.dumps(content))
    path = source(folder)
    same = ufo("data", "check", path)
    assert same.code == 0 and any("train and val are the same 4 image files" in line for line in same.out)
    before, kites, after = path.read_text().rpartition("kites.json")
    path.write_text(f"{before}half.json{after}")
    answer = ufo("data", "check", path)
    (line,) = [line for line in answer.out if "image file that is in train and in val" in line]
    assert kites and answer.code == 0 and line.strip().startswith("warning: 2x") and "2.png" in line


def test_the_command_names_files_that_are_left_out(ufo, coco):
    folder = coco()
    picture(folder / "images" / "late.png")
    (folder / "images" / "late.png").rename(folder / "images" / "late.JPEG")
    answer = ufo("data", "check", source(folder), "--strict")
    text = "\n".join(answer.out)
    assert answer.code == 1 and "1x image file that no record uses" in text and "late.JPEG" in text
    assert "nothing is wrong" not in text


# ---------------------------------------------------------------- counting


def test_boxes_that_leave_their_image(ufo, coco):
    def corners(content):
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["bbox"] = [x + 30, y + 20, x + 30 + w, y + 20 + h]

    seen = decode(read(coco(corners), train=False), None)
    assert len(seen.leaving) == 8
    answer = ufo("data", "check", source(coco(corners)))
    lines = [line for line in answer.out if "8x box that leaves its image" in line]
    assert len(lines) == 2 and all("x1, y1, x2, y2" in line for line in lines)


def test_boxes_inside_out_and_empty_texts_of_any_format():
    class Own(ImageDataset):
        """A data set that judges nothing itself."""

        provides = frozenset({"boxes", "expression"})
        rows: ClassVar = [
            ("the owl", (5.0, 5, 20, 15)),
            (" ", (5.0, 5, 20, 15)),
            ("an owl", (20.0, 5, 5, 15)),
        ]

        def __init__(self) -> None:
            self.problems = Problems("own.csv", quiet=True)

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, i: int) -> Sample:
            return {
                "image": tv_tensors.Image(torch.zeros(3, 30, 40, dtype=torch.uint8)),
                "text": self.rows[i][0],
            }

        def target(self, i: int) -> Target:
            return Target(i, (30, 40), boxes=torch.tensor([self.rows[i][1]]), text=self.rows[i][0])

        def portrait(self) -> torch.Tensor:
            return torch.zeros(len(self), dtype=torch.bool)

    data = Own()
    inverted, wordless = _problems(data, decode(data, None))
    assert inverted.startswith("1x box of negative size (corners in another order?) (first: sample 2)")
    assert wordless.startswith("1x empty sentence (first: sample 1)")
    data.problems.report("empty sentence", "line 3")  # what the data set itself has found is not said twice
    assert len([line for line in _problems(data, decode(data, None)) if "empty sentence" in line]) == 1


def test_a_class_without_any_object_in_either_half(ufo, coco):
    def one_class(content):
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 5]

    answer = ufo("data", "check", source(coco(one_class)))
    lines = [line for line in answer.out if "1 class without any object: boat" in line]
    assert answer.code == 0 and len(lines) == 2 and "usable, with 2 warnings" in answer.out[-1]


def test_everything_used_is_the_only_thing_that_is_not_wrong(ufo, coco):
    answer = ufo("data", "check", source(coco()))
    assert answer.code == 0 and answer.out[-1] == "usable, nothing is wrong"


def test_names_that_no_file_can_have_are_missing_files(coco):
    def change(content):
        content["images"][0]["file_name"] = "a" * 5000
        content["images"][1]["file_name"] = "a\0.png"

    assert sorted(missing_files(read(coco(change), train=False)))[1:] == ["a" * 5000]


def test_a_class_of_many_lines_takes_one(ufo, coco):
    def change(content):
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 5]

    path = source(coco(change, names=("a very\nlong\nboat" * 20, "kite\nor\nnot")))
    answer = ufo("data", "check", path, "--decode", 1)
    assert any(line.strip().startswith("kite or not  ") for line in answer.out)
    without = next(line for line in answer.out if "without any object" in line)
    assert "a very long boat" in without and len(without) < 200


# ---------------------------------------------------------------- what becomes of it in each half


def lines_of(answer, words):
    """The lines of an answer that hold some words: of the training half, then of the other."""
    return [line for line in answer.out if words in line]


def test_each_half_says_what_becomes_of_a_bad_box_there(ufo, coco):
    def change(content):
        content["annotations"][0]["bbox"] = [20, 20, -10, 5]
        content["annotations"][2]["bbox"] = [20, 20, 0.5, 5]

    answer = ufo("data", "check", source(coco(change)))
    for kind in ("1x box of negative size", "1x box smaller than a pixel"):
        trained, scored = lines_of(answer, kind)
        assert ", left out (" in trained and "evaluation" not in trained
        assert ", used all the same (" in scored and "as missed" in scored and "training" not in scored
    assert answer.code == 0


def test_a_sample_that_training_replaces_is_no_error(ufo, coco):
    """Training takes others in its place and evaluation scores a black image, so both go on."""
    folder = coco()
    (folder / "images" / "1.png").write_bytes(b"no picture")
    (folder / "images" / "3.png").unlink()
    answer = ufo("data", "check", source(folder))
    assert answer.code == 0 and answer.out[-1] == "usable, with 2 warnings"
    trained, scored = lines_of(answer, "2x sample that cannot be decoded")
    assert "left out: others take their place" in trained and "as a black image" in scored
    assert len(lines_of(answer, "sample 3: ")) == 2
    few = ufo("data", "check", source(folder), "--decode", 1)
    trained, scored = lines_of(few, "1x record without its image file") or lines_of(few, "2x record")
    assert few.code == 0 and "left out" in trained and "black image" in scored


def test_training_data_of_which_no_sample_can_be_used_are_an_error(ufo, coco):
    folder = coco()
    for i in range(4):
        (folder / "images" / f"{i}.png").write_bytes(b"no picture")
    answer = ufo("data", "check", source(folder))
    (error,) = lines_of(answer, "ERROR")
    assert answer.code == 1 and "none of the 4 decoded samples can be used" in error
