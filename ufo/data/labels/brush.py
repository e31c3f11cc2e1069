"""The run lengths of Label Studio's brush: a stream of bits about the bytes of an RGBA picture.

32 bits: how many values; 5 bits: size of a value less one; four times 4 bits: sizes of lengths less one. Then
blocks: one bit says whether the value repeats, two bits which size the length has, the length less one, the
value (once, or as many as the length says). The mask is what has any opacity.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

LENGTHS = (3, 4, 8, 16)


class _Bits:
    """Reads whole numbers off a string of bytes, highest bit first."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def read(self, size: int) -> int:
        end = self.at + size
        if end > 8 * len(self.content):
            raise ValueError("brush mask that is cut short")
        value = int.from_bytes(self.content[self.at // 8 : (end + 7) // 8], "big") >> (-end % 8)
        self.at = end
        return value & ((1 << size) - 1)


def brush_mask(rle: Any, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W] of a brush's list of bytes, for a picture of `size`. ValueError if it is damaged."""
    try:
        bits = _Bits(bytes(rle if isinstance(rle, list) else [-1]))
    except (TypeError, ValueError):
        raise ValueError("brush mask that is no list of bytes") from None
    count = bits.read(32)
    if count != 4 * size[0] * size[1]:
        raise ValueError("brush mask of another size than its picture")
    word = bits.read(5) + 1
    lengths = [bits.read(4) + 1 for _ in range(4)]
    values = np.zeros(count, dtype=np.uint8)
    place = 0
    while place < count:
        repeats = bits.read(1)
        end = min(place + 1 + bits.read(lengths[bits.read(2)]), count)
        if repeats:
            values[place:end] = min(bits.read(word), 255)
            place = end
        else:
            while place < end:
                values[place] = min(bits.read(word), 255)
                place += 1
    return (values[3::4] > 0).astype(np.uint8).reshape(size)


def brush_rle(mask: np.ndarray) -> list[int]:
    """The brush's list of bytes for a mask `[H, W]`."""
    parts = [(4 * mask.size, 32), (7, 5), *((length - 1, 4) for length in LENGTHS)]
    for value, run in groupby((mask != 0).ravel().tolist()):
        left = 4 * len(list(run))
        while left:
            length = min(left, 1 << LENGTHS[3])
            parts += [(1, 1), (3, 2), (length - 1, LENGTHS[3]), (255 * value, 8)]
            left -= length
    bits = "".join(format(number, f"0{size}b") for number, size in parts)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big"))
