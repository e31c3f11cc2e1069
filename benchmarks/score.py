"""How long `ufo score` takes: RefCOCO's validation split, and detections in COCO's format.

    python benchmarks/score.py [--expressions 10834] [--images 1500] [--coco 500] [--resamples 1000]

Files are generated and removed at the end. Seconds are those of the CPU, from the files to
the values, without and with intervals.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ufo.score.evaluate import Declared, Resampling, score
from ufo.score.truth import Wanted, read_truth

SIDE = 640
CLASSES = 80


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """x, y, width, height, float64 `[count, 4]`."""
    sizes = rng.uniform(16, 300, (count, 2))
    return np.concatenate([rng.uniform(0, SIDE - sizes), sizes], axis=1).round(2)


def expressions(folder: Path, count: int, images: int, rng: np.random.Generator) -> tuple[Path, Path]:
    """JSONL of expressions and of predictions, most of them near."""
    truth = boxes(rng, count)
    found = truth + rng.normal(0, 0.12, truth.shape) * np.tile(truth[:, 2:], 2)
    names = [{"image": f"{i % images}.jpg", "text": f"thing {i}"} for i in range(count)]
    lines = [
        {**n, "bbox": b, "height": SIDE, "width": SIDE} for n, b in zip(names, truth.tolist(), strict=True)
    ]
    answers = [{**n, "bbox": b} for n, b in zip(names, found.tolist(), strict=True)]
    return write(folder / "truth.jsonl", lines), write(folder / "found.jsonl", answers)


def objects(folder: Path, images: int, rng: np.random.Generator) -> tuple[Path, Path]:
    """A COCO file with 7 objects an image, and results with 40."""
    records = [{"id": i, "file_name": f"{i}.jpg", "height": SIDE, "width": SIDE} for i in range(images)]
    truth = boxes(rng, 7 * images)
    labels = rng.integers(1, CLASSES + 1, len(truth))
    annotations = [
        {"id": i + 1, "image_id": i // 7, "category_id": int(label), "bbox": box, "area": box[2] * box[3]}
        for i, (box, label) in enumerate(zip(truth.tolist(), labels, strict=True))
    ]
    near = truth + rng.normal(0, 0.08, truth.shape) * np.tile(truth[:, 2:], 2)
    wrong = boxes(rng, 33 * images)
    owners = np.concatenate([np.arange(len(near)) // 7, np.arange(len(wrong)) // 33])
    named = np.concatenate([labels, rng.integers(1, CLASSES + 1, len(wrong))])
    scores = np.concatenate([rng.beta(4, 2, len(near)), rng.beta(1, 6, len(wrong))])
    rows = zip(
        owners.tolist(), named.tolist(), np.concatenate([near, wrong]).tolist(), scores.tolist(), strict=True
    )
    results = [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in rows]
    categories = [{"id": i + 1, "name": f"class {i}"} for i in range(CLASSES)]
    content = {"images": records, "annotations": annotations, "categories": categories}
    return write(folder / "truth.json", content), write(folder / "found.json", results)


def write(path: Path, content: Any) -> Path:
    """As JSON, or line by line."""
    lines = path.suffix == ".jsonl"
    path.write_text("".join(f"{json.dumps(v)}\n" for v in content) if lines else json.dumps(content))
    return path


def seconds(truth: Path, found: Path, task: str, resamples: int) -> tuple[float, str]:
    """CPU time of one scoring, and its headline with the interval."""
    start = time.process_time()
    known = read_truth(truth, Wanted())
    result = score(found, known, task, Declared(boxes="xywh"), Resampling(resamples))
    spent = time.process_time() - start
    value, ends = result.values[result.headline], result.intervals.get(result.headline)
    return spent, f"{value:.4f}" + (f" ({ends.low:.4f} to {ends.high:.4f})" if ends else "")


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--expressions", type=int, default=10_834)
    parser.add_argument("--images", type=int, default=1_500)
    parser.add_argument("--coco", type=int, default=500, help="images of the COCO file")
    parser.add_argument("--resamples", type=int, default=1_000)
    args = parser.parse_args()
    table = Table("what", "without intervals, s", "with, s", "headline")
    with tempfile.TemporaryDirectory() as name:
        rng = np.random.default_rng(0)
        cases = [
            (
                "grounding",
                f"{args.expressions:,} expressions, {args.images:,} images",
                expressions(Path(name), args.expressions, args.images, rng),
            ),
            (
                "detection",
                f"{40 * args.coco:,} boxes, {args.coco:,} images",
                objects(Path(name), args.coco, rng),
            ),
        ]
        for task, what, files in cases:
            plain, _ = seconds(*files, task, 0)
            whole, headline = seconds(*files, task, args.resamples)
            table.add_row(f"{task}: {what}", f"{plain:.1f}", f"{whole:.1f}", headline)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
