"""`--ids`: results with the ids of the user's own COCO file."""

import json
from pathlib import Path

import pytest

from ufo.cli import CommandError
from ufo.cli.data_export import _ids as export_ids
from ufo.cli.ids import read_ids
from ufo.data.errors import DataError


@pytest.fixture
def file(tmp_path):
    """A file whose ids are like those of other tools: from 0, with gaps, images called by texts."""

    def write(images=(("b", "scans/2.png"), ("a", "scans/1.jpg"))):
        content = {
            "images": [{"id": key, "file_name": name} for key, name in images],
            "categories": [{"id": 0, "name": "Cat"}, {"id": 90, "name": "tree"}],
            "annotations": [],
        }
        (tmp_path / "own.json").write_text(json.dumps(content))
        return tmp_path / "own.json"

    return write


def test_records_get_the_ids_of_the_file(file):
    ids = read_ids(file())
    records = [
        {"image_id": 1, "category_id": k, "category": n} for k, n in ((3, "tree"), (1, "cat"), (2, "dog"))
    ]
    found = ids.of([*records, {"image_id": 1, "caption": "a cat"}], Path("elsewhere/1.jpg"))
    assert [(r["image_id"], r.get("category_id")) for r in found] == [("a", 90), ("a", 0), ("a", None)]
    assert "1 dog" in ids.remark() and "own.json" in ids.remark()


def test_images_that_the_file_does_not_have(file):
    with pytest.raises(CommandError, match=r"has no image 3\.jpg"):
        read_ids(file()).check([Path("1.jpg"), Path("3.jpg")])


def test_names_that_do_not_say_which_image_is_meant(file):
    with pytest.raises(CommandError, match=r"two images are called 1\.jpg"):
        read_ids(file(images=((1, "left/1.jpg"), (2, "right/1.jpg"))))
    with pytest.raises(CommandError, match="lists no images"):
        read_ids(file(images=()))
    with pytest.raises(CommandError, match="no such file"):
        read_ids(Path("nowhere.json"))


@pytest.mark.parametrize("section", ["images", "categories"])
@pytest.mark.parametrize("entry", [None, 3, {}, {"id": None}, {"id": 7, "file_name": None, "name": None}])
def test_an_entry_of_no_use_is_refused_by_whoever_reads_it(file, section, entry):
    """It was passed over without a word."""
    path = file()
    content = json.loads(path.read_text())
    content[section].append(entry)
    path.write_text(json.dumps(content))
    for read in (read_ids, export_ids):
        with pytest.raises(
            DataError, match=rf"own\.json: an entry of `{section}` (is not|has no usable).*leave it out"
        ):
            read(path)


def test_images_may_have_ids_alone(file):
    path = file()
    content = json.loads(path.read_text())
    content["images"].append({"id": 3, "coco_url": "http://somewhere/3.jpg"})
    path.write_text(json.dumps(content))
    assert set(read_ids(path).images) == {"1.jpg", "2.png"} and set(export_ids(path)[0]) == {"a", "b"}


def test_predict_writes_them(ufo, ckpt, images, file, tmp_path):
    words = ("predict", images, "--ckpt", ckpt, "--task", "caption")
    answer = ufo(*words, "--json", tmp_path / "r.json", "--ids", file())
    records = json.loads((tmp_path / "r.json").read_text())
    assert answer.code == 0 and {r["image_id"] for r in records} == {"a", "b"}
    refused = ufo(*words, "--ids", file())
    assert refused.code == 1 and "--json" in refused.err[-1]


def test_a_device_is_not_replaced(ufo, ckpt, images, tmp_path):
    import os

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    answer = ufo("predict", images / "1.jpg", "--ckpt", ckpt, "--task", "caption", "--json", pipe)
    assert answer.code == 1 and "device or a pipe" in answer.err[-1] and pipe.is_fifo()


def test_what_a_link_points_to_is_left_alone(ufo, ckpt, images, tmp_path):
    """A picture in the chosen folder may be a link to a file elsewhere: the link is replaced."""
    kept = tmp_path / "precious.png"
    kept.write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.png").symlink_to(kept)
    answer = ufo(
        "predict", images / "1.jpg", "--ckpt", ckpt, "--task", "caption", "--out", f"{tmp_path}/out/"
    )
    assert answer.code == 0 and kept.read_bytes() == b"mine"
    assert not (tmp_path / "out" / "1.png").is_symlink()
