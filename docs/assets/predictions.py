"""Draws the README's picture: `python docs/assets/predictions.py` after `ufo data digits` made the scenes."""

from dataclasses import replace
from pathlib import Path

import ufo
from ufo.data.datasets.base import read_image
from ufo.draw import contact_sheet, draw

SCENES = {"000009": "the yellow seven", "000004": "the cyan one"}  # and what to look for
TASKS = ("detection", "instance_segmentation", "semantic_segmentation", "caption")

here = Path(__file__).parent
root = here.parents[1]
model = ufo.load(root / "weights" / "ufo_vit_tiny_digits")
pictures = []
for scene, text in SCENES.items():
    image = read_image(root / "data" / "digits" / "val" / "images" / f"{scene}.jpg")
    pictures += [draw(image, model.predict(image, task)) for task in TASKS]
    pictures.append(draw(image, replace(model.predict(image, "grounding", text=text), text=text)))
sheet = contact_sheet(pictures, columns=len(TASKS) + 1).resize((1400, 600))
sheet.save(here / "predictions.png", optimize=True)
