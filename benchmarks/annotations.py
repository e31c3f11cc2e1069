"""Annotations of Objects365's size: time and memory to read them once, and to open their index after that.

    python benchmarks/annotations.py [--images 1700000] [--boxes 25000000] [--workers 4] [--folder TMP]

The file is generated (about 5 GB, removed at the end); every measurement runs in a new process. Memory is
what opening the data set and looking up annotations add to a process that has imported everything.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
import psutil
from rich.console import Console
from rich.table import Table

from ufo.data.datasets import CocoDataset
from ufo.data.index import remove, size_text

CLASSES = 365


def write_annotations(path: Path, images: int, boxes: int, seed: int = 0) -> None:
    """A file with the fields of Objects365 v2; annotations of an image do not stand together."""
    random = np.random.default_rng(seed)
    with open(path, "w") as file:
        file.write('{"images": [')
        for i in range(images):
            name = f"images/v2/patch{i % 51}/objects365_v2_{i:08d}.jpg"
            end = ", " if i + 1 < images else "], "
            file.write(
                f'{{"height": 480, "id": {i}, "license": 5, "width": 640, "file_name": "{name}"}}{end}'
            )
        file.write('"annotations": [')
        for start in range(0, boxes, 100_000):
            n = min(100_000, boxes - start)
            corner, side = random.random((n, 2)) * 300, 2 + random.random((n, 2)) * 150
            owner, label = random.integers(images, size=n), random.integers(1, CLASSES + 1, size=n)
            rows = zip(corner.tolist(), side.tolist(), owner.tolist(), label.tolist(), strict=True)
            file.write(
                ", ".join(
                    f'{{"id": {start + k}, "iscrowd": 0, "isfake": 0, "area": {w * h:.8f}, "isreflected": 0, '
                    f'"bbox": [{x:.8f}, {y:.8f}, {w:.8f}, {h:.8f}], "image_id": {image}, "category_id": {c}}}'
                    for k, ((x, y), (w, h), image, c) in enumerate(rows)
                )
            )
            file.write(", " if start + n < boxes else "], ")
        classes = ", ".join(f'{{"id": {k}, "name": "class {k}"}}' for k in range(1, CLASSES + 1))
        file.write(f'"categories": [{classes}]}}')


def measure(folder: Path, lookups: int, seed: int, answers: multiprocessing.Queue) -> None:
    """Open the data set and look up annotations, as a worker does; what that takes goes to `answers`."""
    import pyarrow  # noqa: F401  (part of what a process has anyway, as torch is)

    process = psutil.Process()
    before, began = process.memory_full_info(), time.perf_counter()
    data = CocoDataset(folder / "images", folder / "annotations.json", train=True, masks=False, name_parts=2)
    opened = time.perf_counter() - began
    portrait = int(data.portrait().sum())
    random = np.random.default_rng(seed)
    began = time.perf_counter()
    objects = sum(len(data.target(int(i)).boxes) for i in random.integers(len(data), size=lookups))
    each = (time.perf_counter() - began) / max(lookups, 1)
    after = process.memory_full_info()
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    answers.put(
        {
            "seconds": opened,
            "uss": after.uss - before.uss,  # pages that no other process shares
            "rss": after.rss - before.rss,  # with the pages of the file that all of them share
            "peak": peak - before.rss,
            "each": each,
            "found": (len(data), portrait, objects),
        }
    )


def run(folder: Path, lookups: int, workers: int = 1) -> list[dict]:
    """`measure` in new processes at the same time."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [
        context.Process(target=measure, args=(folder, lookups, seed, answers)) for seed in range(workers)
    ]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_700_000)
    parser.add_argument("--boxes", type=int, default=25_000_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--lookups", type=int, default=20_000, help="samples that each worker looks up")
    parser.add_argument("--folder", type=Path, help="for the generated file (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        (folder / "images" / "patch0").mkdir(parents=True)
        PIL.Image.new("RGB", (640, 480)).save(folder / "images" / "patch0" / "objects365_v2_00000000.jpg")
        path = folder / "annotations.json"
        write_annotations(path, args.images, args.boxes)
        size = size_text(path.stat().st_size)
        print(f"{args.images} images, {args.boxes} boxes, {size}, {os.cpu_count()} cores", flush=True)
        table = Table("", "seconds", "own memory", "with shared pages", "peak", "look-up")
        rows = {
            "first start (reads the JSON)": run(folder, 0),
            "second start": run(folder, 0),
            f"a worker of {args.workers}, {args.lookups} samples": run(folder, args.lookups, args.workers),
        }
        for name, found in rows.items():
            worst = {key: max(f[key] for f in found) for key in ("seconds", "uss", "rss", "peak", "each")}
            memory = (size_text(worst[key]) for key in ("uss", "rss", "peak"))
            table.add_row(name, f"{worst['seconds']:.1f}", *memory, f"{1e6 * worst['each']:.0f} µs")
        indexes = sum(p.stat().st_size for p in (folder / ".ufo_index").glob("*.arrow"))
        Console(width=110).print(table)
        print(f"index on disk: {size_text(indexes)}")
        remove(path)


if __name__ == "__main__":
    main()
