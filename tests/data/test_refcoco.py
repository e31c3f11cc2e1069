from __future__ import annotations

import collections
import os
import pickle

import numpy as np
import pytest
import torch
from files import coco_content, write_image, write_json
from pycocotools import mask as coco_mask

from ufo.cli.data_advice import advice
from ufo.data.datasets import RefCocoDataset
from ufo.data.datasets.coco_file import LEAVING
from ufo.data.datasets.refcoco import OTHER_IMAGE, read_refs
from ufo.data.errors import DataError
from ufo.data.problems import NEGATIVE_SIZE
from ufo.data.texts import NO_TEXT
from ufo.score.truth.refer import read_refer

REFS = "refs(unc).p"


def ref(ann_id, split, *texts, image_id=10):
    sentences = [
        {"sent_id": k, "sent": text, "raw": text.upper(), "tokens": text.split()}
        for k, text in enumerate(texts)
    ]
    return {
        "ref_id": ann_id,
        "ann_id": ann_id,
        "image_id": image_id,
        "category_id": 7,
        "split": split,
        "file_name": f"COCO_train2014_0_{ann_id}.jpg",  # not the name of the image
        "sentences": sentences,
    }


DEFAULT = [
    ref(100, "train", "the left one", "apple, left!"),
    ref(101, "train", "man's cup", image_id=11),
    ref(100, "testA", "left"),
    ref(101, "testB", "right", image_id=11),
]


def make(folder, refs=None, annotations=({}, {"image_id": 11, "bbox": [1, 2, 30, 40]}), **options):
    for k in range(2):
        write_image(folder / "images" / f"{k}.jpg")
    write_json(folder / "ref" / "instances.json", coco_content(*annotations, images=2))
    (folder / "ref" / REFS).write_bytes(pickle.dumps(DEFAULT if refs is None else refs, 2))
    options = {"refs": REFS, "split": "train", **options}
    return RefCocoDataset(folder / "images", folder / "ref", **options)


def test_every_sentence_is_a_sample(tmp_path):
    data = make(tmp_path, train=True)
    assert data.provides == {"expression", "boxes"}
    samples = [data[i] for i in range(len(data))]
    assert [s["text"] for s in samples] == ["the left one", "apple left", "mans cup"]
    assert [s["boxes"].tolist() for s in samples] == [
        [[4, 8, 24, 24]],
        [[4, 8, 24, 24]],
        [[1, 2, 31, 42]],
    ]
    assert samples[0].keys() == {"image", "boxes", "text"}
    assert samples[0]["boxes"].dtype == torch.float32
    raw = make(tmp_path, clean=False)
    assert raw[1]["text"] == "apple, left!"


def test_evaluation(tmp_path):
    data = make(tmp_path, split="testB")
    assert len(data) == 1 and data[0].keys() == {"image", "text"}
    target = data.target(0)
    assert (target.text, target.image_id, target.size) == ("right", 11, (48, 64))
    assert target.image.endswith("images/1.jpg")
    assert target.boxes.tolist() == [[1, 2, 31, 42]] and target.masks is None
    assert data.portrait().tolist() == [False]


def test_split_is_an_exact_name(tmp_path):
    assert [len(make(tmp_path, split=s)) for s in ("train", "testA", "testB")] == [3, 1, 1]
    with pytest.raises(DataError, match=r"no split 'test'; set `split` to one of: testA, testB, tr"):
        make(tmp_path, split="test")


def test_masks_from_polygons_and_rle_parts(tmp_path):
    """RefCLEF has lists of RLE: a mask is the union of its parts; without any it is all zero."""
    parts = []
    for x in (0, 10):
        part = np.zeros((48, 64), dtype=np.uint8, order="F")
        part[:15, x : x + 15] = 1
        rle = coco_mask.encode(part)
        parts.append({"size": [48, 64], "counts": rle["counts"].decode()})
    refs = [ref(100, "train", "a"), ref(101, "train", "b"), ref(102, "train", "c")]
    annotations = ({}, {"segmentation": parts}, {"segmentation": []})
    data = make(tmp_path, refs, annotations, train=True, masks=True)
    areas = []
    for i in range(3):
        mask = data[i]["masks"]
        assert np.array_equal(coco_mask.decode(data.target(i).masks[0]), mask[0])
        areas.append(int(mask.sum()))
    assert areas == [320, 15 * 25, 0]
    assert not data.problems.counts


