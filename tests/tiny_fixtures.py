"""Tiny tokenizer, network, model and batches shared by the tests; random but fixed, of all tasks.

Images are 24 x 24 pixels (2 x 2 windows of 3 x 3 patches), 12 x 12 for the tasks with one answer per image.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields

import composing
import pytest
import torch
import torch.distributed as dist
from commands import SCENES, digits
from sharing import shared

from ufo.backbones.ufo_vit import UFOViT
from ufo.data.digits import generate
from ufo.model import UFO
from ufo.tasks import make_task, task_class, task_names
from ufo.tasks.dense import DenseTask, MaskTask
from ufo.tokenizer import UFOTokenizer, build_vocab
from ufo.types import IGNORE, Batch

torch.set_num_threads(1)  # threads only cost where tensors are tiny
composing.remember()

CLASSES = ("red cat", "owl", "dog")
BINS = 48
TASKS = tuple(task_names())
MASKED = tuple(name for name in TASKS if issubclass(task_class(name), MaskTask))
DENSE = tuple(name for name in TASKS if issubclass(task_class(name), DenseTask))
TEXTS = {
    "caption": "a red cat left of the owl",
    "grounding": "the owl",
    "referring_segmentation": "the owl",
    "reasoning_segmentation": "the owl left of the dog?",
    "vqa": "the owl?",
}
WORDS = """
task : ; , . class description bin to give a caption for this image detection instance _ segmentation
semantic grounding background red cat owl dog left of the referring reasoning vqa question ?
"""


def pytest_generate_tests(metafunc):
    """`task_name` runs over all tasks, `dense_task` over those with queries, `mask_task` ..."""
    for argument, names in (("task_name", TASKS), ("dense_task", DENSE), ("mask_task", MASKED)):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, names)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    # the longest first, so that no process is left with one of them at the end
    items.sort(key=minutes, reverse=True)


def minutes(item) -> float:
    """How long a test takes, `slow(minutes=2)`, where that is more than one."""
    marker = item.get_closest_marker("slow")
    return marker.kwargs.get("minutes", 0) if marker else 0


@pytest.fixture(autouse=True)
def no_process_group_is_left():
    """A fork would wait for ever in the group's first collective, a command for processes nobody starts."""
    before = places()
    yield
    assert not dist.is_initialized(), "the test leaves a process group: dist.destroy_process_group()"
    assert places() == before, "the test leaves the environment of one of several processes"


def places() -> dict[str, str]:
    """What tells a process that somebody else starts the others."""
    return {key: os.environ[key] for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if key in os.environ}


@pytest.fixture(scope="session")
def tokenizer() -> UFOTokenizer:
    return UFOTokenizer(build_vocab(WORDS.split(), BINS))


@pytest.fixture(scope="session")
def make_backbone(tokenizer) -> Callable[..., UFOViT]:
    """A network in `eval` mode whose every parameter, also those that start at 0, matters."""

    def make(seed: int = 0, **changes) -> UFOViT:
        settings = {
            "vocab_size": len(tokenizer),
            "width": 16,
            "depth": 2,
            "heads": 2,
            "global_layers": [1],
            "new_layers": 2,
            "mlp_ratio": 2.0,
            "image_size": 24,
            "patch_size": 4,
            "window_size": 3,
            "max_positions": 64,
            "text_dropout": 0.0,
        }
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            backbone = UFOViT(**settings | changes)
            for parameter in backbone.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
        return backbone.eval()

    return make


@pytest.fixture(scope="session")
def make_tiny_task() -> Callable:
    def make(name: str, **changes):
        settings = {"image_size": 24 if name in DENSE else 12, "num_bins": BINS, "mask_tokens": 4}
        if name in DENSE:
            settings |= {"grid_per_window": 2, "samples_per_window": 3, "repeat": 2, "max_length": 14}
        known = {field.name for field in fields(task_class(name))}
        return make_task(name, **{k: v for k, v in settings.items() if k in known} | changes)

    return make


@pytest.fixture(scope="session")
def make_model(tokenizer, make_backbone, make_tiny_task) -> Callable[..., UFO]:
    """A model of all tasks; arguments go to the network."""

    def make(seed: int = 0, **changes) -> UFO:
        tasks = {name: make_tiny_task(name) for name in TASKS}
        classes = dict.fromkeys(DENSE, CLASSES)
        backbone = make_backbone(seed, **changes)
        return UFO(backbone, tokenizer, tasks, classes, mask_points=64).eval()

    return make


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """Two images of noise with the given number of objects each, annotated for any task."""

    def make(task: str, objects: tuple[int, ...] = (2, 3), seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        side = 24 if task in DENSE else 12
        images = torch.randint(256, (len(objects), 3, side, side), generator=generator)
        boxes = [_boxes(n, side, generator) for n in objects]
        labels = [torch.arange(n) % len(CLASSES) for n in objects]
        masks = [_rectangles(b, side) for b in boxes]
        semantic = torch.full((len(objects), side, side), IGNORE, dtype=torch.uint8)
        for i, (shapes, names) in enumerate(zip(masks, labels, strict=True)):
            for shape, label in zip(shapes, names, strict=True):
                semantic[i][shape.bool()] = label.to(torch.uint8)
        return Batch(
            task=task,
            source=f"tiny/{task}",
            classes=CLASSES,
            images=images.to(torch.uint8),
            texts=[TEXTS.get(task, "the owl" if task_class(task).needs_text else "")] * len(objects),
            boxes=boxes,
            labels=labels,
            masks=masks,
            semantic=semantic if "semantic" in task_class(task).needs else None,
            conversations=[[TEXTS["vqa"], "the red cat"]] * len(objects)
            if "conversation" in task_class(task).needs
            else None,
            sizes=[(side, side)] * len(objects),
            seed=seed,
        )

    return make


def _boxes(count: int, side: int, generator: torch.Generator) -> torch.Tensor:
    """Boxes with whole corners that do not overlap: one in each vertical strip of the image."""
    left = torch.arange(count) * (side // max(count, 1))
    width = torch.randint(2, side // max(count, 1), (count,), generator=generator)
    top = torch.randint(side // 2, (count,), generator=generator)
    height = torch.randint(2, side // 2, (count,), generator=generator)
    return torch.stack([left, top, left + width, top + height], 1).float()


def _rectangles(boxes: torch.Tensor, side: int) -> torch.Tensor:
    masks = torch.zeros(len(boxes), side, side, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return masks


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> list[str]:
    """Overrides that choose a few generated digit scenes; nobody writes to them."""
    folder = shared(tmp_path_factory, "digits", lambda out: generate(out, **SCENES, progress=False))
    return digits(folder)
