"""Charts as SVG: lines from (x, y) pairs, bars from shares. No number that is missing is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ufo.draw.blocks import PALETTE

WIDTH, HEIGHT, LEFT, LOW = 320, 200, 42, 28

Points = Sequence[tuple[float, float]]


def lines(
    title: str,
    curves: Mapping[str, Points],
    across: str,
    up: str,
    unit: bool = False,
    diagonal: bool = False,
) -> str:
    """Curves in one chart; empty where no curve has a point.

    Args:
        unit: both axes go from 0 to 1.
        diagonal: draw the line on which both are equal.
    """
    drawn = {name: points for name, points in curves.items() if points}
    if not drawn:
        return ""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    x_range = (0.0, 1.0) if unit else (min(xs), max(xs))
    y_range = (0.0, 1.0) if unit else (min(0.0, *ys), max(ys))
    parts = [_frame(title, across, up, x_range, y_range)]
    if diagonal:
        (x1, y1), (x2, y2) = (_place(v, v, x_range, y_range) for v in (0.0, 1.0))
        parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="diagonal"/>')
    for number, (name, points) in enumerate(drawn.items()):
        places = " ".join("{},{}".format(*_place(x, y, x_range, y_range)) for x, y in points)
        rgb = "#{:02x}{:02x}{:02x}".format(*PALETTE[number % len(PALETTE)])
        said = f"<title>{escape(name)}</title>"
        if len(points) == 1:
            x, y = _place(*points[0], x_range, y_range)
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{rgb}">{said}</circle>')
        else:
            parts.append(f'<polyline points="{places}" stroke="{rgb}">{said}</polyline>')
        if len(drawn) > 1:
            # precision is high at the left, so that there is room below
            low = HEIGHT - LOW - 8 - 13 * (len(drawn) - 1 - number)
            at = f'x="{LEFT + 6}" y="{low if unit else 34 + 13 * number}"'
            parts.append(f'<text {at} fill="{rgb}">{escape(name[:28])}</text>')
    return _svg(title, parts)


def bars(title: str, shares: Mapping[str, tuple[float, str]]) -> str:
    """Horizontal bars: by name a share from 0 to 1 and what is written behind it."""
    if not shares:
        return ""
    parts = [f'<text x="4" y="16" class="title">{escape(title)}</text>']
    for number, (name, (share, said)) in enumerate(shares.items()):
        y = 30 + 22 * number
        parts.append(f'<text x="100" y="{y + 12}" class="end">{escape(name[:16])}</text>')
        parts.append(f'<rect x="106" y="{y}" width="{max(0.0, min(share, 1.0)) * 130:.1f}" height="16"/>')
        parts.append(
            f'<text x="{110 + max(0.0, min(share, 1.0)) * 130:.0f}" y="{y + 12}">{escape(said)}</text>'
        )
    return _svg(title, parts, 36 + 22 * len(shares))


def _svg(title: str, parts: Sequence[str], height: int = HEIGHT) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{body}</svg>'


def _frame(
    title: str, across: str, up: str, x_range: tuple[float, float], y_range: tuple[float, float]
) -> str:
    right, base = WIDTH - 8, HEIGHT - LOW
    texts = [
        (4, 16, "title", title),
        (right, HEIGHT - 4, "end", across),
        (LEFT, 30, "", up),
        (LEFT - 4, base, "end", _short(y_range[0])),
        (LEFT - 4, 42, "end", _short(y_range[1])),
        (LEFT, base + 13, "", _short(x_range[0])),
        (right, base + 13, "end", _short(x_range[1])),
    ]
    said = "".join(
        f'<text x="{x}" y="{y}" class="{kind}">{escape(text)}</text>' for x, y, kind, text in texts
    )
    return f'<path d="M{LEFT} 34V{base}H{right}" class="axes"/>{said}'


def _short(value: float) -> str:
    return f"{value:.3g}"


def _place(
    x: float, y: float, x_range: tuple[float, float], y_range: tuple[float, float]
) -> tuple[float, float]:
    """Pixels of a pair of numbers."""
    wide = (x_range[1] - x_range[0]) or 1.0
    high = (y_range[1] - y_range[0]) or 1.0
    right, base, top = WIDTH - 8, HEIGHT - LOW, 36
    return (
        round(LEFT + (x - x_range[0]) / wide * (right - LEFT), 1),
        round(base - (y - y_range[0]) / high * (base - top), 1),
    )
