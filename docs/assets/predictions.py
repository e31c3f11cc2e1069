"""Draws the README's picture: `python docs/assets/predictions.py` after `ufo data digits` made the scenes."""

from pathlib import Path

import ufo
from ufo.data.datasets.base import read_image
from ufo.draw import contact_sheet, draw

SCENES = {"000009": "the largest digit", "000004": "the orange digit"}
TASKS = ("detection", "instance_segmentation", "semantic_segmentation", "caption", "grounding")

here = Path(__file__).parent
root = here.parents[1]
model = ufo.load(root / "weights" / "ufo_vit_tiny_digits")
pictures = []
for scene, text in SCENES.items():
    image = read_image(root / "data" / "digits" / "val" / "images" / f"{scene}.jpg")
    for task in TASKS:
        wanted = text if task == "grounding" else None
        pictures.append(draw(image, model.predict(image, task, text=wanted), text=wanted or ""))
contact_sheet(pictures, columns=len(TASKS)).resize((1600, 680)).save(here / "predictions.png", optimize=True)
