"""Train a UFO model: `python train.py experiment=digits`, or any combination of the groups in conf/.

The training itself, in one screenful, is ufo/entry/train.py, which `ufo train` runs, too.
"""

from ufo.entry.train import train

if __name__ == "__main__":
    train()
