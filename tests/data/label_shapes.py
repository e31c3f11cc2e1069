"""One object of one picture, and a mask that is not a rectangle, for tests of label tools."""

from __future__ import annotations

import numpy as np
from label_files import HEIGHT, WIDTH
from pycocotools import mask as coco_mask


def only(labels):
    """The one object of the one picture."""
    (picture,) = labels.pictures
    (thing,) = picture.things
    return thing


def decoded(thing) -> np.ndarray:
    return coco_mask.decode(thing.rle)


def blob() -> np.ndarray:
    """A mask that is no rectangle, uint8 [6, 10]."""
    mask = np.zeros((6, 10), np.uint8)
    mask[0, 3:9], mask[1:5, 1:7], mask[5, 9] = 1, 1, 1
    return mask


def whole(mask: np.ndarray, left: int, top: int) -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return found
