"""A tiny random model with all tasks."""

from dataclasses import fields

import torch

from ufo.backbones.ufo_vit import UFOViT
from ufo.model import UFO
from ufo.tasks import make_task, task_class, task_names
from ufo.tasks.dense import DenseTask
from ufo.tokenizer import UFOTokenizer, build_vocab

CLASSES = ("cat", "dog", "tree")
TASKS = tuple(task_names())


def tiny_model(classes=CLASSES, tasks=TASKS) -> UFO:
    """Random weights, 32 x 32 pixels, 4 windows; answers are cut early, as they are nonsense."""
    tokenizer = UFOTokenizer(build_vocab(["a", "red", *CLASSES], 20))
    torch.manual_seed(0)
    backbone = UFOViT(
        vocab_size=len(tokenizer),
        width=16,
        depth=1,
        heads=2,
        global_layers=[0],
        new_layers=1,
        image_size=32,
        patch_size=8,
        window_size=2,
        max_positions=64,
    )
    made = {}
    for name in tasks:
        known = {field.name for field in fields(task_class(name))}
        bins = {"num_bins": 20} if "num_bins" in known else {}
        made[name] = make_task(name, image_size=32, max_length=6, **bins)
    named = {name: classes for name, task in made.items() if isinstance(task, DenseTask) and classes}
    return UFO(backbone, tokenizer, made, classes=named)
