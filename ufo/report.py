"""Tables of metrics in plain text: measured beside expected, and several runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def measured_beside_expected(
    metrics: Iterable[Mapping[str, float | None]], expected: Mapping[str, float] | None
) -> str:
    """One row per metric; published numbers, where the experiment states them, in a second column.

    A metric that is None is shown as "-": these data do not define it.
    """
    measured = {name: value for part in metrics for name, value in part.items()}
    expected = expected or {}
    names = sorted({*measured, *expected})
    rows = [
        [
            name,
            "-" if name in measured and measured[name] is None else _number(measured.get(name)),
            _number(expected.get(name)),
            _difference(measured.get(name), expected.get(name)),
        ]
        for name in names
    ]
    if not expected:
        return table(["metric", "measured"], [row[:2] for row in rows])
    return table(["metric", "measured", "expected", "difference"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _difference(measured: float | None, expected: float | None) -> str:
    return "" if measured is None or expected is None else f"{measured - expected:+.4f}"
