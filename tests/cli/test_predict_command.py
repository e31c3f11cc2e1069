"""`ufo predict` end to end on a tiny random model: what goes where, and what is refused."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from cli_model import CLASSES, TASKS, tiny_model
from pycocotools.coco import COCO
from torchvision import tv_tensors

from ufo.checkpoints.load import save
from ufo.cli.files import find_images, plan_outputs
from ufo.data.errors import DataError
from ufo.data.pictures import as_image
from ufo.inference.model import STREAMED_PIXELS
from ufo.kinds import ClassMap, Objects, Referred, Text
from ufo.model import UFO
from ufo.tasks import kind_of, task_class
from ufo.tasks.dense import DenseTask
from ufo.types import Prediction


@pytest.fixture
def sees_a_dog(monkeypatch):
    """Every dense answer is a dog in the left half; sizes asked for are recorded."""
    sizes = []

    def predict_batch(self, batch):
        sizes.extend(batch.sizes)
        return [seen(batch, height, width) for height, width in batch.sizes]

    def seen(batch, height, width):
        left = torch.arange(width).expand(height, width) < width // 2
        one = {"scores": torch.tensor([0.8]), "boxes": torch.tensor([[0.0, 0, width // 2, height]])}
        label = torch.tensor([batch.classes.index("dog")]) if batch.classes else None
        kind = kind_of(batch.task)
        masks = {"masks": left[None]} if kind.masks else {}
        parts = {
            Objects: {**one, **masks, "labels": label},
            ClassMap: {"semantic": left.long()},
            Text: {"text": "a dog"},
            Referred: {**one, **masks, "text": "7,10,10,20"},
        }
        return Prediction(batch.task, classes=batch.classes, **parts[type(kind)])

    monkeypatch.setattr(UFO, "predict_batch", predict_batch)
    return sizes


def read(path):
    return json.loads(path.read_text())


# --- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_every_task_on_one_file(ufo, ckpt, images, tmp_path, task):
    text = ["--text", "a red cat"] if task_class(task).needs_text else []
    out, results = tmp_path / "made" / "p.png", tmp_path / "also" / "r.json"
    answer = ufo(
        *("predict", images / "1.jpg", "--ckpt", ckpt, "--task", task, *text),
        *("--out", out, "--json", results),
    )
    assert answer.code == 0
    assert answer.out[0].startswith(f"1.jpg  {task}: ")
    with PIL.Image.open(out) as picture:
        assert picture.size > (60, 40)
    assert isinstance(read(results), list)


def test_any_task_of_a_folder(ufo, ckpt, images, tmp_path, sees_a_dog):
    out, results = tmp_path / "pictures", tmp_path / "r.json"
    answer = ufo("predict", images, "--ckpt", ckpt, "--out", out, "--json", results)
    assert answer.code == 0
    tasks = [t for t in TASKS if not task_class(t).needs_text]
    lines = [(name, task) for name in ("1.jpg", "2.png") for task in tasks]
    assert [tuple(line.split(":")[0].split()) for line in answer.out[: len(lines)]] == lines
    assert sorted(p.name for p in out.iterdir()) == ["1.png", "2.png"]
    content = read(results)
    assert list(content) == tasks
    assert [r["image_id"] for r in content["caption"]] == [1, 2]


def test_a_name_that_is_no_task_is_said_before_a_checkpoint_is_read(ufo, images, tmp_path):
    answer = ufo("predict", images / "1.jpg", "--ckpt", tmp_path / "none.ckpt", "--task", "detecton")
    assert answer.err == ["error: there is no task 'detecton'; did you mean 'detection'?"]


@pytest.mark.parametrize("task", ["detection", "instance_segmentation", "semantic_segmentation"])
def test_results_load_in_pycocotools(ufo, ckpt, images, tmp_path, sees_a_dog, task):
    results = tmp_path / "r.json"
    assert ufo("predict", images, "--ckpt", ckpt, "--task", task, "--json", results).code == 0
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": 40, "width": 60} for i in (1, 2)],
        "categories": [{"id": i, "name": n} for i, n in enumerate(CLASSES, 1)],
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(results))
    (dog,) = loaded.loadAnns(loaded.getAnnIds(imgIds=[2], catIds=[2]))
    assert list(dog["bbox"]) == [0, 0, 30, 40]
    assert loaded.annToMask(dog).sum() == 30 * 40


def test_results_of_one_task_as_lines(ufo, ckpt, images, tmp_path, sees_a_dog):
    """A name that ends with .jsonl got one list, which readers of lines refuse."""
    words = ("predict", images, "--ckpt", ckpt, "--task", "detection", "--json")
    assert ufo(*words, tmp_path / "r.json").code == ufo(*words, tmp_path / "r.jsonl").code == 0
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == read(tmp_path / "r.json") and len(lines) == 2
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in (1, 2)],
        "categories": [{"id": i, "name": n} for i, n in enumerate(CLASSES, 1)],
        "annotations": [{"id": i, "image_id": i, "category_id": 2, "bbox": [0, 0, 30, 40]} for i in (1, 2)],
    }
    (tmp_path / "t.json").write_text(json.dumps(truth))
    scored = ("score", tmp_path / "r.jsonl", "--against", tmp_path / "t.json", "--task", "detection")
    answer = ufo(*scored, "--boxes", "xywh", "--resamples", "0")
    assert answer.code == 0 and any(
        row.split()[:4:3] == ["|", "1.0000"] for row in answer.out if "mAP " in row
    )
    answer = ufo("predict", images, "--ckpt", "none.ckpt", "--json", tmp_path / "any.jsonl")
    assert answer.code == 1 and "name it with --task" in answer.err[0]


def test_text_adds_grounding_to_any(ufo, ckpt, images, tmp_path, sees_a_dog):
    results = tmp_path / "r.json"
    arguments = ("--ckpt", ckpt, "--text", "the dog", "--json", results)
    assert ufo("predict", images / "1.jpg", *arguments).code == 0
    (record,) = read(results)["grounding"]
    assert (record["text"], record["bbox"]) == ("the dog", [0, 0, 30, 40])


@pytest.mark.parametrize("name", ["plain", "run_1.5", "there.foo", ".hidden"])
def test_out_is_a_folder_without_an_ending_or_one_that_is_there(images, tmp_path, name):
    (tmp_path / "there.foo").mkdir()
    paths = find_images([images])
    outputs = plan_outputs([images], paths, None, tmp_path / name)
    assert sorted(outputs.pictures.values()) == [tmp_path / name / f"{n}.png" for n in (1, 2)]


def test_score_leaves_objects_out(ufo, ckpt, images, tmp_path, sees_a_dog):
    results = tmp_path / "r.json"
    for score, count in ((0.7, 1), (0.9, 0)):
        arguments = ("--ckpt", ckpt, "--task", "detection", "--score", score, "--json", results)
        answer = ufo("predict", images / "1.jpg", *arguments)
        assert len(read(results)) == count
    assert "1 more below 0.9" in answer.out[0]


def test_classes_replace_those_of_the_checkpoint(ufo, ckpt, images, tmp_path, sees_a_dog):
    results = tmp_path / "r.json"
    arguments = ("--task", "detection", "--classes", "red dog, dog", "--json", results)
    assert ufo("predict", images / "1.jpg", "--ckpt", ckpt, *arguments).code == 0
    assert read(results)[0]["category_id"] == 2


def test_large_images_are_predicted_smaller(ufo, ckpt, tmp_path, sees_a_dog):
    PIL.Image.new("RGB", (3072, 2048)).save(tmp_path / "1.png")
    results = tmp_path / "r.json"
    arguments = ("--task", "instance_segmentation", "--json", results, "--out", tmp_path / "p.png")
    assert ufo("predict", tmp_path / "1.png", "--ckpt", ckpt, *arguments).code == 0
    ((height, width),) = sees_a_dog
    assert height * width <= STREAMED_PIXELS and abs(width / height - 1.5) < 0.01
    (record,) = read(results)
    assert record["segmentation"]["size"] == [2048, 3072]
    assert record["bbox"][:2] == [0, 0] and record["bbox"][2:] == pytest.approx([1536, 2048], abs=3)


def test_images_are_counted_once(ufo, ckpt, images, sees_a_dog):
    arguments = (images / "2.png", images, images / ".." / "images" / "1.jpg")
    answer = ufo("predict", *arguments, "--ckpt", ckpt, "--task", "caption")
    assert answer.out == ["2.png  caption: a dog", "1.jpg  caption: a dog"]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "depth"], ["depth", *TASKS]),
        (["--task", "grounding"], ["grounding", "--text"]),
        (["--task", "grounding", "--text", "  "], ["grounding", "--text"]),
        (["--task", "caption", "--text", "x"], ["caption", "leave out --text"]),
        (["--task", "caption", "--classes", "cat"], ["caption", "leave out --classes"]),
        (["--task", "grounding", "--text", "red " * 100], ["tokens", "reads 64"]),
        (["--task", "detection", "--classes", "ねこ"], ["vocabulary", "ねこ"]),
        (["--task", "detection", "--classes", "cat,a <mask>"], ["a <mask>", "stands for a mask"]),
        (["--task", "grounding", "--text", "the <MASK> cat"], ["<MASK>", "leave it out"]),
        (["--device", "cuda:99"], ["--device cuda:99"]),
        (["--device", "abacus"], ["--device abacus"]),
    ],
)
def test_requests_that_make_no_sense(ufo, ckpt, images, arguments, words):
    answer = ufo("predict", images / "1.jpg", "--ckpt", ckpt, *arguments)
    assert (answer.code, answer.out) == (1, [])
    error = answer.err[-1]
    assert error.startswith("error: ")
    assert not [w for w in words if w not in error]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--score", "2"],
        ["--score", "nan"],
        ["--classes", "a,,b"],
        ["--classes", "a,A"],
        ["--text", "\udcff"],
        ["--text", "a", "--text", "b"],
        ["--task", "caption", "--task", "detection"],
    ],
)
def test_arguments_that_make_no_sense(ufo, ckpt, images, arguments):
    answer = ufo("predict", images / "1.jpg", "--ckpt", ckpt, *arguments)
    assert answer.code == 2
    assert arguments[0] in answer.err[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.jpg"], ["absent.jpg"]),
        (["deeper/.."], ["no images"]),
        (["images", "--out", "p.png"], ["2 images", "folder"]),
        (["images", "--out", "images"], ["folder of the images"]),
        (["images/2.png", "--out", "images/2.png"], ["one of the images"]),
        (["images/1.jpg", "--out", "p.gif"], [".png"]),
        (["images/1.jpg", "--out", "text"], ["text", "folder"]),
        (["images/1.jpg", "--out", "p.foo"], ["p.foo", "neither a picture nor a folder", ".png"]),
        (["images", "--out", "p.PDF"], ["p.PDF", "make that folder first"]),
        (["images/1.jpg", "--out", "p.json"], ["p.json", "results go to --json"]),
        (["images/1.jpg", "--json", "images"], ["is a folder"]),
        (["images/1.jpg", "--json", "images/1.jpg"], ["one of the images"]),
        (["images", "images/deeper/1.png", "--json", "r.json"], ["image_id", "1.png"]),
        (["images", "images/deeper/1.png", "--out", "p"], ["picture", "1.png"]),
    ],
)
def test_files_that_make_no_sense(ufo, images, monkeypatch, arguments, words):
    monkeypatch.chdir(images.parent)
    (images.parent / "deeper").mkdir()
    (images.parent / "text").write_text("")
    shutil.copy(images / "2.png", images / "deeper" / "1.png")
    before = {p: p.read_bytes() for p in images.rglob("*.*")}
    answer = ufo("predict", *arguments, "--ckpt", "no checkpoint is needed to see this")
    assert (answer.code, answer.out, len(answer.err)) == (1, [], 1)
    assert not [w for w in words if w not in answer.err[0]]
    assert before == {p: p.read_bytes() for p in images.rglob("*.*")}


def test_corrupt_image_does_not_stop_the_others(ufo, ckpt, images, tmp_path, sees_a_dog):
    (images / "1.jpg").write_bytes((images / "1.jpg").read_bytes()[:300])
    results, out = tmp_path / "r.json", tmp_path / "p"
    arguments = ("--task", "caption", "--json", results, "--out", out)
    answer = ufo("predict", images, "--ckpt", ckpt, *arguments)
    assert answer.code == 1
    errors = [line for line in answer.err if line.startswith("error")]
    assert len(errors) == 2
    assert "1.jpg" in errors[0] and "1 of 2" in errors[1]
    assert [r["image_id"] for r in read(results)] == [2]
    assert [p.name for p in out.iterdir()] == ["2.png"]


def test_text_file_and_huge_image(ufo, ckpt, images, tmp_path, monkeypatch):
    monkeypatch.setattr("ufo.data.pictures.read_image.__defaults__", (None, 1000, None, None))
    for name, words in (("notes.txt", "not an image"), ("1.jpg", "60x40")):
        answer = ufo("predict", images / name, "--ckpt", ckpt, "--task", "caption")
        last = [line for line in answer.err if line][-1]  # old versions of rich add an empty one
        assert answer.code == 1 and name in last and words in last


def test_checkpoints_that_are_none(ufo, ckpt, images, tmp_path):
    broken = {"empty": "{}", "foreign": '{"backbone": {"type": "ResNet"}}', "cut": "{"}
    for name, config in broken.items():
        shutil.copytree(ckpt, tmp_path / name)
        (tmp_path / name / "config.json").write_text(config)
    for name in (*broken, "absent", "images", "images/1.jpg"):
        answer = ufo("predict", images / "1.jpg", "--ckpt", tmp_path / name)
        assert (answer.code, answer.out) == (1, [])
        assert str(tmp_path / name) in answer.err[-1]


def test_classes_that_the_model_never_learned__are_said_with_those_it_knows(ufo, ckpt, images):
    arguments = ("predict", images / "1.jpg", "--ckpt", ckpt, "--task", "detection", "--classes")
    cases = (("ace,tac", "none of these --classes"), ("ace,Dog", "not trained with ace;"), ("dog", ""))
    for names, said in cases:
        answer = ufo(*arguments, names)
        assert answer.code == 0
        warned = [line for line in answer.err if line.endswith("it knows cat, dog, tree")]
        assert len(warned) == bool(said) and all(said in line for line in warned)


def test_checkpoint_without_class_names(ufo, images, tmp_path):
    nameless = save(tiny_model(classes=()), tmp_path / "nameless")
    arguments = ("predict", images / "1.jpg", "--ckpt", nameless)
    answer = ufo(*arguments, "--task", "detection")
    assert answer.code == 1
    assert "--classes" in answer.err[-1]
    answer = ufo(*arguments)
    assert answer.code == 0
    without_text = [name for name in TASKS if not task_class(name).needs_text]
    nameable = [name for name in without_text if issubclass(task_class(name), DenseTask)]
    asked = [f"1.jpg  {name}" for name in without_text if name not in nameable]
    assert [line.split(":")[0] for line in answer.out] == asked
    assert len([line for line in answer.err if "left out" in line]) == len(nameable)
    dense = save(tiny_model(classes=(), tasks=["detection"]), tmp_path / "dense")
    answer = ufo("predict", images / "1.jpg", "--ckpt", dense)
    assert answer.code == 1
    assert "none of the checkpoint's tasks (detection)" in answer.err[-1]


# --- images in Python -----------------------------------------------------------------------------


def test_as_image_forms_agree(images):
    path = images / "2.png"
    expected = as_image(path)
    assert expected.dtype == torch.uint8 and expected.shape == (3, 40, 60)
    opened = PIL.Image.open(path)
    for form in (str(path), opened, opened.convert("RGBA"), expected.as_subclass(torch.Tensor)):
        given = as_image(form)
        assert isinstance(given, tv_tensors.Image)
        assert torch.equal(given, expected)


def test_as_image_turns_a_photo(images, tmp_path):
    image = PIL.Image.open(images / "2.png")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    path = tmp_path / "turned.png"
    assert as_image(path).shape == (3, 60, 40)
    assert torch.equal(as_image(PIL.Image.open(path)), as_image(path))


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (torch.full((3, 4, 4), 255.0), ValueError, "from 255 to 255, .* divide 0 to 255 by 255"),
        (torch.full((3, 4, 4), -0.5), ValueError, "undo a normalisation"),
        (torch.full((3, 4, 4), float("nan")), ValueError, "from 0 to 1"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ValueError, r"\[1, 3, 4, 4\]"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), ValueError, r"\[8, 8, 3\]; give it \.permute\(2, 0, 1\)"),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), ValueError, r"\[3, 0, 4\]"),
        (np.zeros((8, 8, 5), np.uint8), ValueError, r"\[8, 8, 5\]"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"give it \.transpose\(1, 2, 0\)"),
        (np.full((4, 4, 3), 200, np.float32), ValueError, "divide 0 to 255 by 255"),
        (np.zeros((4, 4), bool), ValueError, r"\.astype\(np\.uint8\) \* 255"),
        (np.zeros((4, 4, 3), np.int64), ValueError, r"int64 \[4, 4, 3\]; convert it"),
        ([0], TypeError, "list"),
        (PIL.Image.new("RGB", (0, 4)), DataError, "0x4"),
        (PIL.Image.new("1", (100_000, 1000)), DataError, "100000x1000"),
    ],
)
def test_as_image_refuses(image, error, words):
    with pytest.raises(error, match=words):
        as_image(image)


def test_predict_takes_what_as_image_takes(ckpt, images):
    model = tiny_model()
    path = images / "2.png"
    texts = {model.predict(form, "caption").text for form in (path, PIL.Image.open(path))}
    assert len(texts) == 1


def test_constrained_is_for_all_tasks_but_free_text(ufo, ckpt, images, monkeypatch):
    seen, plain = {}, UFO.predict_batch

    def predict_batch(self, batch):
        task = self.task(batch.task)
        seen[task.name] = task.constrained
        return plain(self, batch)

    monkeypatch.setattr(UFO, "predict_batch", predict_batch)
    arguments = ("predict", images / "1.jpg", "--ckpt", ckpt, "--text", "a red cat", "--constrained")
    answer = ufo(*arguments)
    assert answer.code == 0, answer.err
    assert seen == {name: task.has_grammar for name, task in tiny_model().tasks.items()}
    assert seen["detection"] and seen["grounding"] and not seen["caption"]


def test_cuda_graphs_need_a_cuda_device(ufo, ckpt, images):
    answer = ufo("predict", images / "1.jpg", "--ckpt", ckpt, "--cuda-graphs", "--device", "cpu")
    assert answer.code and "--cuda-graphs needs a CUDA device, not cpu" in answer.err[0]


def test_a_text_that_the_vocabulary_cannot_write_is_not_guessed_at(ufo, ckpt, images):
    answer = ufo("predict", images / "1.jpg", "--ckpt", ckpt, "--task", "grounding", "--text", "the 🐦")
    assert answer.code == 1 and "no pieces for 'the 🐦'; use other words" in answer.err[-1]
