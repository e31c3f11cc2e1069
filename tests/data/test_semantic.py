from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from files import shared, write_image
from torchvision import tv_tensors

from ufo.data.datasets import SemanticDataset
from ufo.data.datasets.semantic import read_classes
from ufo.data.errors import DataError
from ufo.data.source import Source

CLASSES = ("sky", "tree", "road")


def write_label(path, labels, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.asarray(labels, dtype=np.uint8), mode="L").convert(mode).save(path)


def make(folder, labels=None, names=("a",), size=(3, 4), **options):
    labels = np.arange(12).reshape(3, 4) % 4 if labels is None else labels
    for name in names:
        write_image(folder / "images" / f"{name}.jpg", *size)
        write_label(folder / "labels" / f"{name}.png", labels)
    options = {"classes": CLASSES, **options}
    return SemanticDataset(folder / "images", folder / "labels", **options)


def test_ade20k_sample():
    folder = shared("ade20k_sample")
    classes = [str(k) for k in range(150)]
    data = SemanticDataset(folder, folder, classes=classes, reduce_zero_label=True, train=True)
    assert len(data) == 3
    for i in range(3):
        raw = np.array(PIL.Image.open(folder / f"ADE_val_{i + 1:08d}.png")).astype(int)
        sample = data[i]
        assert sample["semantic"].dtype == torch.uint8
        assert isinstance(sample["semantic"], tv_tensors.Mask)
        expected = np.where(raw == 0, 255, raw - 1)
        assert np.array_equal(sample["semantic"], expected)
        assert torch.equal(data.target(i).semantic, sample["semantic"])
        assert sample["image"].shape[1:] == sample["semantic"].shape == data.target(i).size
    assert not data.problems.counts
    assert data.portrait().tolist() == [data.target(i).size[1] < data.target(i).size[0] for i in range(3)]


@pytest.mark.parametrize(("reduce", "expected"), [(True, [255, 0, 1, 2, 255]), (False, [0, 1, 2, 255, 255])])
def test_numbers_to_classes(tmp_path, reduce, expected):
    """255 stays "ignore" in both; a number that no class has is ignored and counted."""
    data = make(tmp_path, [[0, 1, 2, 3, 255]], size=(1, 5), reduce_zero_label=reduce, train=True)
    assert data[0]["semantic"].tolist() == [expected]
    assert data.problems.counts.total() == (0 if reduce else 1)


def test_palette_and_16_bit_maps_keep_their_numbers(tmp_path):
    data = make(tmp_path, train=True)
    expected = torch.tensor([[0, 1, 2, 255], [0, 1, 2, 255], [0, 1, 2, 255]])
    path = tmp_path / "labels" / "a.png"
    labels = np.arange(12).reshape(3, 4) % 4
    palette = PIL.Image.fromarray(labels.astype(np.uint8), mode="P")
    palette.putpalette([200, 100, 50] * 4)
    palette.save(path)
    assert torch.equal(data[0]["semantic"].long(), expected)
    PIL.Image.fromarray((labels + 256 * (labels == 3)).astype(np.uint16)).save(path)
    assert torch.equal(data[0]["semantic"].long(), expected)


def test_records_are_sorted_by_path_and_paired_by_stem(tmp_path):
    data = make(tmp_path, names=("b", "sub/a", "a10", "a9"))
    stems = [data.target(i).image_id for i in range(len(data))]
    assert stems == ["a10", "a9", "b", "sub/a"]
    assert data.target(3).image.endswith("images/sub/a.jpg")
    assert data[0].keys() == {"image"}


def test_suffixes(tmp_path):
    write_image(tmp_path / "images" / "x_photo.png", 3, 4)
    write_image(tmp_path / "images" / "other.jpg", 3, 4)
    write_label(tmp_path / "labels" / "x_ids.png", np.ones((3, 4)))
    options = {"classes": CLASSES, "image_suffix": "_photo.png", "label_suffix": "_ids.png"}
    data = SemanticDataset(tmp_path / "images", tmp_path / "labels", train=True, **options)
    assert len(data) == 1 and (data[0]["semantic"] == 1).all()