def test_bad_refs_are_counted_in_training_and_kept_at_evaluation(tmp_path):
    refs = [
        ref(100, "train", "good", "  ! "),
        ref(101, "train", "outside"),
        ref(999, "train", "of nothing"),
        ref(100, "train", "no image", image_id=77),
    ]
    annotations = ({}, {"bbox": [70, 8, 5, 5]})
    data = make(tmp_path, refs, annotations, train=True)
    assert [data[i]["text"] for i in range(len(data))] == ["good"]
    assert data.problems.counts == {
        "empty sentence": 1,
        "box outside its image": 1,
        "ref whose annotation is not in the instances file": 1,
        "ref whose image is not in the instances file": 1,
    }
    with pytest.raises(DataError, match="ref 999 is a ref whose annotation is not in the instances file"):
        make(tmp_path, refs, annotations)
    assert len(make(tmp_path, refs[:2], annotations)) == 3


@pytest.mark.parametrize(
    ("box", "kind", "refused"),
    [
        (None, "ref whose annotation has no usable box", True),
        ([1, 2, 3], "ref whose annotation has no usable box", True),
        ([float("nan"), 1, 5, 5], "ref whose annotation has no usable box", True),
        ([5, 5, -3, 4], NEGATIVE_SIZE, False),
        ([5, 5, 0, 4], "box smaller than a pixel", False),
        ([70, 8, 5, 5], "box outside its image", False),
    ],
)
def test_a_box_of_no_use_is_called_so(tmp_path, box, kind, refused):
    """The ref was said to lack its image, or its box to be outside."""
    refs = [ref(100, "train", "good"), ref(101, "train", "bad")]
    annotations = ({}, {"bbox": box})
    data = make(tmp_path, refs, annotations, train=True)
    assert len(data) == 1 and data.problems.left_out == {kind: 1} and advice(kind, scored=False)
    if not refused:
        assert make(tmp_path, refs, annotations).problems.doubtful == {kind: 1}
        return
    with pytest.raises(DataError, match=f"ref 101 is a {kind}"):
        make(tmp_path, refs, annotations)
    with pytest.raises(DataError, match=f"ref 101 is a {kind}"):
        read_refer(tmp_path / "ref", "train", REFS)


# --- pickles from outside


class Attack:
    """Unpickles as `function(*args)`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_in_a_pickle_is_executed(tmp_path, protocol):
    marker = tmp_path / "executed"
    path = tmp_path / REFS
    attacks = [
        Attack(os.mkdir, str(marker)),
        Attack(eval, f"__import__('os').mkdir({str(marker)!r})"),
        Attack(getattr, dict, "fromkeys"),
        np.zeros(3),
        torch.zeros(3),
        collections.OrderedDict(a=1),
    ]
    for attack in attacks:
        for content in (attack, [{**DEFAULT[0], "split": attack}]):
            path.write_bytes(pickle.dumps(content, protocol))
            with pytest.raises(DataError, match=r"refs\(unc\)\.p is refused: it wants to run") as e:
                read_refs(path)
            assert "\n" not in str(e.value)
    assert not marker.exists()
    pickle.loads(pickle.dumps(attacks[0], protocol))
    assert marker.exists()  # the attack is a real one


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol(tmp_path, protocol):
    refs = [{**DEFAULT[0], "extra": ({1, 2}, 1.5, None, True, "é", 10**20)}]
    (tmp_path / REFS).write_bytes(pickle.dumps(refs, protocol))
    assert read_refs(tmp_path / REFS) == refs


def test_pickle_of_python_2(tmp_path):
    """Its texts are byte strings, opcode U with a length."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    sentence = b"}(%bu" % (text(b"sent") + text(b"caf\xe9 noir"))  # not even UTF-8
    ids = text(b"ann_id") + b"K\x64" + text(b"image_id") + b"K\x0a"
    split = text(b"split") + text(b"train")
    record = b"}(%b%b%b](%beu" % (ids, split, text(b"sentences"), sentence)
    (tmp_path / REFS).write_bytes(b"\x80\x02](%be." % record)
    (record,) = read_refs(tmp_path / REFS)
    assert record["ann_id"] == 100 and record["split"] == "train"
    assert record["sentences"][0]["sent"] == "caf\ufffd noir"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        pickle.dumps(DEFAULT)[:-20],
        pickle.dumps({}),
        pickle.dumps([1]),
        pickle.dumps([{**DEFAULT[0], "sentences": [{"raw": "a"}]}]),
        pickle.dumps([{**DEFAULT[0], "image_id": [1]}]),
        pickle.dumps([{"ann_id": 1}]),
    ],
)
def test_broken_pickles_are_named(tmp_path, content):
    path = tmp_path / REFS
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"refs\(unc\)\.p"):
        read_refs(path)


