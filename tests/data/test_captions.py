from __future__ import annotations

import pytest
import torch
from files import write_image, write_json

from ufo.data.datasets import CaptionDataset, clean_text
from ufo.data.datasets.captions import SHARED_ID, image_id
from ufo.data.errors import DataError
from ufo.data.texts import NO_TEXT

TRAIN = [
    {"image": "val2014/COCO_val2014_000000000042.jpg", "caption": "A man's  hat.", "image_id": "x"},
    {"image": "train2014/COCO_train2014_000000000007.jpg", "caption": "Two dogs"},
    {"image": "val2014/COCO_val2014_000000000042.jpg", "caption": "A T-shirt, red!"},
]
TEST = [
    {"image": "val2014/COCO_val2014_000000000042.jpg", "caption": ["A man's hat.", "A hat"]},
    {"image": "val2014/COCO_val2014_000000000005.jpg", "caption": ["Nothing."]},
]


def make(folder, content, references=None, **options):
    for record in content:
        write_image(folder / record["image"], 20, 30)
    path = write_json(folder / "karpathy.json", content)
    if references is not None:
        references = write_json(folder / "gt.json", references)
    return CaptionDataset(folder, path, references=references, **options)


def test_clean_text_is_the_references_rule():
    assert clean_text("  A man's T-shirt,\n is   RED! ") == "a mans tshirt is red"
    assert clean_text("...") == ""


def test_training_has_a_sample_per_pair(tmp_path):
    data = make(tmp_path, TRAIN, train=True)
    assert data.provides == {"caption"}
    texts = sorted(data[i]["text"] for i in range(len(data)))
    assert texts == ["a mans hat", "a tshirt red", "two dogs"]
    for i in range(3):
        assert ("dogs" in data[i]["text"]) == ("train2014" in data.target(i).image)
    raw = make(tmp_path, TRAIN, train=True, clean=False)
    assert "A man's hat." in [raw[i]["text"] for i in range(3)]  # of two blanks one


def test_training_takes_lists_of_captions_apart(tmp_path):
    assert len(make(tmp_path, TEST, train=True)) == 3


def test_evaluation_has_a_sample_per_image_with_all_references(tmp_path):
    data = make(tmp_path, TEST)
    assert len(data) == 2 and data[0].keys() == {"image"}
    target = data.target(0)
    assert target.captions == ["A man's hat.", "A hat"]  # as written: the metric tokenises
    assert (target.image_id, target.size, target.id) == (42, (20, 30), 0)
    pairs = make(tmp_path, TRAIN)
    assert [len(pairs.target(i).captions) for i in range(len(pairs))] == [2, 1]


def test_references_from_a_coco_caption_file(tmp_path):
    annotations = [
        {"image_id": 5, "id": 1, "caption": "an empty room"},
        {"image_id": 42, "id": 2, "caption": "a hat"},
        {"image_id": 42, "id": 3, "caption": "a brown hat"},
        {"image_id": 99, "id": 4, "caption": "of another image"},
    ]
    data = make(tmp_path, TEST, {"images": [], "annotations": annotations})
    assert data.target(0).captions == ["a hat", "a brown hat"]
    assert data.target(1).captions == ["an empty room"]
    with pytest.raises(DataError, match=r"000000000005\.jpg has no reference .*image id 5"):
        make(tmp_path, TEST, {"annotations": annotations[1:]})
    with pytest.raises(DataError, match="no list `annotations`"):
        make(tmp_path, TEST, [])


def test_image_ids():
    assert image_id("val2014/COCO_val2014_000000522418.jpg", "coco_522418") == 522418
    assert image_id("images/000012.jpg", 3) == 3
    assert image_id("images/000012.jpg") == 12
    assert image_id("images/garden.jpg", "coco_1") == "coco_1"
    assert image_id("images/garden.jpg") == "images/garden.jpg"


def test_two_images_with_one_id_cannot_share_references(tmp_path):
    records = [{"image": "a/x_1.jpg", "caption": ["a"]}, {"image": "b/x_1.jpg", "caption": ["b"]}]
    with pytest.raises(DataError, match=r"two images have the same id 1, .*number the images anew"):
        make(tmp_path, records, {"annotations": []})


