"""One object of a prediction, as a loop over it gives them. Shapes: `H W` pixels of the image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Found:
    """One thing that was found: of a class map all pixels of one class, else one object."""

    name: str  # its class, or the text that refers to it
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the image
    label: int | None = None  # index into the prediction's classes; None: no class was asked for
    score: float | None = None  # 0..1; None: a class map has no scores
    mask: Tensor | None = None  # bool [H, W]

    def __repr__(self) -> str:
        score = "" if self.score is None else f" {self.score:.2f}"
        area = "" if self.mask is None else f", {int(self.mask.sum())} pixels"
        return f"<{self.name}{score} at {', '.join(f'{v:.0f}' for v in self.box)}{area}>"