def test_classes_from_a_text_file(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffsky\r\n tree \n\nroad, wet\n".encode())
    assert read_classes(path) == ("sky", "tree", "road, wet")
    assert read_classes(["a", "b"]) == ("a", "b")
    with pytest.raises(DataError, match=r"classes file .* does not exist"):
        read_classes(tmp_path / "none.txt")
    for bad in ([], ["a", "a"], [str(k) for k in range(256)]):
        with pytest.raises(DataError, match=r"[Cc]lass names"):
            read_classes(bad)


def test_missing_files_are_named_at_once(tmp_path):
    make(tmp_path, names=("a", "b"))
    options = {"classes": CLASSES}
    (tmp_path / "labels" / "b.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images have no label map, the first is .*b\.png"):
        SemanticDataset(tmp_path / "images", tmp_path / "labels", **options)
    with pytest.raises(DataError, match=r"no \*\.bmp in"):
        SemanticDataset(tmp_path / "images", tmp_path, image_suffix=".bmp", **options)
    with pytest.raises(DataError, match=r"The labels folder .*nowhere does not exist"):
        SemanticDataset(tmp_path / "images", tmp_path / "nowhere", **options)


def test_unusable_label_maps_are_named(tmp_path):
    data = make(tmp_path, train=True)
    path = tmp_path / "labels" / "a.png"
    write_label(path, np.zeros((3, 4)), mode="RGB")
    with pytest.raises(DataError, match=r"a\.png: .* this is a RGB picture"):
        data[0]
    write_label(path, np.zeros((4, 3)))
    with pytest.raises(DataError, match=r"a\.png: the label map is \(4, 3\)"):
        data[0]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 20])
    with pytest.raises(DataError, match=r"a\.png"):
        data[0]
    write_label(path, np.zeros((3, 4)))
    (tmp_path / "images" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.jpg: not an image"):
        data[0]
    assert data.target(0).semantic.shape == (3, 4)


def test_numbers_of_the_files_and_ignored_classes(tmp_path):
    options = {"numbers": [7, 300, 0], "unused": [5], "train": True}
    data = make(tmp_path, [[7, 0, 5, 255]], size=(1, 4), **options)
    path = tmp_path / "labels" / "a.png"
    PIL.Image.fromarray(np.array([[7, 300, 0, 5, 255, 8]], dtype=np.uint16)).save(path)
    assert data.target(0).semantic.tolist() == [[0, 1, 2, 255, 255, 255]]
    assert data.problems.counts == {"label number without a class, ignored": 1}
    some = make(tmp_path, [[7, 0, 5, 8]], size=(1, 4), ignore=["sky"], **options)
    assert some.classes == ("tree", "road")
    assert some[0]["semantic"].tolist() == [[255, 1, 255, 255]]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"numbers": [1, 2]}, "`numbers` must be 3 different numbers"),
        ({"numbers": [1, 2, 2]}, "`numbers` must be 3 different numbers"),
        ({"numbers": [1, 2, 70000]}, "between 0 and 65535"),
        ({"ignore": ["sea"]}, "`ignore` names sea"),
    ],
)
def test_unusable_numbers(tmp_path, options, match):
    with pytest.raises(DataError, match=match):
        make(tmp_path, **options)


