"""Every option of `dataset=`: complete, and it reads files in the layout and form of its release."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from files import coco_content, write_image, write_json
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ufo.cli.data_find import all_datasets
from ufo.data.contract import Dataset
from ufo.data.errors import DataError
from ufo.data.prepare import preparations

INFO = {"title", "url", "licence", "account", "images"}
# fmt: off
PUBLISHED = {
    "ade20k", "cityscapes", "coco_captions", "coco_instances", "coco_stuff", "flickr30k_captions",
    "llava_665k", "llava_onevision", "lvis", "mapillary", "nuimages", "nuimages_seg", "objects365",
    "openimages", "openimages_masks", "paco_lvis", "pascal_context", "pascal_part", "reasonseg",
    "refclef", "refclef_res", "refcoco", "refcoco_plus", "refcoco_plus_res", "refcoco_res",
    "refcocog", "refcocog_res", "voc",
}
# fmt: on
"""What instruction tuning and the code base of the field have."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return {dataset.name: dataset for dataset in all_datasets(root)}


def root_of(found) -> Path:
    return Path(found["coco_instances"].cfg.paths.data)


def test_all_are_there_and_say_where_they_come_from(found):
    assert set(found) >= PUBLISHED
    conversions = set(preparations())
    for name, dataset in found.items():
        assert set(dataset.info) >= INFO, name
        assert set(dataset.info) <= INFO | {"objects", "prepare"}, name
        assert isinstance(dataset.info["account"], bool)
        needed = dataset.info.get("prepare", [])
        assert set([needed] if isinstance(needed, str) else needed) <= conversions
        assert dataset.tasks(), name
        training = dataset.splits["train"]
        assert "parts" in training or training.get("train") is True, name
        assert not dataset.splits.get("val", {}).get("train", False), name


def test_missing_files_are_one_clear_sentence(tmp_path):
    for dataset in all_datasets(tmp_path):
        for split in dataset.splits if dataset.name in PUBLISHED else ():
            with pytest.raises(DataError, match="does not exist"):
                dataset.build(split)


SPLITS = ("train", "test")

# --- a tree of each layout: what the published paths and names must find

BOX = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"


def coco(path: Path, **image) -> Path:
    content = coco_content({"segmentation": [[4, 8, 24, 8, 24, 24, 4, 24]]})
    content["images"][0].update(image)
    return write_json(path, content)


def label(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((48, 64), value, dtype=np.uint8)).save(path)


def objects365(root: Path) -> None:
    home = root / "Objects365" / "Obj365_v2"
    for split in ("train", "val"):
        name = "images/v2/patch16/objects365_v2_00908727.jpg"
        coco(home / "annotations" / f"zhiyuan_objv2_{split}.json", file_name=name)
        write_image(home / split / "patch16" / "objects365_v2_00908727.jpg")


def openimages(root: Path) -> None:
    home = root / "OpenImages"
    names = {"train": "oidv6-train-annotations-bbox.csv", "validation": "validation-annotations-bbox.csv"}
    for split, name in names.items():
        write_image(home / "OpenImages" / split / "a.jpg")
        (home / "annotations").mkdir(exist_ok=True)
        (home / "annotations" / name).write_text(f"{BOX}\na,x,/m/1,1,0,1,0,1,0,0,0\n")
        masks = f"{split}-annotations-object-segmentation.csv"
        header = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"
        (home / "annotations" / masks).write_text(f"{header}\na.png,a,/m/1,01,0,1,0,1,0.9,\n")
        label(home / "segmentation" / split / "a.png", 1)
    (home / "annotations" / "class-descriptions-boxable.csv").write_text("/m/1,Tortoise\n")
    for name in ("openimages", "openimages_masks"):
        preparations()[name].run(root)


