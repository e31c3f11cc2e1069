"""Scores of predictions in files against annotations in files: no model, no images, no config (`ufo score`).

`truth/` reads annotations and `predictions/` what a model has written, one file per format; `texts/` parses
answers in words, `convention.py` says what numbers of a box mean. `joining.py` brings each prediction to
what it is about, `tasks/` scores with the metrics of `ufo.metrics`, which a training's callbacks use, too.
"""
