"""Answers in words, by named formats: one file each."""

from ufo.score.texts import florence, kosmos, paligemma, plain_json, qwen, ufo
from ufo.score.texts.base import Box, FormatError, TextFormat

__all__ = ["FORMATS", "Box", "FormatError", "TextFormat"]

FORMATS = {
    module.FORMAT.name: module.FORMAT for module in (ufo, qwen, paligemma, florence, kosmos, plain_json)
}
"""All formats by name."""