def lvis(root: Path) -> None:
    for folder, name in (("lvis_v1", "lvis_v1"), ("paco_lvis", "paco_lvis_v1")):
        for split in ("train", "val"):
            url = f"http://images.cocodataset.org/{split}2017/0.jpg"
            coco(root / folder / "annotations" / f"{name}_{split}.json", coco_url=url)
            write_image(root / folder / f"{split}2017" / "0.jpg")


def coco_instances(root: Path) -> None:
    for split in ("train", "val"):
        coco(root / "coco" / "annotations" / f"instances_{split}2017.json")
        write_image(root / "coco" / f"{split}2017" / "0.jpg")


def nuimages(root: Path) -> None:
    for split in ("train", "val"):
        name = "samples/CAM_FRONT/0.jpg"
        coco(root / "nuimages" / "annotations" / f"nuimages_v1.0-{split}.json", file_name=name)
        write_image(root / "nuimages" / name)


def pascal_part(root: Path) -> None:
    coco(root / "pascal_part" / "train.json", file_name="2008_000002.jpg")
    write_image(root / "pascal_part" / "VOCdevkit" / "VOC2010" / "JPEGImages" / "2008_000002.jpg")


def label_maps(root: Path) -> None:
    ade, stuff = root / "ade" / "ADEChallengeData2016", root / "coco_stuff164k"
    nuim, mapillary, cities = root / "nuimages_seg", root / "mapillary", root / "cityscapes"
    for split, short in (("training", "train"), ("validation", "val")):
        write_image(ade / "images" / split / "a.jpg")
        label(ade / "annotations" / split / "a.png", 3)
        write_image(nuim / "images" / split / "a.jpg")
        label(nuim / "annotations" / split / "a.png", 3)
        write_image(stuff / "images" / f"{short}2017" / "000000000009.jpg")
        label(stuff / "annotations" / f"{short}2017" / "000000000009.png", 3)
        write_image(mapillary / split / "images" / "a.jpg")
        label(mapillary / split / "v2.0" / "labels" / "a.png", 2)
        stem = f"{short}/ulm/ulm_000000_000019"
        write_image(cities / "leftImg8bit" / f"{stem}_leftImg8bit.png")
        label(cities / "gtFine" / f"{stem}_gtFine_labelIds.png", 12)
    for name in ("coco_stuff", "cityscapes"):
        preparations()[name].run(root)


def voc(root: Path) -> None:
    for year, sets in (("VOC2012", "Main"), ("VOC2010", "SegmentationContext")):
        home = root / "VOCdevkit" / year
        write_image(home / "JPEGImages" / "2008_000002.jpg")
        label(home / "SegmentationClassContext" / "2008_000002.png", 3)
        (home / "Annotations").mkdir()
        box = "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
        thing = f"<object><name>bird</name><bndbox>{box}</bndbox></object>"
        (home / "Annotations" / "2008_000002.xml").write_text(f"<annotation>{thing}</annotation>")
        for split in ("train", "val"):
            (home / "ImageSets" / sets).mkdir(parents=True, exist_ok=True)
            (home / "ImageSets" / sets / f"{split}.txt").write_text("2008_000002\n")


def captions(root: Path) -> None:
    sentences = [{"raw": "A dog."}]
    images = [{"filename": f"{split}.jpg", "split": split, "sentences": sentences} for split in SPLITS]
    write_json(root / "flickr30k" / "dataset_flickr30k.json", {"images": images})
    home = root / "coco_2014"
    name = "val2014/COCO_val2014_000000000042.jpg"
    write_json(home / "annotations" / "coco_karpathy_train.json", [{"image": name, "caption": "A dog."}])
    write_json(home / "annotations" / "coco_karpathy_test.json", [{"image": name, "caption": ["A dog."]}])
    references = {"images": [{"id": 42}], "annotations": [{"id": 1, "image_id": 42, "caption": "A dog."}]}
    write_json(home / "annotations" / "coco_karpathy_test_gt.json", references)
    for path in (
        home / name,
        *(root / "flickr30k" / "flickr30k-images" / f"{split}.jpg" for split in SPLITS),
    ):
        write_image(path)


