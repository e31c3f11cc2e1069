"""How an answer arose: what each query point said, and the planes of the masks among these answers.

Shapes: `M` answers with a mask, `K = s*s` mask tokens, `h w` patches; `s*h x s*w` sub-pixels of a mask.
"""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ufo.ops.text import counted_tokens
from ufo.tasks.base import Answers

MOST_POINTS = 4096  # answers of one picture that are listed
MOST_MASKS = 24  # of these, the most certain ones whose planes are sent


@dataclass(frozen=True)
class Arose:
    """What was said about one picture, on the CPU."""

    texts: list[str]  # an answer per query point, or the only one
    scores: list[float]
    points: list[list[float]] | None  # normalised (x, y) of each
    masks: dict[int, Tensor]  # by answer: probabilities uint8 [s*h, s*w]
    side: int  # s

    def content(self) -> dict[str, Any]:
        """As JSON: `answers`, and `planes` with pictures in which plane `s*a + b` is every s-th pixel."""
        answers = [
            {"text": text, "score": round(score, 4), "x": None, "y": None}
            for text, score in zip(self.texts, self.scores, strict=True)
        ]
        for answer, point in zip(answers, self.points or (), strict=False):
            answer["x"], answer["y"] = (round(value, 5) for value in point)
        planes = [
            {"row": row, "side": self.side, "png": png(Image.fromarray(mask.numpy()))}
            for row, mask in self.masks.items()
        ]
        return {"answers": answers, "planes": planes}


def arose(answers: Answers, mask_tokens: int) -> Arose:
    """What can be told of the answers to one picture."""
    texts = [counted_tokens(text) for text in answers.texts[:MOST_POINTS]]
    scores = answers.scores[: len(texts)].float().cpu()
    points = None if answers.references is None else answers.references[: len(texts)].tolist()
    masks: dict[int, Tensor] = {}
    if mask_tokens and answers.retrieve_logits is not None:
        whole = [row for row, count in enumerate(answers.mask_counts[: len(texts)]) if count >= mask_tokens]
        best = sorted(whole, key=lambda row: -scores[row].item())[:MOST_MASKS]
        if best:
            logits = answers.retrieve_logits(torch.tensor(best, device=answers.scores.device))  # [M, sh, sw]
            shades = (logits.float().sigmoid() * 255).round().to(torch.uint8).cpu()
            masks = dict(zip(best, shades, strict=True))
    return Arose(texts, scores.tolist(), points, masks, round(mask_tokens**0.5))


def png(picture: Image.Image, **options: Any) -> str:
    """A picture as a `data:` address."""
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()
