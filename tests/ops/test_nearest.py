"""The nearest name, or all of them."""

from ufo.ops.nearest import instead


def test_the_nearest_name_whatever_its_case():
    assert instead("Detektion", ["detection", "caption"], "there are") == "did you mean 'detection'?"
    assert instead("swim", ["detection", "caption"], "there are") == "there are: caption, detection"
