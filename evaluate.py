"""Evaluate a checkpoint: `python evaluate.py ckpt=runs/digits`; on other data with `experiment=`.

The evaluation itself, in one screenful, is ufo/entry/evaluate.py, which `ufo evaluate` runs, too.
"""

from ufo.entry.evaluate import evaluate

if __name__ == "__main__":
    evaluate()