def expressions(root: Path) -> None:
    name = "COCO_train2014_000000000042.jpg"
    write_image(root / "coco_2014" / "train2014" / name)
    write_image(root / "refclef" / "saiapr_tc-12" / "00" / "images" / "42.jpg")
    folders = {
        "coco_2014/refcoco": "unc",
        "coco_2014/refcoco+": "unc",
        "coco_2014/refcocog": "umd",
        "refclef": "unc",
    }
    for folder, by in folders.items():
        coco(root / folder / "instances.json", file_name="00/images/42.jpg" if folder == "refclef" else name)
        sentences = [{"sent_id": 1, "sent": "the left dog", "raw": "The left dog.", "tokens": []}]
        ref = {"ref_id": 1, "ann_id": 100, "image_id": 10, "category_id": 7, "sentences": sentences}
        refs = [{**ref, "split": split} for split in ("train", "val")]
        (root / folder / f"refs({by}).p").write_bytes(pickle.dumps(refs, protocol=2))


def conversations(root: Path) -> None:
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    write_json(
        root / "llava-665k" / "llava_v1_5_mix665k.json",
        [
            {"id": "1", "image": "vg/VG_100K_2/1.jpg", "conversations": said},
            {"id": "2", "conversations": said},
        ],
    )
    write_image(root / "vg" / "images" / "1.jpg")
    write_image(root / "llava_onevision" / "images" / "a" / "1.jpg")
    line = json.dumps({"id": "1", "image": "a/1.jpg", "conversations": said})
    (root / "llava_onevision" / "train.jsonl").write_text(line + "\n")
    shape = {"label": "target", "points": [[4, 4], [20, 4], [20, 20]]}
    for split in ("train", "val"):
        folder = root / "reason_seg" / "ReasonSeg" / split
        write_image(folder / "a.jpg")
        write_json(folder / "a.json", {"shapes": [shape], "text": ["what barks"], "is_sentence": False})


def test_each_reads_a_tree_of_its_layout(found):
    """The published folders and names, and every sample and target of it."""
    root = root_of(found)
    for write in (
        *(objects365, openimages, lvis, coco_instances, nuimages, pascal_part, label_maps, voc, captions),
        *(expressions, conversations),
    ):
        write(root)
    for name in sorted(PUBLISHED):
        for split in found[name].splits:
            data = found[name].build(split)
            assert isinstance(data, Dataset), name
            assert len(data) == 1, (name, split)
            sample, target = data[0], data.target(0)
            assert sample["image"].shape == (3, 48, 64) if "caption" not in name else True
            assert target.size == tuple(sample["image"].shape[1:])
            assert Path(target.image).is_file()
            assert data.portrait().tolist() == [False]
            if split == "train" and "boxes" in data.provides:
                assert len(sample["boxes"]) == 1, name
                assert ("masks" in sample) == ("masks" in data.provides), name


def test_old_names_of_objects365_are_an_option(found):
    root = root_of(found)
    options = dict(found["objects365"].splits["train"])
    content = coco_content({"category_id": 3})
    content["images"][0]["file_name"] = "images/v2/patch16/objects365_v2_00908727.jpg"
    content["categories"] = [{"id": k, "name": f"class {k}"} for k in range(365)]
    path = write_json(root / "renamed.json", content)
    v1 = Path(found["objects365"].cfg.paths.conf) / "vocab" / "objects365_v1_classes.txt"
    write_image(root / "Objects365" / "Obj365_v2" / "train" / "patch16" / "objects365_v2_00908727.jpg")
    cfg = OmegaConf.create({**options, "annotations": str(path), "rename": str(v1)})
    data = instantiate(cfg)()
    assert data.classes[3] == "hat" and data.classes[5] == "bottle"  # docs/published_system.md#objects365
    assert instantiate(OmegaConf.create({**options, "annotations": str(path)}))().classes[3] == "class 3"
