"""A reliability diagram: for each bin of scores, the share that is right beside what the scores promise.

On the diagonal scores are probabilities; below it they promise too much. Bars along the lower edge show
where the predictions are.
"""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageDraw

SIDE, MARGIN = 400, 48  # pixels of the square, and of the space around it for numbers
BACKGROUND, LINE, GRID, BARS, POINTS = "white", "#444444", "#dddddd", "#c6d4e8", "#c23b22"
TICKS = 5


def reliability_diagram(rows: Mapping[str, Mapping[str, float]], title: str) -> Image.Image:
    """Draw the rows of `ufo.metrics.calibration.reliability`."""
    picture = Image.new("RGB", (SIDE + 2 * MARGIN, SIDE + 2 * MARGIN), BACKGROUND)
    pen = ImageDraw.Draw(picture)

    def place(x: float, y: float) -> tuple[float, float]:
        return MARGIN + x * SIDE, MARGIN + (1 - y) * SIDE

    most = max(row["number"] for row in rows.values())
    for name, row in rows.items():
        low, high = map(float, name.split(" to "))
        pen.rectangle([place(low, row["number"] / most / 3), place(high, 0)], fill=BARS)
    for i in range(TICKS + 1):
        at = i / TICKS
        for line in ([place(at, 0), place(at, 1)], [place(0, at), place(1, at)]):
            pen.line(line, fill=GRID)
        pen.text(place(at, -0.02), f"{at:.1f}", fill=LINE, anchor="mt")
        pen.text(place(-0.02, at), f"{at:.1f}", fill=LINE, anchor="rm")
    pen.line([place(0, 0), place(1, 1)], fill=LINE)
    pen.rectangle([place(0, 1), place(1, 0)], outline=LINE)
    points = [place(row["mean score"], row["right"]) for row in rows.values()]
    pen.line(points, fill=POINTS, width=2)
    for x, y in points:
        pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=POINTS)
    pen.text(place(0.5, 1.06), title, fill=LINE, anchor="mm")
    pen.text(place(0.5, -0.08), "score", fill=LINE, anchor="mt")
    pen.text(place(0.02, 0.98), "share that is right", fill=LINE)
    return picture
