from __future__ import annotations

import pytest
from files import write_image

from ufo.data.datasets.voc import VocDataset
from ufo.data.errors import DataError

NAMES = ("aeroplane", "bicycle", "bird")


def thing(name: str = "bird", corners=(3, 5, 22, 24), difficult: int = 0) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return (
        f"<object><name>{name}</name><pose>Left</pose><truncated>1</truncated>"
        f"<difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
    )


def xml(*things: str, size: str = "<size><width>64</width><height>48</height><depth>3</depth></size>") -> str:
    return (
        f"<annotation><folder>VOC2012</folder><filename>x.jpg</filename>{size}{''.join(things)}</annotation>"
    )


def make(root, files: dict[str, str], **options) -> VocDataset:
    home = root / "VOC2012"
    for name, content in files.items():
        write_image(home / "JPEGImages" / f"{name}.jpg")
        path = home / "Annotations" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    split = home / "ImageSets" / "Main" / "train.txt"
    split.parent.mkdir(parents=True, exist_ok=True)
    split.write_text("".join(f"{name}\n" for name in files))
    options = {"objects": home / "Annotations", "names": NAMES, **options}
    return VocDataset(home / "JPEGImages", split, **options)


def test_corners_count_from_one_and_include_the_last_pixel(tmp_path):
    data = make(tmp_path, {"2008_000002": xml(thing(), thing("aeroplane", (1, 1, 64, 48)))}, train=True)
    assert data.classes == NAMES and data.provides == {"boxes", "labels"}
    assert data[0]["boxes"].tolist() == [[2, 4, 22, 24], [0, 0, 64, 48]]
    assert data[0]["labels"].tolist() == [2, 0]
    assert data.target(0).image_id == "2008_000002"
    assert not data.problems.counts


def test_difficult_objects(tmp_path):
    files = {"a": xml(thing(), thing(difficult=1))}
    assert make(tmp_path, files).target(0).iscrowd.tolist() == [False, True]
    assert len(make(tmp_path, files, train=True)[0]["boxes"]) == 1
    assert len(make(tmp_path, files, train=True, difficult=True)[0]["boxes"]) == 2


def test_marks_may_have_blanks_around_them(tmp_path):
    content = xml(thing()).replace("<difficult>0", "<difficult>\n 1 \n")
    assert make(tmp_path, {"a": content}).target(0).iscrowd.tolist() == [True]


def test_names_from_before_files_were_renamed_do_not_shift_labels(tmp_path):
    """1.jpg has become 2.jpg, 2.jpg has become 3.jpg: every XML file still says the older name."""
    files = {str(k + 1): xml(thing()).replace("x.jpg", f"{k}.jpg") for k in (1, 2)}
    data = make(tmp_path, files)
    assert [data.target(i).image.rsplit("/", 1)[-1] for i in range(2)] == ["2.jpg", "3.jpg"]


def test_split_files_of_one_class_have_a_second_column(tmp_path):
    data = make(tmp_path, {"a": xml(thing())})
    path = tmp_path / "VOC2012" / "ImageSets" / "Main" / "train.txt"
    path.write_text("a  1\n\n")
    assert len(make(tmp_path, {"a": xml(thing())})) == len(data) == 1


def test_size_is_read_from_the_image_if_the_file_has_none(tmp_path):
    data = make(tmp_path, {"a": xml(thing(), size="")})
    assert data.target(0).size == (48, 64)
    assert data.problems.counts == {"image without height and width": 1}


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (thing("unicorn"), "object of class 'unicorn', which `names` lacks"),
        ("<object><name>bird</name></object>", "annotation without a box"),
        (thing(corners=("a", 1, 2, 3)), "annotation without a box"),
        (thing(corners=(200, 1, 220, 9)), "box outside its image"),
    ],
)
def test_bad_objects_are_counted(tmp_path, bad, problem):
    data = make(tmp_path, {"a": xml(bad, thing())}, train=True)
    assert len(data[0]["boxes"]) == 1
    assert data.problems.counts == {problem: 1}


def test_broken_files_are_named(tmp_path):
    good = {"a": xml(thing())}
    with pytest.raises(DataError, match=r"b\.xml is not valid XML"):
        make(tmp_path, {**good, "b": xml(thing())[:80]})
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + xml(thing("&b;"))
    with pytest.raises(DataError, match="defines its own entities: remove them"):
        make(tmp_path, {"c": bomb})
    data, objects = make(tmp_path, good), tmp_path / "VOC2012" / "Annotations"
    (objects / "a.xml").unlink()
    with pytest.raises(DataError, match=r"objects file .*a\.xml does not exist"):
        VocDataset(
            data.images, data.problems.source, objects=tmp_path / "VOC2012" / "Annotations", names=NAMES
        )
    for text, match in (("", "lists no images"), ("../a", "not a name of an image"), ("\xe9", "not UTF-8")):
        (tmp_path / "VOC2012" / "ImageSets" / "Main" / "train.txt").write_bytes(text.encode("latin-1"))
        with pytest.raises(DataError, match=match):
            VocDataset(data.images, data.problems.source, objects=tmp_path, names=NAMES)


def test_files_of_label_tools(tmp_path):
    """No split file, no list of names, pictures of any suffix that the files name or do not."""
    images, objects = tmp_path / "pictures", tmp_path / "xml"
    (objects / "sub").mkdir(parents=True)
    for name in ("one.PNG", "b.jpeg", "sub/c.JPG"):
        write_image(images / name)
    said = {"a": "one.PNG", "b": "C:\\pictures\\b.tif", "sub/c": "c.jpg"}
    for stem, name in said.items():
        content = xml(thing("owl"), thing("Bird")).replace("x.jpg", name)
        (objects / f"{stem}.xml").write_text(content)
    data = VocDataset(images, objects=objects, train=True)
    assert data.classes == ("Bird", "owl")
    assert [data.target(i).image_id for i in range(3)] == ["a", "b", "sub/c"]
    names = [data.target(i).image.removeprefix(f"{images}/") for i in range(3)]
    assert names == ["one.PNG", "b.jpeg", "sub/c.JPG"]
    assert all(data[i]["labels"].tolist() == [1, 0] for i in range(3)) and not data.problems.left_out


def test_many_forgotten_classes_are_named_up_to_a_number(tmp_path):
    things = [thing(f"class {k}") for k in range(30)]
    data = make(tmp_path, {"a": xml(thing(), *things)}, train=True)
    kinds = data.problems.left_out
    assert sum("which `names` lacks" in kind for kind in kinds) == 20 and kinds.total() == 30


def test_folders_without_anything_are_named(tmp_path):
    make(tmp_path, {"a": xml()})
    home = tmp_path / "VOC2012"
    with pytest.raises(DataError, match="has a name; set `names`"):
        VocDataset(home / "JPEGImages", objects=home / "Annotations")
    with pytest.raises(DataError, match="There is no XML file in"):
        VocDataset(home / "JPEGImages", objects=home / "JPEGImages")