def test_empty_captions_are_counted_and_left_out(tmp_path):
    data = make(tmp_path, [*TRAIN, {"image": TRAIN[1]["image"], "caption": " . "}], train=True)
    assert len(data) == 3 and data.problems.counts == {"empty caption": 1}


def test_portrait_is_per_sample(tmp_path):
    data = make(tmp_path, TRAIN, train=True)
    write_image(tmp_path / TRAIN[1]["image"], 30, 20)
    tall = [data.target(i).image_id == 7 for i in range(3)]
    assert data.portrait().tolist() == tall and data.portrait().dtype == torch.bool


def test_unreadable_image_still_has_a_target(tmp_path):
    data = make(tmp_path, TEST)
    (tmp_path / TEST[0]["image"]).write_bytes(b"")
    with pytest.raises(DataError, match="000000000042"):
        data[0]
    assert data.target(0).captions and data.problems.counts == {"unreadable image": 1}


@pytest.mark.parametrize("content", [{}, [], ["a"], [{"image": "a.jpg"}], [{"caption": "a"}]])
def test_json_of_another_kind(tmp_path, content):
    path = write_json(tmp_path / "x.json", content)
    with pytest.raises(DataError, match=r"x\.json"):
        CaptionDataset(tmp_path, path)


def test_wrong_paths_are_named(tmp_path):
    path = write_json(tmp_path / "x.json", TEST)
    with pytest.raises(DataError, match="set this data set's `images`"):
        CaptionDataset(tmp_path, path)
    make(tmp_path, TEST)
    with pytest.raises(DataError, match=r"references file .* does not exist"):
        CaptionDataset(tmp_path, path, references=tmp_path / "no.json")


def flickr(folder, images, **options):
    for image in images:
        write_image(folder / image["filename"], 20, 30)
    return CaptionDataset(folder, write_json(folder / "dataset.json", {"images": images}), **options)


def test_karpathys_own_file_for_all_splits(tmp_path):
    images = [
        {
            "filename": f"{number}.jpg",
            "split": split,
            "imgid": k,
            "sentences": [{"raw": f"Dog, number {n}.", "tokens": ["dog"]} for n in range(5)],
        }
        for k, (number, split) in enumerate([(1000092795, "train"), (36979, "test"), (65567, "test")])
    ]
    train = flickr(tmp_path, images, split="train", train=True)
    assert [train[i]["text"] for i in range(len(train))] == [f"dog number {n}" for n in range(5)]
    test = flickr(tmp_path, images, split="test")
    assert [test.target(i).image_id for i in range(2)] == [36979, 65567]
    assert test.target(1).captions == [f"Dog, number {n}." for n in range(5)]
    with pytest.raises(DataError, match="no split None; set `split` to one of: test, train"):
        flickr(tmp_path, images)
    del images[1]["sentences"]
    with pytest.raises(DataError, match="image 1 needs `filename`"):
        flickr(tmp_path, images, split="test")
    with pytest.raises(DataError, match="has no splits"):
        make(tmp_path, TRAIN, split="train")


@pytest.mark.parametrize("caption", [None, 3, {"a": 1}, [None], [["a"]]])
def test_a_caption_that_is_no_text_is_counted_and_left_out(tmp_path, caption):
    records = [*TRAIN, {"image": TRAIN[1]["image"], "caption": caption}]
    for train in (True, False):
        data = make(tmp_path, records, train=train)
        assert data.problems.left_out == {NO_TEXT: 1}
    assert sorted(text for i in range(len(data)) for text in data.target(i).captions) == sorted(
        text for i in range(len(data)) for text in make(tmp_path, TRAIN).target(i).captions
    )
    with pytest.raises(DataError, match="has no reference caption"):
        make(tmp_path, [{"image": TRAIN[1]["image"], "caption": caption}])


def test_results_of_images_with_one_id_are_told_apart(tmp_path):
    """Cameras number anew in every folder; the scores of such results would be of the last one alone."""
    names = ["a/IMG_1.jpg", "b/IMG_1.jpg", "b/IMG_2.jpg"]
    data = make(tmp_path, [{"image": name, "caption": "An owl"} for name in names])
    assert [data.target(i).image_id for i in range(3)] == ["a/IMG_1.jpg", "b/IMG_1.jpg", 2]
    assert data.problems.doubtful == {SHARED_ID: 2}
