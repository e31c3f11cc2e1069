"""Tables of metrics in plain text: measured beside expected, and several runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def measured_beside_published(
    metrics: Iterable[Mapping[str, float | None]],
    published: Mapping[str, Mapping[str, float] | None] | None = None,
) -> str:
    """One row per metric, and two columns for each source of published numbers that states some.

    A metric that is None is shown as "-": these data do not define it.

    Args:
        published: numbers by where they come from, as the paper's table or the file that the authors
            released; both may state one, and they need not be the same training.
    """
    measured = {name: value for part in metrics for name, value in part.items()}
    sources = {where: numbers for where, numbers in (published or {}).items() if numbers}
    head, rows = ["metric", "measured"], []
    for where in sources:
        head += [where, "difference"]
    for name in sorted({*measured, *(key for numbers in sources.values() for key in numbers)}):
        value = measured.get(name)
        row = [name, "-" if name in measured and value is None else _number(value)]
        for numbers in sources.values():
            row += [_number(numbers.get(name)), _difference(value, numbers.get(name))]
        rows.append(row)
    return table(head, rows)


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


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as a table of markdown; bars and line ends in a cell do not break it."""
    cells = [list(head), ["---"] * len(head), *map(list, rows)]
    lines = [" | ".join(" ".join(c.replace("|", "\\|").split()) for c in row) for row in cells]
    return "\n".join(f"| {line} |" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _difference(measured: float | None, expected: float | None) -> str:
    return "" if measured is None or expected is None else f"{measured - expected:+.4f}"
