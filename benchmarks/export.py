"""What an export gains: time a picture of the model, its graph, AOTInductor and onnxruntime, in one run.

    python benchmarks/export.py FOLDER SCENES [--clock cpu --threads 1]

FOLDER is what `ufo export weights/ufo_vit_tiny_digits --out FOLDER --format torch aoti onnx` wrote (of a task
with queries), SCENES a folder with pictures and COCO annotations: that of `ufo data digits --out DATA
--train 0 --val 100` is DATA/val. Beside the time of the encoder and of whole answers stands the box mAP50
of the scenes, and that of 8-bit weights (onnxruntime's dynamic quantisation), with the files' sizes.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path

import torch
from common import Clock, common_arguments, show
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

import ufo
from ufo.data.image_files import images_in
from ufo.data.pictures import as_image
from ufo.export.parts import make_parts
from ufo.export.run import Run, answer, compiled_program, onnx_session, torch_program
from ufo.inference.asking import make_requests
from ufo.inference.batches import network_input
from ufo.model import UFO
from ufo.tasks.base import Answers
from ufo.tasks.box import BoxNumbers
from ufo.types import Prediction

WARM_UP = 3  # pictures


def quantised(path: Path) -> Path:
    """Weights of matrix products in 8 bits; onnxruntime rounds activations while it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = path.with_suffix(".int8.onnx")
    if not out.exists():
        quantize_dynamic(path, out, weight_type=QuantType.QInt8)
    return out


def ways(model: UFO, folder: Path, about: dict, threads: int) -> dict[str, tuple[Run, Run, float]]:
    """Encoder and step by name, and the megabytes of their files."""
    (request,), _ = make_requests(model, [about["task"]], [""], about["classes"])
    parts = make_parts(model, request)
    found: dict[str, tuple[Run, Run, float]] = {}
    found["parts as modules"] = parts[0].module, parts[1].module, megabytes(model)

    def add(name: str, suffix: str, load: Callable[[Path], Run]) -> None:
        paths = [folder / f"{part}{suffix}" for part in ("encoder", "step")]
        if paths[0].exists():
            size = sum(p.stat().st_size for one in paths for p in one.parent.glob(f"{one.name}*")) / 1e6
            found[name] = load(paths[0]), load(paths[1]), size

    add("torch.export", ".pt2", torch_program)
    add("AOTInductor", ".aoti.pt2", compiled_program)
    add("onnxruntime", ".onnx", lambda path: onnx_session(path, threads))
    if "onnxruntime" in found:
        for part in ("encoder", "step"):
            quantised(folder / f"{part}.onnx")
        add("onnxruntime, 8 bits", ".int8.onnx", lambda path: onnx_session(path, threads))
    return found


def read(model: UFO, about: dict, encoder: Run, step: Run, pixels: Tensor) -> Prediction:
    """A picture's objects, from the texts of exported parts to the task's own reading of them."""
    task = model.task(about["task"])
    said = answer(encoder, step, about["end"], about["max_length"], network_input(pixels, task))
    size = (pixels.shape[-2], pixels.shape[-1])
    return task.parse(
        Answers(
            texts=model.tokenizer.decode(said.ids.tolist()),
            scores=said.scores,
            references=torch.tensor(about["queries"]),
            size=size,
            classes=tuple(about["classes"]),
            mask_counts=[0] * len(said.ids),
            retrieve_masks=lambda chosen, which=None: torch.zeros(0),
        )
    )


def box_map50(found: list[tuple[Path, Prediction]], annotations: Path) -> float:
    """COCO's mAP50 of boxes, by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        images = {one["file_name"]: one["id"] for one in truth.dataset["images"]}
        names = {one["name"]: one["id"] for one in truth.dataset["categories"]}
        records = []
        for path, one in found:
            assert one.boxes is not None and one.labels is not None and one.scores is not None
            for (x1, y1, x2, y2), label, score in zip(
                one.boxes.tolist(), one.labels.tolist(), one.scores.tolist(), strict=True
            ):
                box = [x1, y1, x2 - x1, y2 - y1]
                category = names[one.classes[label]]
                image = images[path.name]
                records.append({"image_id": image, "category_id": category, "bbox": box, "score": score})
        scores = COCOeval(truth, truth.loadRes(records), "bbox")
        scores.params.imgIds = [images[path.name] for path, _ in found]
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    return float(scores.stats[1])


def by_predict(
    name: str, model: UFO, about: dict, pictures: list[Tensor], paths: list[Path], scenes: Path, clock: Clock
) -> list[str]:
    """The model as its users call it: rows that have ended leave."""
    for one in pictures[:WARM_UP]:
        model.predict(one, about["task"])
    found, seconds = clock(lambda: [model.predict(one, about["task"]) for one in pictures])
    quality = box_map50(list(zip(paths, found, strict=True)), scenes / "instances.json")
    size = f"{megabytes(model):.1f} MB"
    return [name, size, "", f"{seconds / len(paths) * 1000:.1f} ms", f"{quality:.3f}"]


def megabytes(model: UFO) -> float:
    """Of all weights as they are stored."""
    out = io.BytesIO()
    torch.save(model.state_dict(), out)
    return len(out.getvalue()) / 1e6


def eight_bits(model: UFO) -> UFO:
    """Weights of all linear maps in 8 bits; torch rounds activations while it runs."""
    from torch.ao.quantization import quantize_dynamic

    changed = copy.deepcopy(model)
    quantize_dynamic(changed.backbone, {nn.Linear}, dtype=torch.qint8, inplace=True)
    return changed


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("folder", type=Path)
    made.add_argument("scenes", type=Path)
    made.add_argument("--ckpt", default="weights/ufo_vit_tiny_digits")
    made.add_argument("--images", type=int, default=100)
    made.add_argument("--only-8-bits", action="store_true", help="the model and its 8-bit copy, no files")
    common_arguments(made)
    arguments = made.parse_args()
    torch.set_num_threads(arguments.threads)
    model, clock = ufo.load(arguments.ckpt), Clock(arguments.clock)
    about = json.loads((arguments.folder / "export.json").read_text(encoding="utf-8"))
    for task in model.tasks.values():
        if isinstance(task, BoxNumbers):
            task.box = "said"  # all that is read from exported parts here is their texts
    paths = images_in(arguments.scenes / "images")[: arguments.images]
    pictures = [as_image(path).as_subclass(Tensor) for path in paths]
    inputs = [network_input(one, model.task(about["task"])) for one in pictures]
    asked = (about, pictures, paths, arguments.scenes, clock)
    rows = [by_predict("model.predict", model, *asked)]
    rows.append(by_predict("model.predict, 8 bits", eight_bits(model), *asked))
    others = {} if arguments.only_8_bits else ways(model, arguments.folder, about, arguments.threads)
    for name, (encoder, step, size) in others.items():
        with torch.inference_mode():
            for one in inputs[:WARM_UP]:
                encoder(one)
            _, encoding = clock(lambda e=encoder: [e(one) for one in inputs])
        found, whole = clock(lambda e=encoder, s=step: [read(model, about, e, s, one) for one in pictures])
        quality = box_map50(list(zip(paths, found, strict=True)), arguments.scenes / "instances.json")
        times = [f"{seconds / len(paths) * 1000:.1f} ms" for seconds in (encoding, whole)]
        rows.append([name, f"{size:.1f} MB", *times, f"{quality:.3f}"])
    title = f"{about['task']}, {len(paths)} pictures, {arguments.threads} threads, {arguments.clock}"
    show(title, ["", "files", "encoder", "whole answers", "mAP50"], rows)


if __name__ == "__main__":
    main()
