"""A tiny random model with all tasks."""

import torch

from ufo.backbones.ufo_vit import UFOViT
from ufo.model import UFO
from ufo.tasks import make_task
from ufo.tokenizer import UFOTokenizer, build_vocab

CLASSES = ("cat", "dog", "tree")
TASKS = ("detection", "instance_segmentation", "semantic_segmentation", "caption", "grounding")


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
    settings = {"image_size": 32, "max_length": 6}
    bins = {"detection": {"num_bins": 20}, "grounding": {"num_bins": 20}}
    made = {name: make_task(name, **settings, **bins.get(name, {})) for name in tasks}
    dense = ("detection", "instance_segmentation", "semantic_segmentation")
    named = {name: classes for name in dense if name in tasks and classes}
    return UFO(backbone, tokenizer, made, classes=named)
