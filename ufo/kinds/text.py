"""Text: a caption, the answer to a question, a number; whatever is said and not drawn.

What would be right follows from the target: a task says how (`truth_of`), else it is the target's captions or
answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ufo.kinds.base import ImageInfo, Kind, Shown, Usual
from ufo.kinds.marks import Marks
from ufo.ops.text import similarity
from ufo.types import Prediction, Target


def closest(text: str, right: Sequence[str]) -> float:
    """How similar a text is to the one that is most similar to it, letter by letter."""
    return max(similarity(text, other) for other in right)


@dataclass(frozen=True, kw_only=True)
class Text(Kind):
    """A text about the image.

    Args:
        asks: the user's words are a question; else the image alone is asked about.
        key: what the text is called in records; by default the task's name.
        truth_of: the texts that would be right for a target; by default its answers or captions.
        alike: how alike a text is to those that would be right, 0..1, for the list of the worst images.
    """

    asks: bool = False
    key: str = ""
    truth_of: Callable[[Target], list[str]] | None = None
    alike: Callable[[str, Sequence[str]], float] = closest

    def truth(self, target: Target) -> list[str]:
        if self.truth_of is not None:
            right = self.truth_of(target)
        else:
            right = (None if self.asks else target.captions) or target.answers or []
        return list(dict.fromkeys(right))

    def records(
        self, prediction: Prediction, image: ImageInfo, predicted_size: tuple[int, int], text: str = ""
    ) -> list[dict[str, Any]]:
        """One record with the question, if there is one, and the text under the task's name."""
        question = {"question": text} if self.asks else {}
        return [{**image.head, **question, self.key or prediction.task: prediction.text}]

    def summary(self, prediction: Prediction, min_score: float, text: str = "") -> str:
        return prediction.text or "(an empty answer)"

    def in_words(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> tuple[str, str]:
        truth = " / ".join(self.truth(target))
        return prediction.text, f"{target.text}: {truth}" if self.asks else truth

    @property
    def columns(self) -> tuple[str, ...]:
        return ("question", "answer", "right") if self.asks else ("prediction", "references")

    def row(self, prediction: Prediction, target: Target) -> list[Any]:
        question = [target.text] if self.asks else []
        return [*question, prediction.text, "\n".join(self.truth(target))]

    @property
    def beside(self) -> bool:
        return not self.asks

    def predicted(self, prediction: Prediction, shown: Shown) -> Marks:
        references = [] if shown.target is None else [f"reference: {t}" for t in self.truth(shown.target)]
        if self.asks:
            return Marks(notes=[*shown.notes, f"answer: {prediction.text}", *references])
        return Marks(notes=[prediction.text, *references])

    def annotated(self, target: Target, classes: tuple[str, ...]) -> Marks:
        if self.asks:
            return Marks(notes=[target.text, *(f"answer: {text}" for text in self.truth(target))])
        return Marks(notes=self.truth(target))

    def caption(self, prediction: Prediction, target: Target) -> str:
        return f"{target.text} {prediction.text}" if self.asks else prediction.text

    def score(self, prediction: Prediction, target: Target, classes: tuple[str, ...]) -> float | None:
        """How alike the text is to those that would be right."""
        right = self.truth(target)
        return self.alike(prediction.text, right) if right else None

    def trivial(self, usual: Usual, size: tuple[int, int]) -> dict[str, Any]:
        """The most frequent text."""
        return {"text": usual.text}
