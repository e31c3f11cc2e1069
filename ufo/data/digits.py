"""The built-in data set "digit scenes": generated once, on disk in the four standard formats.

`generate` writes COCO instances, ADE20K-style semantic maps, Karpathy captions, RefCOCO expressions
and LLaVA conversations, so that the demo runs through the same loaders as the official data sets.
`python -m ufo.data.digits --out data/digits --train 24000 --val 500`
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from rich.progress import track

from ufo.data.digits_questions import question_words
from ufo.data.digits_refs import ADDED, add_files, numbered, things_of, write_json, write_refs
from ufo.data.digits_scene import CLASSES, COLORS, SEMANTIC_CLASSES, VARIANTS, Variant, draw_scene
from ufo.data.digits_text import captions, expressions, vocabulary
from ufo.data.errors import DataError
from ufo.data.processes import process_pool
from ufo.files import replace_folder

__all__ = ["CLASSES", "COLORS", "SEMANTIC_CLASSES", "generate", "main", "question_words", "vocabulary"]

FORMAT = 3  # raise it whenever the same options give other files; `digits_refs.ADDED` has what came when
STAMP = "scenes.json"
_CHUNK = 32  # scenes per job


def generate(
    out: Path | str,
    *,
    train: int,
    val: int,
    seed: int = 0,
    size: int = 112,
    variant: str = "standard",
    workers: int | None = None,
    progress: bool = True,
    force: bool = False,
    at_least: bool = False,
) -> Path:
    """Write `train` + `val` scenes of `size` x `size` pixels to `out` and return `out`.

    The files depend on the options only, not on `workers` (default: all cores). A folder that was
    finished with the same options is returned as it is. `out` appears complete or not at all. Scenes of
    an earlier version get the questions that they lack; nothing that was there changes. With `at_least` a
    folder with more scenes, else of the same options, will do: they begin with those that are asked for.

    Raises:
        DataError: unknown `variant`, impossible numbers, or `out` holds something else; with
            `force` scenes of other options are replaced (but never a folder of another kind).
    """
    out = Path(out)
    if variant not in VARIANTS:
        raise DataError(f"unknown variant {variant!r} of digit scenes; use one of {list(VARIANTS)}")
    if train < 0 or val < 0 or not 32 <= size <= 4096 or seed < 0:
        raise DataError(
            f"digit scenes need train, val, seed >= 0 and 32 <= size <= 4096, "
            f"not train={train}, val={val}, seed={seed}, size={size}"
        )
    stamp: dict[str, Any] = {"format": FORMAT, "train": train, "val": val, "seed": seed, "size": size}
    stamp["variant"] = variant
    if _finished(out, stamp, force, at_least):
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out)
    partial_out = _partial_name(out, os.getpid())
    try:
        with _executor(workers, train + val) as executor:
            for split, count in (("train", train), ("val", val)):
                _write_split(partial_out / split, split, count, stamp, executor, progress)
        # the stamp comes last, then one rename: no kill can leave a folder that looks finished
        (partial_out / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")
        if _finished(out, stamp, force, at_least):  # another process was faster
            return out
        replace_folder(partial_out, out, aside=_partial_name(out, f"replaced-{os.getpid()}"))
    finally:
        shutil.rmtree(partial_out, ignore_errors=True)
    return out


def _finished(out: Path, stamp: dict[str, Any], force: bool, at_least: bool) -> bool:
    """Whether `out` holds these scenes; raises if it holds anything that may not be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / STAMP).read_text())
    except (OSError, ValueError):
        raise DataError(
            f"{out} exists but holds no finished digit scenes (no readable {STAMP}); "
            f"choose another folder with out=..., or remove it"
        ) from None
    found = found if isinstance(found, dict) else {}
    # who asks for no scenes of a split takes a folder with any number of them
    splits = [split for split in ("train", "val") if isinstance(found.get(split), int)]
    enough = [split for split in splits if not stamp[split] or (at_least and found[split] > stamp[split])]
    unasked = {split: stamp[split] for split in enough}
    if {**found, **unasked} == stamp:
        return True
    since = found.get("format")
    if isinstance(since, int) and since < FORMAT and {**found, **unasked, "format": FORMAT} == stamp:
        return add_files(out, _partial_name(out, os.getpid()), {**found, "format": FORMAT}, since, STAMP)
    if force:
        return False
    differences = ", ".join(
        f"{key}={found.get(key)} instead of {key}={value}"
        for key, value in stamp.items()
        if found.get(key) != value and key not in unasked
    )
    raise DataError(
        f"{out} holds digit scenes with {differences}; ask for the same options, choose another "
        f"folder with out=..., or replace it with force=True (--force)"
    )


def _partial_name(out: Path, pid: int | str) -> Path:
    return out.with_name(f".{out.name}.partial-{socket.gethostname()}-{pid}")