def test_wrong_paths_are_named(tmp_path):
    make(tmp_path)
    images, root = tmp_path / "images", tmp_path / "ref"
    with pytest.raises(DataError, match=r"The root folder .* does not exist"):
        RefCocoDataset(images, tmp_path / "no", refs=REFS, split="train")
    with pytest.raises(DataError, match=r"The refs file .*refs\(umd\)\.p does not exist"):
        RefCocoDataset(images, root, refs="refs(umd).p", split="train")
    with pytest.raises(DataError, match=r"The instances file .*other\.json does not exist"):
        RefCocoDataset(images, root, refs=REFS, split="train", instances="other.json")


def test_sentences_and_phrases_are_told_apart_where_the_file_does(tmp_path):
    refs = [ref(100, "train", "a", "b")]
    assert make(tmp_path, refs).provides == {"expression", "boxes"}
    refs[0]["sentences"][0]["is_sentence"], refs[0]["sentences"][1]["is_sentence"] = True, False
    data = make(tmp_path, refs, train=True, masks=True)
    assert data.provides == {"expression", "boxes", "masks", "sentence"}
    assert (
        [data[i]["sentence"] for i in range(2)]
        == [data.target(i).sentence for i in range(2)]
        == [True, False]
    )


@pytest.mark.parametrize("sent", [None, 5, {"a": 1}, ["left"]])
def test_an_expression_that_is_no_text_is_counted(tmp_path, sent):
    refs = [ref(100, "train", "the left one"), ref(101, "train", image_id=11)]
    refs[1]["sentences"] = [{"sent": sent}]
    data = make(tmp_path, refs, train=True)
    assert data.problems.left_out == {NO_TEXT: 1} and len(data) == 1
    assert len(make(tmp_path, refs)) == 2  # evaluation keeps every sample


def test_ids_used_twice_in_the_instances_file(tmp_path):
    data = make(tmp_path, annotations=({}, {"image_id": 11}, {"id": 100, "bbox": [0, 0, 9, 9]}), train=True)
    assert data.problems.doubtful == {"annotation id used twice": 1}
    assert data[0]["boxes"].tolist() == [[4, 8, 24, 24]]
    content = coco_content({}, images=2)
    content["images"][1]["id"] = 10
    write_json(tmp_path / "ref" / "instances.json", content)
    with pytest.raises(DataError, match=r"the images 0\.jpg and 1\.jpg have the same id 10"):
        RefCocoDataset(tmp_path / "images", tmp_path / "ref", refs=REFS, split="train")


def test_an_image_of_a_size_that_none_has_is_left_out_of_training(tmp_path):
    make(tmp_path)
    content = coco_content({}, {"image_id": 11}, images=2)
    content["images"][1] |= {"height": 10**9, "width": 10**9}
    write_json(tmp_path / "ref" / "instances.json", content)
    options = {"refs": REFS, "split": "train"}
    data = RefCocoDataset(tmp_path / "images", tmp_path / "ref", train=True, **options)
    assert data.problems.left_out == {"image without a usable size": 1} and len(data) == 2
    with pytest.raises(DataError, match="more than 80000000 are not allowed"):
        RefCocoDataset(tmp_path / "images", tmp_path / "ref", **options)


@pytest.mark.parametrize("train", [True, False])
def test_a_ref_whose_annotation_is_of_another_image(tmp_path, train):
    """Else the box of one picture would silently be looked for in another."""
    refs = [ref(100, "train", "right"), ref(101, "train", "wrong")]  # annotation 101 is of image 11
    data = make(tmp_path, refs, train=train)
    assert [data.said(i) for i in range(len(data))] == [["right"], ["wrong"]][: 2 - train]
    assert data.problems.counts == {OTHER_IMAGE: 1}


def test_corners_in_place_of_sizes_are_said(tmp_path):
    data = make(tmp_path, [ref(100, "train", "a")], ({"bbox": [40, 30, 60, 44]},), train=True)
    assert data.problems.doubtful == {LEAVING: 1} and len(data) == 1
