"""Tables in plain text."""

from ufo.report import measured_beside_expected, table


def test_columns_line_up():
    lines = table(["model", "AP"], [["a", "0.5"], ["longer", "12.25"]]).splitlines()
    assert lines == ["model      AP", "-------------", "a         0.5", "longer  12.25"]


def test_expected_numbers_stand_beside_the_measured_ones():
    lines = measured_beside_expected([{"a": 0.5}, {"b": 0.25}], {"b": 0.3, "c": 1.0}).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["a", "0.5000"],
        ["b", "0.2500", "0.3000", "-0.0500"],
        ["c", "1.0000"],  # expected and not measured
    ]


def test_without_expected_numbers_there_is_one_column():
    assert "expected" not in measured_beside_expected([{"a": 0.5}], None)
