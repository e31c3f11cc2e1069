"""Tables in plain text."""

from ufo.tables import measured_beside_published, table


def test_columns_line_up():
    lines = table(["model", "AP"], [["a", "0.5"], ["longer", "12.25"]]).splitlines()
    assert lines == ["model      AP", "-------------", "a         0.5", "longer  12.25"]


def test_published_numbers_stand_beside_the_measured_ones():
    lines = measured_beside_published(
        [{"a": 0.5}, {"b": 0.25}], {"paper": {"b": 0.3, "c": 1.0}, "released": None}
    ).splitlines()
    assert lines[0].split() == ["metric", "measured", "paper", "difference"]
    assert [line.split() for line in lines[2:]] == [
        ["a", "0.5000"],
        ["b", "0.2500", "0.3000", "-0.0500"],
        ["c", "1.0000"],  # published and not measured
    ]


def test_a_paper_and_a_released_file_have_columns_of_their_own():
    lines = measured_beside_published(
        [{"a": 0.5}], {"paper": {"a": 0.6}, "released": {"a": 0.5}}
    ).splitlines()
    assert lines[0].split() == ["metric", "measured", "paper", "difference", "released", "difference"]
    assert lines[2].split() == ["a", "0.5000", "0.6000", "-0.1000", "0.5000", "+0.0000"]


def test_without_published_numbers_there_is_one_column():
    assert measured_beside_published([{"a": 0.5}]).split()[:2] == ["metric", "measured"]
