"""Annotations of Objects365's size: time and memory to read them once, and to open their index after that.

    python benchmarks/annotations.py [--images 1700000] [--boxes 25000000] [--workers 4] [--folder TMP]

The file is generated (about 6 GB, removed at the end); every row starts a new process. A worker's memory is
all that the process has: own pages (USS), and with its share of what several processes have in common (PSS).
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
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from ufo.data.datasets import CocoDataset
from ufo.data.index import remove, size_text

CLASSES = 365
COLUMNS = ("uss", "pss", "peak")


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
        ends = [box_text(random) for _ in range(min(boxes, 50_000))]  # again and again: quicker than new ones
        for start in range(0, boxes, len(ends)):
            owners = random.integers(images, size=min(len(ends), boxes - start)).tolist()
            rows = zip(owners, ends, strict=False)
            text = ", ".join(
                f'{{"id": {start + k}, "image_id": {i}, {end}' for k, (i, end) in enumerate(rows)
            )
            file.write(text + (", " if start + len(owners) < boxes else "], "))
        classes = ", ".join(f'{{"id": {k}, "name": "class {k}"}}' for k in range(1, CLASSES + 1))
        file.write(f'"categories": [{classes}]}}')


def box_text(random: np.random.Generator) -> str:
    """The end of an annotation: everything but its ids."""
    (x, y), (w, h) = random.random(2) * 300, 2 + random.random(2) * 150
    return (
        f'"iscrowd": 0, "isfake": 0, "area": {w * h:.8f}, "isreflected": 0, '
        f'"bbox": [{x:.8f}, {y:.8f}, {w:.8f}, {h:.8f}], "category_id": {random.integers(1, CLASSES + 1)}}}'
    )


class Lookups(Dataset):
    """Each item looks up the annotations of random samples; it tells the process and its memory."""

    def __init__(self, data: CocoDataset | None, lookups: int, items: int) -> None:
        self.data, self.lookups, self.items = data, lookups, items

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> dict[str, float]:
        random, began = np.random.default_rng(index), time.perf_counter()
        for i in random.integers(len(self.data), size=self.lookups).tolist() if self.data else ():
            self.data.target(i)
        each = (time.perf_counter() - began) / max(self.lookups, 1)
        return {"pid": os.getpid(), "each": each, **memory()}


def memory() -> dict[str, int]:
    """Bytes of this process: its own, with its share of common pages, the most so far with all of those."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {key: int(value.split()[0]) for key, value in (line.split(":") for line in lines)}
    own = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    return {"uss": own << 10, "pss": kilobytes["Pss"] << 10, "peak": int(peak) << 10}


def first(batch: list[dict[str, float]]) -> dict[str, float]:
    return batch[0]


def measure(folder: Path, lookups: int, workers: int, start: str, answers: multiprocessing.Queue) -> None:
    """Open the data set, then look up annotations in the workers of a loader; the numbers go to `answers`."""
    import pyarrow  # noqa: F401  (part of what a process has anyway, as torch is)

    before, began, cpu = memory(), time.perf_counter(), time.process_time()
    data = CocoDataset(folder / "images", folder / "annotations.json", train=True, masks=False, name_parts=2)
    data.portrait()
    after, times = memory(), {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    if not workers:  # what the data set adds to a process that has imported everything
        answers.put({**times, "each": 0.0, **{key: after[key] - before[key] for key in COLUMNS}})
        return
    items = Lookups(data if lookups else None, lookups // 10, 10 * workers)
    options = {"num_workers": workers, "multiprocessing_context": start, "collate_fn": first}
    found = iter(DataLoader(items, batch_size=1, **options))
    seen = [next(found)]
    times["seconds"] = time.perf_counter() - began
    seen += found
    last = {row["pid"]: row for row in seen}.values()
    worst = {key: max(row[key] for row in last) for key in (*COLUMNS, "each")}
    answers.put({**times, **worst})


def run(folder: Path, lookups: int = 0, workers: int = 0, start: str = "fork") -> dict[str, float]:
    """`measure` in a new process."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=measure, args=(folder, lookups, workers, start, answers))
    process.start()
    found = answers.get()
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
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        folder = Path(scratch)
        (folder / "images" / "patch0").mkdir(parents=True)
        PIL.Image.new("RGB", (640, 480)).save(folder / "images" / "patch0" / "objects365_v2_00000000.jpg")
        path = folder / "annotations.json"
        write_annotations(path, args.images, args.boxes)
        size = size_text(path.stat().st_size)
        print(f"{args.images} images, {args.boxes} boxes, {size}, {os.cpu_count()} cores", flush=True)
        table = Table("", "seconds", "CPU s", "own memory", "with shared", "peak", "look-up")
        rows = {"first start (reads the JSON)": run(folder), "second start, added": run(folder)}
        for start in ("fork", "spawn"):
            rows[f"largest worker, {start}"] = run(folder, args.lookups, args.workers, start)
            rows[f"one without annotations, {start}"] = run(folder, 0, args.workers, start)
        for name, row in rows.items():
            sizes = (size_text(row[key]) for key in COLUMNS)
            each = f"{1e6 * row['each']:.0f} µs" if row["each"] else ""
            table.add_row(name, f"{row['seconds']:.1f}", f"{row['cpu']:.1f}", *sizes, each)
        indexes = sum(p.stat().st_size for p in (folder / ".ufo_index").glob("*.arrow"))
        Console(width=110).print(table)
        print(f"seconds of a row with workers: until the first sample; index on disk: {size_text(indexes)}")
        remove(path)


if __name__ == "__main__":
    main()
