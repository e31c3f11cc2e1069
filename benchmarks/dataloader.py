"""Images per second of each training pipeline in one worker, against decoding the same JPEG files alone.

Scenes are generated: photo-like textures with objects whose polygons are annotated in COCO's format. The aim
is 60 % of what decoding alone allows. Collating and sending batches is not part of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import show
from PIL import Image, ImageFilter

from ufo.data.augmentations import Transform
from ufo.data.datasets.coco import CocoDataset
from ufo.data.pictures import read_image
from ufo.data.transforms import caption_train, detection_train, grounding_train, semantic_train
from ufo.types import Sample

SIDES = {"detection": 1120, "instance_segmentation": 1120, "semantic_segmentation": 672, "caption": 224}
CLASSES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["640x480", "1280x960"], help="of the files, WxH")
    parser.add_argument("--images", type=int, default=24, help="files per size")
    parser.add_argument("--objects", type=int, default=7, help="per image, as many as COCO has")
    parser.add_argument("--repeat", type=int, default=2, help="passes over the files; the fastest counts")
    parser.add_argument("--scale", type=float, default=1.0, help="times the official network sides")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in a worker
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    for size in arguments.sizes:
        width, height = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            generate(Path(folder), width, height, arguments.images, arguments.objects)
            rows = measure(Path(folder), arguments, clock)
        columns = ["pipeline", "side", "images/s", "ms/image", "of decoding"]
        show(f"{size} JPEG, one worker, {arguments.clock} clock", columns, rows)


def measure(folder: Path, arguments: argparse.Namespace, clock: Callable[[], float]) -> list[list[str]]:
    """Rows of the table; the first one is decoding alone."""
    files = sorted(folder.glob("*.jpg"))

    def time_of(function: Callable[[int], object]) -> float:
        return best(function, len(files), arguments.repeat, clock)

    decode = time_of(lambda i: read_image(files[i]))
    times = {n: (side, time_of(f)) for n, (side, f) in pipelines(folder, files, arguments.scale).items()}
    decode = min(decode, time_of(lambda i: read_image(files[i])))  # the machine may have been busier before
    return [
        [name, str(side), f"{1 / seconds:.1f}", f"{1e3 * seconds:.1f}", f"{100 * decode / seconds:.0f} %"]
        for name, (side, seconds) in {"decoding alone": ("", decode), **times}.items()
    ]


def best(function: Callable[[int], object], count: int, repeat: int, clock: Callable[[], float]) -> float:
    """Seconds per call, of the fastest pass."""
    function(0)
    passes = []
    for _ in range(repeat):
        torch.manual_seed(0)
        began = clock()
        for i in range(count):
            function(i)
        passes.append((clock() - began) / count)
    return min(passes)


def pipelines(
    folder: Path, files: list[Path], scale: float
) -> dict[str, tuple[int, Callable[[int], object]]]:
    """Each task's official training pipeline as a function of an index, with its network side."""
    data = CocoDataset(folder, folder / "instances.json", train=True)
    boxes = CocoDataset(folder, folder / "instances.json", train=True, masks=False)
    sides = {task: max(round(side * scale / 224), 1) * 224 for task, side in SIDES.items()}
    detection, instances = sides["detection"], sides["instance_segmentation"]
    semantic, caption = sides["semantic_segmentation"], sides["caption"]
    pasted = detection_train(detection)
    pasted.bind(data)

    def run(transform: Transform, read: Callable[[int], Sample]) -> Callable[[int], object]:
        return lambda i: transform(read(i))

    plain = detection_train(detection, copy_paste=False)
    return {
        "detection": (detection, run(pasted, data.__getitem__)),
        "detection, boxes alone": (detection, run(plain, boxes.__getitem__)),
        "instances, without copy-paste": (
            instances,
            run(detection_train(instances, min_mask_area=1, copy_paste=False), data.__getitem__),
        ),
        "semantic segmentation": (
            semantic,
            run(semantic_train(semantic), lambda i: semantic_sample(files[i])),
        ),
        "caption": (caption, run(caption_train(caption), lambda i: {"image": read_image(files[i])})),
        "grounding": (caption, run(grounding_train(caption), lambda i: one_object(boxes[i]))),
    }


def semantic_sample(file: Path) -> Sample:
    """As the reader of segmentation data sets gives it."""
    from torchvision import tv_tensors

    labels = np.array(Image.open(file.with_suffix(".png")))
    return {"image": read_image(file), "semantic": tv_tensors.Mask(torch.from_numpy(labels))}


def one_object(sample: Sample) -> Sample:
    return {"image": sample["image"], "boxes": sample["boxes"][:1], "labels": sample["labels"][:1]}


def generate(folder: Path, width: int, height: int, images: int, objects: int, seed: int = 0) -> None:
    """`images` scenes with polygons in `instances.json`, and class maps beside them."""
    rng = np.random.default_rng(seed)
    content: dict = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": i + 1, "name": f"class {i}"} for i in range(CLASSES)]
    for i in range(images):
        noise = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        grain = Image.effect_noise((width, height), 24).convert("RGB")
        picture = Image.blend(picture, grain, 0.3).filter(ImageFilter.GaussianBlur(0.6))
        picture.save(folder / f"{i:04}.jpg", quality=90)
        labels = (np.arange(width) * CLASSES // width).astype(np.uint8)
        Image.fromarray(np.tile(labels, (height, 1))).save(folder / f"{i:04}.png")
        content["images"].append({"id": i, "file_name": f"{i:04}.jpg", "width": width, "height": height})
        for _ in range(objects):
            content["annotations"].append(annotation(rng, width, height, i, len(content["annotations"])))
    (folder / "instances.json").write_text(json.dumps(content))


def annotation(rng: np.random.Generator, width: int, height: int, image: int, number: int) -> dict:
    """A polygon of 24 corners around a random place."""
    radius = rng.uniform(0.04, 0.2) * min(width, height)
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    lengths = radius * rng.uniform(0.7, 1.0, 24)
    corners = np.stack([x + lengths * np.cos(angles), y + lengths * np.sin(angles)], 1)
    low, high = corners.min(0), corners.max(0)
    return {
        "id": number + 1,
        "image_id": image,
        "category_id": int(rng.integers(CLASSES)) + 1,
        "segmentation": [corners.round(2).flatten().tolist()],
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "area": float(np.prod(high - low) * 0.7),
        "iscrowd": 0,
    }


if __name__ == "__main__":
    main()
