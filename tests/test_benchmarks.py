"""Each benchmark runs at its smallest settings and prints its table; they assert equal answers themselves."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import ROOT, environment, forked
from PIL import Image
from pycocotools import mask as mask_utils

from ufo.check import check_config
from ufo.checkpoints.recipes import compose

FOLDER = ROOT / "benchmarks"
SMALL = ["--network", "tiny", "--scale", "0.2", "--threads", "1"]
RUNS = {
    "decode_vit": ([*SMALL, "--objects", "120"], "grounding"),
    "gpu": (
        ["--miniature", "--parts", "train", "attention", "mllm", "digits", "--limit", "9"],
        "experiment=digits",
    ),
    "launches": ([*SMALL, "--tasks", "detection"], "training step"),
    "train_step_vit": ([*SMALL, "--objects", "3"], "grounding"),
    "decode_mllm": (
        ["--tiles=1", "--layers=1", "--vocabulary=300", "--prompt=9", "--objects=2", "--samples=1"],
        "default, ",
    ),
    "dataloader": (
        ["--sizes", "64x48", "--images", "3", "--repeat", "1", "--scale", "0.2"],
        "decoding alone",
    ),
    "scaling": (
        ["--processes", "1", "2", "--steps", "1", "--experiments", "ufo_vit_b_multi"],
        "Expected efficiency",
    ),
    "score": (["--expressions", "60", "--images", "20", "--coco", "12", "--resamples", "30"], "expressions"),
    "mask_postprocessing": (["--masks", "8", "--size", "48", "64", "--patches", "14"], "kept"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_benchmark(name, tmp_path, monkeypatch):
    arguments, expected = RUNS[name]
    monkeypatch.syspath_prepend(FOLDER)
    done = forked(f"benchmarks/{name}.py", *arguments, out=tmp_path / name, timeout=900, with_hydra=False)
    assert done.codes == [0], done.text
    assert expected in done.text


@pytest.mark.heavy
def test_recipes_whose_memory_a_gpu_would_measure_are_there(monkeypatch):
    """Without one no row of them is run; a recipe may lose a source that an option names."""
    monkeypatch.syspath_prepend(FOLDER)
    gpu_memory = importlib.import_module("gpu_memory")
    bench = SimpleNamespace(miniature=False, cuda=True)
    rows = {**dict(gpu_memory.memory(bench)), **dict(gpu_memory.fits(bench))}
    for measure in rows.values():
        check_config(compose(measure.args[-1]))
    assert len(rows) > 10


@pytest.mark.slow
def test_the_benchmark_that_measures_the_memory_of_processes():
    """Its rows are new processes, which import the script by its name."""
    sizes = ["--images", "300", "--boxes", "2000", "--workers", "1", "--lookups", "50"]
    command = [sys.executable, str(FOLDER / "annotations.py"), *sizes]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "one without annotations, spawn" in done.stdout


def test_the_pictures_of_own_photos_are_labelled_right(tmp_path, monkeypatch):
    """A red disc in a grey photo: all that is red in a picture fills the boxes of its labels."""
    monkeypatch.syspath_prepend(FOLDER)
    own_photos = importlib.import_module("own_photos")
    yy, xx = np.mgrid[:80, :90]
    disc = (yy - 40) ** 2 + (xx - 45) ** 2 < 30**2
    Image.fromarray(np.where(disc[..., None], [255, 0, 0], 128).astype(np.uint8)).save(tmp_path / "a.png")
    Image.new("RGB", (64, 90), (128, 128, 128)).save(tmp_path / "behind.png")
    thing = {"id": 1, "image_id": 1, "category_id": 7, "iscrowd": 0, "area": int(disc.sum())}
    thing["segmentation"] = {
        "size": [80, 90],
        "counts": mask_utils.encode(np.asfortranarray(disc))["counts"].decode(),
    }
    image = {"id": 1, "file_name": "a.png", "height": 80, "width": 90}
    coco = {"images": [image], "annotations": [thing], "categories": [{"id": 7, "name": "disc"}]}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    things = own_photos.cuts(tmp_path / "coco.json", tmp_path)
    own_photos.export(tmp_path / "out", own_photos.LAYOUTS["yolo"], things, [tmp_path / "behind.png"], 3, 0)
    assert 'names: ["disc"]' in (tmp_path / "out" / "data.yaml").read_text()
    for picture in (tmp_path / "out" / "images").rglob("*.jpg"):
        pixels = np.array(Image.open(picture)).astype(int)
        red = pixels[..., 0] - pixels[..., 1] > 100
        labels = tmp_path / "out" / "labels" / picture.parent.name / f"{picture.stem}.txt"
        boxes = np.loadtxt(labels, ndmin=2)[:, 1:] * [320, 240, 320, 240]
        for x, y, w, h in boxes:
            inside = np.s_[round(y - h / 2) : round(y + h / 2), round(x - w / 2) : round(x + w / 2)]
            rows, columns = np.nonzero(red[inside])
            assert rows.min() <= 3 and columns.min() <= 3 and rows.max() >= h - 4 and columns.max() >= w - 4
            around = np.s_[
                max(round(y - h / 2) - 2, 0) : round(y + h / 2) + 2,
                max(round(x - w / 2) - 2, 0) : round(x + w / 2) + 2,
            ]
            red[around] = False  # JPEG spreads colours
        assert len(boxes) and not red.any()


def test_the_pictures_of_own_photos_are_the_same_in_every_layout(tmp_path, monkeypatch):
    """Each is there once, with its bytes, wherever a tool puts it: one of them is predicted by its name."""
    monkeypatch.syspath_prepend(FOLDER)
    own_photos = importlib.import_module("own_photos")
    cut = own_photos.Cut("disc", np.full((60, 50, 3), 200, np.uint8), np.ones((60, 50), bool))
    Image.new("RGB", (64, 90), (128, 128, 128)).save(tmp_path / "behind.png")
    found = {}
    for name, layout in own_photos.LAYOUTS.items():
        scenes = own_photos.export(tmp_path / name, layout, [cut], [tmp_path / "behind.png"], 2, 0)
        assert [scene.split for scene in scenes] == ["train", "train", "val", "val"]
        found[name] = [(scene.things, read_once(tmp_path / name, scene.name)) for scene in scenes]
    assert all(pictures == found["yolo"] for pictures in found.values())


def read_once(folder: Path, name: str) -> bytes:
    (path,) = folder.rglob(name)
    return path.read_bytes()
