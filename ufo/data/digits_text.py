"""The language of generated scenes: captions and referring expressions that follow from the objects.

Fixed rules, so that every sentence can be checked against the scene. Lower case, no punctuation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ufo.data.digits_scene import CLASSES, COLORS, SEMANTIC_CLASSES
from ufo.data.shapes_scene import MORE_COLORS, SHAPES, TEXTURES

MAX_CAPTIONS = 5
MAX_EXPRESSIONS = 3
CLEARLY_LARGER = 1.25  # ratio of visible areas from which "largest" or "smallest" is said
CLEARLY_ASIDE = 0.05  # share of the image's side by which "leftmost" etc. leads the next object

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SIZES = ("largest", "smallest")
SIDES = ("leftmost", "rightmost", "top", "bottom")
_ALL_COLORS = frozenset([*COLORS, *MORE_COLORS])
_ALL_NAMES = frozenset([*CLASSES, *SHAPES])


@dataclass(frozen=True)
class Thing:
    """What can be said about an object; `box` is xywh and `area` counts visible pixels."""

    name: str
    color: str
    box: tuple[float, float, float, float]
    area: int
    texture: str = ""

    @property
    def center(self) -> tuple[float, float]:
        return self.box[0] + self.box[2] / 2, self.box[1] + self.box[3] / 2

    @property
    def phrase(self) -> str:
        words = f"{self.texture} {self.color} {self.name}".strip()
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def relation(first: Thing, second: Thing) -> str:
    """Where `first` is, seen from `second`, along the axis on which their centres differ most."""
    dx, dy = np.subtract(first.center, second.center)
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def captions(things: list[Thing]) -> list[str]:
    """Up to five captions: the largest object beside each other one, then the same reversed."""
    ordered = sorted(things, key=lambda thing: -thing.area)  # stable: ties keep painting order
    largest, others = ordered[0], ordered[1:]
    if not others:
        return [largest.phrase]
    told = [(other, relation(largest, other)) for other in others]
    forward = [f"{largest.phrase} {where} {other.phrase}" for other, where in told]
    reverse = [f"{other.phrase} {_OPPOSITE[where]} {largest.phrase}" for other, where in told]
    return list(dict.fromkeys(forward + reverse))[:MAX_CAPTIONS]


def _extreme(word: str, things: list[Thing], chosen: list[int], size: int) -> list[int]:
    """The one of `chosen` that is clearly `word`, or none."""
    if len(chosen) < 2:
        return []
    if word in SIZES:
        sign = 1 if word == "largest" else -1
        order = sorted(chosen, key=lambda i: -sign * things[i].area)
        small, large = sorted(things[i].area for i in order[:2])
        # a tall thin digit has few pixels: area and height must agree before it is said
        tallest = max(chosen, key=lambda i: sign * things[i].box[3])
        clear = large >= CLEARLY_LARGER * small and tallest == order[0]
    else:
        axis = 0 if word in ("leftmost", "rightmost") else 1
        sign = 1 if word in ("leftmost", "top") else -1
        order = sorted(chosen, key=lambda i: sign * things[i].center[axis])
        lead = things[order[1]].center[axis] - things[order[0]].center[axis]
        clear = sign * lead >= CLEARLY_ASIDE * size
    return order[:1] if clear else []


def resolve(expression: str, things: list[Thing], size: int) -> list[int]:
    """Indices of all objects that `expression` fits; `size` is the image's side in pixels."""
    chosen = list(range(len(things)))
    extreme = ""
    for word in expression.split():
        if word in _ALL_COLORS:
            chosen = [i for i in chosen if things[i].color == word]
        elif word in TEXTURES:
            chosen = [i for i in chosen if things[i].texture == word]
        elif word in _ALL_NAMES:
            chosen = [i for i in chosen if things[i].name == word]
        elif word in (*SIZES, *SIDES):
            extreme = word
    return _extreme(extreme, things, chosen, size) if extreme else chosen


def expressions(
    things: list[Thing], size: int, rng: np.random.Generator, noun: str = "digit"
) -> list[list[str]]:
    """For each object up to three expressions, each of which fits this object and no other.

    An adjective is used where it helps: "the leftmost seven" only if there are several sevens. `noun` is what
    any of the objects may be called.
    """
    found = []
    for i, thing in enumerate(things):
        candidates = [f"the {thing.name}", f"the {thing.color} {thing.name}"]
        candidates += [f"the {thing.color} {noun}"]
        if thing.texture:
            names = (noun, thing.name, f"{thing.color} {thing.name}")
            candidates += [f"the {thing.texture} {name}" for name in names]
        candidates += [f"the {word} {name}" for word in (*SIZES, *SIDES) for name in (noun, thing.name)]
        fitting = [text for text in candidates if resolve(text, things, size) == [i]]
        picked = rng.permutation(len(fitting))[:MAX_EXPRESSIONS]
        found.append([fitting[k] for k in sorted(picked)])
    return found


def vocabulary() -> list[str]:
    """All words of captions, expressions and class names of digit scenes, sorted."""
    words = {"a", "an", "the", "digit", *SIZES, *SIDES, *COLORS, *SEMANTIC_CLASSES}
    words |= {word for where in _OPPOSITE for word in where.split()}
    return sorted(words)
