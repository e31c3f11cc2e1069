"""From a label tool's export to a drawn prediction: three commands, their times, and what the start is worth.

    python benchmarks/own_photos.py INSTANCES.json IMAGES BACKGROUNDS [--format voc] [--every 50] [OVERRIDES]

Cuts the objects of a COCO file out of their photos, pastes them into other photos and writes the pictures as
a label tool's export (`--format`, YOLO's by default), as many for validation as for training; then runs
`ufo data import`, `ufo train` and `ufo predict` as a user would, once from the shipped model and once from
random weights. `--every N` validates every N steps, for the curve of mAP50. The last command scores the
pictures of the training themselves.
On a busy machine `--clock cpu` with OMP_NUM_THREADS=1 in the environment counts processor seconds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import show
from label_layouts import LAYOUTS, Layout, Scene, Thing
from PIL import Image
from pycocotools.coco import COCO

WIDTH, HEIGHT = 320, 240
SIDES = (60, 140)  # pixels of an object's longer side
LEAST_AREA = 1500  # pixels of an object in its own photo
METRIC = "val/photos/detection/mAP50"
STARTS = {"shipped": [], "random": ["init=null"]}


def _of_commands() -> float:
    """Processor seconds of the commands that have ended."""
    times = os.times()
    return times.children_user + times.children_system


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": _of_commands}


@dataclass
class Cut:
    """An object of a photo: its class, the pixels around it `[H, W, 3]` and which are its own `[H, W]`."""

    name: str
    pixels: np.ndarray
    mask: np.ndarray


def cuts(annotations: Path, images: Path) -> list[Cut]:
    coco, found = COCO(annotations), []
    for thing in coco.loadAnns(coco.getAnnIds(iscrowd=False, areaRng=[LEAST_AREA, float("inf")])):
        mask = coco.annToMask(thing) > 0
        rows, columns = np.nonzero(mask)
        inside = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        photo = Image.open(images / coco.imgs[thing["image_id"]]["file_name"]).convert("RGB")
        found.append(Cut(coco.cats[thing["category_id"]]["name"], np.array(photo)[inside], mask[inside]))
    return found


def background(path: Path, draw: random.Random) -> np.ndarray:
    """A part of a photo, `[HEIGHT, WIDTH, 3]`."""
    photo = Image.open(path).convert("RGB")
    scale = max(WIDTH / photo.width, HEIGHT / photo.height) * draw.uniform(1, 1.4)
    photo = photo.resize((int(photo.width * scale) + 1, int(photo.height * scale) + 1))
    x, y = draw.randint(0, photo.width - WIDTH), draw.randint(0, photo.height - HEIGHT)
    return np.array(photo.crop((x, y, x + WIDTH, y + HEIGHT)))


def picture(things: list[Cut], behind: np.ndarray, draw: random.Random) -> tuple[np.ndarray, list[Thing]]:
    """One to three objects that do not touch, and what they are and where."""
    image, taken, found = behind.copy(), np.zeros((HEIGHT, WIDTH), bool), []
    for _ in range(draw.randint(1, 3)):
        thing = draw.choice(things)
        scale = draw.uniform(*SIDES) / max(thing.mask.shape)
        height, width = (max(8, int(side * scale)) for side in thing.mask.shape)
        pixels = np.array(Image.fromarray(thing.pixels).resize((width, height)))
        mask = np.array(Image.fromarray(thing.mask).resize((width, height)))
        if draw.random() < 0.5:
            pixels, mask = pixels[:, ::-1], mask[:, ::-1]
        for _ in range(20):
            x, y = draw.randint(0, WIDTH - width), draw.randint(0, HEIGHT - height)
            place = np.s_[y : y + height, x : x + width]
            if not taken[place].any():
                taken[place] = True
                image[place][mask] = pixels[mask]
                found.append(Thing(thing.name, (x, y, x + width, y + height)))
                break
    return image, found


def export(
    out: Path, layout: Layout, things: list[Cut], behind: list[Path], count: int, seed: int
) -> list[Scene]:
    """A folder as a label tool writes it. Returns what is in the pictures; no two have the same name."""
    draw, scenes = random.Random(seed), []
    for split in ("train", "val"):
        for _ in range(count):
            image, found = picture(things, background(draw.choice(behind), draw), draw)
            save = partial(Image.fromarray(image).save, quality=92)
            scenes.append(Scene(f"{len(scenes):03}.jpg", (HEIGHT, WIDTH), found, save, split))
    layout.write(out, scenes, sorted({thing.name for thing in things}))
    return scenes


def ufo(home: Path, now: Callable[[], float], *arguments: str) -> float:
    """Seconds of a command by a clock. It runs in `home`; its output goes to the log there."""
    begun = now()
    with open(home / "commands.log", "a") as log:
        log.write(f"$ ufo {' '.join(arguments)}\n")
        log.flush()
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-m", "ufo.cli.main", *arguments],
            cwd=home,
            env={**os.environ, "PYTHONPATH": path},
            stdout=log,
            stderr=log,
        )
    if done.returncode:
        sys.exit(f"ufo {arguments[0]} failed: {home / 'commands.log'}")
    return now() - begun


def mAP50(run: Path) -> float:
    return json.loads((run / "metrics.json").read_text())[METRIC]["last"]


def curve(run: Path) -> str:
    """mAP50 at every validation, `step: value`."""
    rows = []
    for path in sorted((run / "csv").rglob("metrics.csv")):
        with open(path, newline="") as file:
            rows += [(row["step"], row.get(METRIC)) for row in csv.DictReader(file)]
    return ", ".join(f"{int(step) + 1}: {float(value):.2f}" for step, value in rows if value)


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("annotations", "images", "backgrounds"):
        made.add_argument(name, type=Path)
    made.add_argument("--format", choices=LAYOUTS, default="yolo")
    made.add_argument("--out", type=Path, default=Path("own_photos"))
    made.add_argument("--count", type=int, default=20)
    made.add_argument("--every", type=int)
    made.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments, overrides = made.parse_known_args()
    home, now = arguments.out, CLOCKS[arguments.clock]
    if home.exists():
        sys.exit(f"{home} exists; give another --out")
    behind = [path for path in sorted(arguments.backgrounds.iterdir()) if path.suffix in (".jpg", ".png")]
    things = cuts(arguments.annotations, arguments.images)
    layout = LAYOUTS[arguments.format]
    scenes = export(home / "photos", layout, things, behind, arguments.count, arguments.seed)
    imported = ufo(home, now, "data", "import", layout.format, "photos")
    (unseen,) = home.rglob(next(scene.name for scene in scenes if scene.split == "val"))
    often = [f"trainer.val_check_interval={arguments.every}", "logger=csv"] if arguments.every else []
    rows = []
    for start in arguments.starts:
        run, own = home / "runs" / start, [*STARTS[start], *often, *overrides]
        trained = ufo(home, now, "train", "mine/source/photos.yaml", *own, f"name={start}")
        options = ("--ckpt", f"runs/{start}", "--task", "detection", "--out", f"{start}.png")
        predicted = ufo(home, now, "predict", str(unseen.relative_to(home)), *options)
        learnt = f"sources.photos.dataset.val.annotations={home.resolve() / 'mine' / 'photos' / 'train.json'}"
        ufo(home, now, "evaluate", f"ckpt=runs/{start}", learnt, f"name={start}_learnt")
        seconds = [f"{value:.0f} s" for value in (imported, trained, predicted)]
        found = [mAP50(run), mAP50(home / "runs" / f"{start}_learnt" / "evaluate")]
        rows.append([start, *seconds, *(f"{value:.3f}" for value in found), curve(run)])
    columns = ["start", "data import", "train", "predict", "mAP50, unseen", "learnt", "step: mAP50, unseen"]
    title = f"{arguments.format}: {arguments.count} photos, {torch.get_num_threads()} threads"
    show(f"{title}, {arguments.clock} s", columns, rows)


if __name__ == "__main__":
    main()
