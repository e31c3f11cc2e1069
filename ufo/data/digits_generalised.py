"""Expressions about a generated scene that mean one object, several or none (after gRefCOCO, Liu et al.).

"every" says that several may be meant. One that means nothing has the form of one that means something and
differs from it in one word: "the red seven" where there are a blue seven and a red two. So neither a word nor
the form gives the answer away. Fixed rules: `digits_text.resolve` checks each expression against its scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from ufo.data.digits_scene import CLASSES, COLORS
from ufo.data.digits_text import SIDES, SIZES, Thing, expressions, resolve
from ufo.data.shapes_scene import MORE_COLORS, SHAPES, TEXTURES

MAX_ONE = 4  # expressions of a scene that mean one object
MAX_SEVERAL = 2
MAX_HARD = 2  # expressions that mean nothing, of words that mean something in this scene
MAX_NONE = 4  # those and others


def generalised(
    things: list[Thing], size: int, rng: np.random.Generator, noun: str = "digit"
) -> list[tuple[str, list[int]]]:
    """Expressions and the indices of the objects that each means, none for some of them.

    `noun` is what any of the objects may be called, `size` the image's side in pixels.
    """
    singles = [text for texts in expressions(things, size, rng, noun) for text in texts]
    there = _drawn(singles, MAX_ONE, rng)
    names, colors = {thing.name: 0 for thing in things}, {thing.color: 0 for thing in things}
    phrases = [*names, *(f"{color} {name}" for color, name in product(colors, (noun, *names)))]
    several = [f"every {phrase}" for phrase in phrases if len(resolve(phrase, things, size)) > 1]
    there += _drawn(several, MAX_SEVERAL, rng)
    changes = [_changed(text, things, size) for text in there]
    hard = _drawn(_one_of_each([change for change, _ in changes], rng), MAX_HARD, rng)
    easy = _drawn(_one_of_each([change for _, change in changes], rng), MAX_NONE - len(hard), rng)
    return [*((text, resolve(text, things, size)) for text in there), *((text, []) for text in hard + easy)]


def _changed(text: str, things: list[Thing], size: int) -> tuple[list[str], list[str]]:
    """The text with one attribute changed so that nothing fits it.

    The first of the two lists takes its words from other objects of the scene, the second has the others.
    """
    shapes = any(thing.name in SHAPES for thing in things)
    kinds: list[tuple[Sequence[str], set[str]]] = [
        (tuple(SHAPES) if shapes else CLASSES, {thing.name for thing in things}),
        ((*COLORS, *MORE_COLORS) if shapes else tuple(COLORS), {thing.color for thing in things}),
        (tuple(TEXTURES), {thing.texture for thing in things}),
    ]
    hard: list[str] = []
    easy: list[str] = []
    words = text.split()
    for place, word in enumerate(words):
        for known, seen in kinds:
            if word not in known:
                continue
            for other in known:
                changed = [*words[:place], other, *words[place + 1 :]]
                # the only seven is no "leftmost seven", but somebody may mean it
                fits = " ".join(w for w in changed if w not in (*SIZES, *SIDES))
                if other != word and not resolve(fits, things, size):
                    (hard if other in seen else easy).append(" ".join(changed))
    return hard, easy


def _one_of_each(choices: list[list[str]], rng: np.random.Generator) -> list[str]:
    """One text of each list that has any; no text twice."""
    return list(dict.fromkeys(text for texts in choices for text in _drawn(texts, 1, rng)))


def _drawn(texts: list[str], most: int, rng: np.random.Generator) -> list[str]:
    """At most so many of some texts, in their order."""
    return [texts[i] for i in sorted(rng.permutation(len(texts))[:most])]
