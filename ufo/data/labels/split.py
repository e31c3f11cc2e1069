"""Training and validation: the tool's own split, or one by a hash of the pictures' names.

The same pictures give the same split on every machine and in any order. Copies that Roboflow makes of one
picture (`a_jpg.rf.<hash>.jpg`) stay together, so that none of them is validated on.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from ufo.data.errors import DataError
from ufo.data.labels.record import Picture

COPY = re.compile(r"\.rf\.[0-9A-Za-z]+(?=\.\w+$)")
SHARE = 0.1


def divide(
    pictures: Sequence[Picture], names: Sequence[str], val: float | None = None
) -> tuple[dict[str, list[Picture]], str]:
    """Pictures by split (`train`, `val` and perhaps `test`), and in words how it came about.

    Args:
        pictures: all of them.
        names: their paths below the folder of the images.
        val: the share that is validated on, from 0 (the training pictures themselves) below 1; None: the
            tool's own split, or `SHARE`.
    """
    own: dict[str, list[Picture]] = {}
    for picture in pictures:
        own.setdefault(picture.split, []).append(picture)
    if val is None and own.get("train") and (own.get("val") or own.get("test")):
        extra = f"; {len(own[''])} pictures without a split are trained on" if own.get("") else ""
        train = [*own["train"], *own.get("", [])]
        if own.get("val"):
            found = {"train": train, "val": own["val"], "test": own.get("test", [])}
            return {k: v for k, v in found.items() if v}, f"the tool's own{extra}"
        return {"train": train, "val": own["test"]}, f"the tool's own, its test part as val{extra}"
    if val == 0:
        return {"train": list(pictures), "val": list(pictures)}, "validation on the training pictures"
    share = SHARE if val is None else val
    chosen = chosen_by_hash(names, share)
    parts = {
        "train": [picture for picture, held in zip(pictures, chosen, strict=True) if not held],
        "val": [picture for picture, held in zip(pictures, chosen, strict=True) if held],
    }
    return parts, f"{share:.0%} by a hash of the file names"


def chosen_by_hash(names: Sequence[str], share: float) -> list[bool]:
    """Which of some names are held back: the lowest hashes, at least one of them and not all.

    Raises DataError for a single picture, which cannot be divided.
    """
    keys = [COPY.sub("", unicodedata.normalize("NFC", name)) for name in names]
    last = [key.rsplit("/", 1)[-1] for key in keys]
    if len(set(last)) == len(set(keys)):  # names alone: a moved folder changes nothing
        keys = last
    ranked = sorted(set(keys), key=lambda key: hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())
    if len(ranked) < 2:
        raise DataError("One picture cannot be divided into training and validation; take --val 0.")
    held: set[str] = set()
    for key in ranked[:-1]:
        if held and sum(k in held for k in keys) >= round(share * len(keys)):
            break
        held.add(key)
    return [key in held for key in keys]