def _remove_leftovers(out: Path) -> None:
    """Remove what killed generations of `out` left behind on this machine."""
    for left in out.parent.glob(_partial_name(out, "*").name):
        try:
            os.kill(int(left.name.rpartition("-")[2]), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(left, ignore_errors=True)
        except PermissionError:  # alive, another user's
            continue


class _InProcess(Executor):
    """`map` without processes: for few scenes starting them takes longer than drawing."""

    def map(self, fn, *iterables, **_):
        return map(fn, *iterables)


def _executor(workers: int | None, scenes: int) -> Executor:
    affinity = getattr(os, "sched_getaffinity", None)  # missing outside Linux
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    workers = min(workers or cores, max(1, scenes // _CHUNK))
    if workers <= 1:
        return _InProcess()
    return process_pool(workers)


def _write_split(
    folder: Path, split: str, count: int, stamp: dict, executor: Executor, progress: bool
) -> None:
    for name in ("images", "semantic", "refcoco"):
        (folder / name).mkdir(parents=True)
    draw = partial(_write_scenes, folder, split, stamp)
    jobs = [range(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]
    label = f"{VARIANTS[stamp['variant']].noun} scenes, {stamp['variant']} {split}"
    chunks = track(executor.map(draw, jobs), label, total=len(jobs), disable=not progress or not jobs)
    scenes = [scene for chunk in chunks for scene in chunk]
    spec = VARIANTS[stamp["variant"]]
    _write_instances(folder, scenes, stamp["size"], spec)
    (folder / "semantic_classes.txt").write_text("\n".join(spec.semantic_classes) + "\n")
    _write_captions(folder, scenes, split)
    write_refs(folder / "refcoco" / "refs(digits).p", scenes, split)
    for write in ADDED.values():
        write(folder, scenes, split, stamp)
    shutil.copyfile(folder / "instances.json", folder / "refcoco" / "instances.json")


def _write_scenes(folder: Path, split: str, stamp: dict, indices: range) -> list[dict[str, Any]]:
    """Draw some scenes, write images and semantic maps, return annotations and texts."""
    scenes = []
    spec = VARIANTS[stamp["variant"]]
    for index in indices:
        # independent streams per scene, so that the result does not depend on who draws which
        rng = np.random.default_rng([stamp["seed"], spec.stream, int(split == "val"), index])
        scene = draw_scene(rng, split, stamp["variant"], stamp["size"])
        name = f"{index + 1:06d}"
        # full colour resolution: halving it would wash out the thin strokes' colours
        Image.fromarray(scene.image).save(folder / "images" / f"{name}.jpg", quality=92, subsampling=0)
        semantic = np.full(scene.masks.shape[1:], len(spec.semantic_classes), np.uint8)
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            semantic[mask] = label + 1
        Image.fromarray(semantic).save(folder / "semantic" / f"{name}.png")
        codes = rle.encode(np.asfortranarray(scene.masks.transpose(1, 2, 0), dtype=np.uint8))
        annotations = [
            {
                "bbox": [float(v) for v in box],
                "area": int(area),
                "iscrowd": 0,
                "segmentation": {
                    "size": [int(v) for v in c["size"]],
                    "counts": c["counts"].decode(),
                },
                "category_id": label + 1,
                "color": color,
                **({"texture": texture} if texture else {}),
            }
            for c, box, area, label, color, texture in zip(
                codes,
                rle.toBbox(codes),
                rle.area(codes),
                scene.labels,
                scene.colors,
                scene.textures,
                strict=True,
            )
        ]
        things = things_of(annotations, spec)
        scenes.append(
            {
                "name": name,
                "annotations": annotations,
                "captions": captions(things),
                "expressions": expressions(things, stamp["size"], rng, spec.noun),
            }
        )
    return scenes


def _write_instances(folder: Path, scenes: list[dict], size: int, spec: Variant) -> None:
    images = [
        {"id": i, "file_name": f"{s['name']}.jpg", "height": size, "width": size}
        for i, s in enumerate(scenes, 1)
    ]
    annotations = [
        {"id": number, "image_id": image_id, **annotation}
        for image_id, number, annotation, _ in numbered(scenes)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(spec.classes, 1)]
    content = {"info": {"description": f"{spec.noun} scenes"}, "images": images}
    content |= {"annotations": annotations, "categories": categories}
    write_json(folder / "instances.json", content)


def _write_captions(folder: Path, scenes: list[dict], split: str) -> None:
    whole = [
        {"image": f"images/{s['name']}.jpg", "caption": s["captions"], "image_id": i}
        for i, s in enumerate(scenes, 1)
    ]
    pairs = [{**record, "caption": text} for record in whole for text in record["caption"]]
    if split == "train":
        write_json(folder / "captions_karpathy.json", pairs)
        return
    write_json(folder / "captions_karpathy.json", whole)
    truth = {
        "images": [{"id": record["image_id"]} for record in whole],
        "annotations": [
            {"image_id": p["image_id"], "id": i, "caption": p["caption"]} for i, p in enumerate(pairs, 1)
        ],
    }
    write_json(folder / "captions_gt.json", truth)


def main(argv: list[str] | None = None) -> None:
    """Command line of `generate`."""
    parser = argparse.ArgumentParser(prog="python -m ufo.data.digits", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=24000, help="number of training scenes")
    parser.add_argument("--val", type=int, default=500, help="number of validation scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=112, help="side of the images in pixels")
    parser.add_argument("--variant", choices=list(VARIANTS), default="standard")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: all cores)")
    parser.add_argument("--force", action="store_true", help="replace scenes of other options")
    try:
        print(generate(**vars(parser.parse_args(argv))))
    except DataError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
