"""The nearest name, or all of them."""

from ufo.ops.nearest import beside, few, instead


def test_the_nearest_name_whatever_its_case():
    assert instead("Detektion", ["detection", "caption"], "there are") == "did you mean 'detection'?"
    assert instead("swim", ["detection", "caption"], "there are") == "there are: caption, detection"


def test_a_file_of_a_similar_name_in_the_same_folder(tmp_path):
    (tmp_path / "ufo_vit_tiny_digits").mkdir()
    assert beside(tmp_path / "ufo_vit_tiny").endswith(f"did you mean '{tmp_path / 'ufo_vit_tiny_digits'}'?")
    assert beside(tmp_path / "another") == beside(tmp_path / "none" / "ufo_vit_tiny") == ""


def test_few_of_many_names():
    assert few([], 2) == "" and few(["a", "b"], 2) == "a, b"
    assert few(["a" * 99, "b", "c", "d"], 2) == "a" * 60 + ", b and 2 more"
    assert few(["a" * 99, "b", "c"], 2, quoted=True) == f"'{'a' * 58}', 'b' and 1 more"
