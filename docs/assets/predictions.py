"""Draws the README's picture: `python docs/assets/predictions.py` after `ufo data digits` made the scenes."""

from pathlib import Path

import ufo
from ufo.data.datasets.base import read_image
from ufo.draw import contact_sheet, draw

SCENES = ("000009", "000004")
TASKS = ("detection", "instance_segmentation", "semantic_segmentation", "caption")

here = Path(__file__).parent
root = here.parents[1]
model = ufo.load(root / "weights" / "ufo_vit_tiny_digits")
pictures = []
for scene in SCENES:
    image = read_image(root / "data" / "digits" / "val" / "images" / f"{scene}.jpg")
    pictures += [draw(image, model.predict(image, task)) for task in TASKS]
contact_sheet(pictures, columns=len(TASKS)).resize((1280, 680)).save(here / "predictions.png", optimize=True)
