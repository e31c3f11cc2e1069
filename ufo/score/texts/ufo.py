"""UFO: `<box>cx,cy,w,h</box>`, several joined by ";", perhaps a class name and a comma before.

A UFO-ViT writes no tags. The numbers are bins, and the centre of a box of one referred object is absolute.
The text may hold blanks, as a decoder puts them around punctuation.
"""

from __future__ import annotations

import re

from ufo.score.texts.base import Box, FormatError, TextFormat, four

TAGS = re.compile(r"([^;<>]*?),?\s*<\s*box\s*>(.*?)<\s*/\s*box\s*>", re.S)


def parse(text: str) -> list[Box]:
    """The boxes between tags, or of the whole text where it has numbers and no tags."""
    if re.search(r"<\s*/?\s*box\s*>", text):
        found = TAGS.findall(text)
        if len(found) != len(re.findall(r"<\s*box\s*>", text)):
            raise FormatError("a <box> without its </box>")
        return [
            Box(four(values.split(",")), label.strip())
            for label, inside in found
            for values in inside.split(";")
        ]
    boxes = []
    for part in text.split(";"):
        if not re.search(r"\d", part):
            continue
        fields = [field.strip() for field in part.split(",")]
        label = ",".join(fields[:-4])
        boxes.append(Box(four([field.replace(" ", "") for field in fields[-4:]]), label))
    return boxes


FORMAT = TextFormat("ufo", parse, "cxcywh", None, "<box>412,300,120,88</box>")