def test_split_file(tmp_path):
    (tmp_path / "val.txt").write_text("b\na9 1\n", encoding="utf-8")
    data = make(tmp_path, names=("b", "a10", "a9"), split=tmp_path / "val.txt")
    assert [data.target(i).image_id for i in range(len(data))] == ["b", "a9"]
    (tmp_path / "val.txt").write_text("c\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"1 of 1 images have no label map, the first is .*c\.png"):
        make(tmp_path, split=tmp_path / "val.txt")


def write_turned(path, height, width, orientation=6):
    """A picture that is stored with this size and says how it wants to be turned."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    write_image(path, height, width, exif=exif)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_map_that_says_how_it_wants_to_be_turned_is_taken_as_stored(train, orientation, tmp_path):
    """Tools copy a photo's EXIF data into the map; the picture follows the map's pixels, in both halves."""
    make(tmp_path, np.zeros((3, 4)))
    write_turned(tmp_path / "images" / "a.jpg", 3, 4, orientation)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(np.ones((3, 4), dtype=np.uint8)).save(tmp_path / "labels" / "a.png", exif=exif)
    data = SemanticDataset(tmp_path / "images", tmp_path / "labels", classes=CLASSES, train=train)
    assert data[0]["image"].shape[1:] == data.target(0).size == data.target(0).semantic.shape == (3, 4)
    assert data.portrait().tolist() == [False]


@pytest.mark.parametrize(
    "suffixes", [(".JPG", ".png"), (".jpeg", ".TIF"), (".png", ".PNG"), (".webp", ".bmp")]
)
def test_any_suffix_in_any_case(tmp_path, suffixes):
    image, label = suffixes
    make(tmp_path, np.zeros((3, 4)))
    write_image(tmp_path / "images" / f"b{image}", 3, 4)
    write_label(tmp_path / "labels" / f"b{label}", np.ones((3, 4)))
    options = {"classes": CLASSES, "train": True}
    data = SemanticDataset(tmp_path / "images", tmp_path / "labels", **options)
    assert [data.target(i).image_id for i in range(len(data))] == ["a", "b"]
    assert (data[1]["semantic"] == 1).all() and not data.problems.left_out
    only = SemanticDataset(tmp_path / "images", tmp_path / "labels", image_suffix=image.swapcase(), **options)
    assert only.target(len(only) - 1).image_id == "b"


def test_images_and_maps_without_each_other_are_counted(tmp_path):
    make(tmp_path, names=("a", "b", "c"))
    (tmp_path / "labels" / "b.png").unlink()
    (tmp_path / "images" / "c.jpg").unlink()
    data = SemanticDataset(tmp_path / "images", tmp_path / "labels", classes=CLASSES, train=True)
    assert len(data) == 1
    assert data.problems.left_out == {"image without a label map": 1, "label map without an image": 1}
    with pytest.raises(DataError, match="1 of 2 images have no label map"):
        SemanticDataset(tmp_path / "images", tmp_path / "labels", classes=CLASSES)


def test_two_images_of_one_name(tmp_path):
    make(tmp_path)
    write_image(tmp_path / "images" / "a.png", 3, 4)
    data = SemanticDataset(tmp_path / "images", tmp_path / "labels", classes=CLASSES, train=True)
    assert len(data) == 1 and data.problems.left_out.total() == 1


def test_lossy_maps_are_said(tmp_path):
    make(tmp_path)
    (tmp_path / "labels" / "a.png").rename(tmp_path / "labels" / "a.old")
    write_label(tmp_path / "labels" / "a.jpg", np.zeros((3, 4)))
    data = SemanticDataset(tmp_path / "images", tmp_path / "labels", classes=CLASSES, train=True)
    assert len(data) == 1 and data.problems.doubtful == {"label map in a lossy format": 1}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("stored", [True, False])
def test_turned_photos_are_read_as_their_map_fits(tmp_path, train, stored):
    make(tmp_path)
    write_turned(tmp_path / "images" / "a.jpg", 3, 4)
    size = (3, 4) if stored else (4, 3)
    write_label(tmp_path / "labels" / "a.png", np.zeros(size))
    data = SemanticDataset(tmp_path / "images", tmp_path / "labels", classes=CLASSES, train=train)
    assert tuple(data[0]["image"].shape[1:]) == size == data.target(0).size
    assert data.portrait().tolist() == [not stored]


@pytest.mark.parametrize("train", [True, False])
def test_another_size_is_an_error_in_both_halves(tmp_path, train):
    data = make(tmp_path, np.zeros((6, 8)), train=train)
    with pytest.raises(DataError, match=r"the label map is \(6, 8\) \(height, width\), its image \(3, 4\)"):
        data[0]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_source_of_which_no_pixel_counts_is_refused(tmp_path, split):
    for folder in ("images", "maps"):
        (tmp_path / folder).mkdir()
    for i in range(3):
        PIL.Image.new("RGB", (40, 36)).save(tmp_path / "images" / f"{i}.jpg")
        PIL.Image.new("L", (40, 36), 255).save(tmp_path / "maps" / f"{i}.png")

    def read():
        return SemanticDataset(
            tmp_path / "images", tmp_path / "maps", classes=["sky"], train=split == "train"
        )

    source = Source(name="land", task="semantic_segmentation", **{split: read})
    with pytest.raises(ValueError, match=r"none of the 3 images of its (train|val) data has a usable pixel"):
        source.data(split)
    PIL.Image.new("L", (40, 36), 0).save(tmp_path / "maps" / "2.png")
    assert len(source.data(split)) == 3
