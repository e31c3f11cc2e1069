"""Memory: peaks of training steps beside what `ufo memory` says of them, and which recipes fit 24 GB.

The allocator is held to 24 GB for the second table; options are tried in the order in which they cost.
"""

from __future__ import annotations

from functools import partial

import torch
from gpu_rows import Bench
from gpu_vit import Rows, step_of
from hydra.utils import instantiate

from ufo.backbones.lora import apply_lora
from ufo.checkpoints.recipes import compose, make_tasks
from ufo.memory.recipe import Assumed, Estimate, Step, estimate, steps_of, vocabulary, written
from ufo.model import UFO

GB = 1e9
CARD = 24 * GB
CHECKPOINTING = "backbone.network.gradient_checkpointing=true"
SIZES = {"base": "ufo_vit_b_detection", "large": "ufo_vit_l_multi", "huge": "ufo_vit_h_multi"}
RECIPES = {
    "ufo_vit_b_detection": ("detection",),
    "ufo_vit_b_multi": ("detection", "instance_segmentation"),
    "ufo_vit_l_multi": ("detection", "instance_segmentation"),
    "ufo_vit_h_multi": ("detection", "instance_segmentation"),
}


def trained(bench: Bench, overrides: list[str], step: Step | None = None) -> dict[str, float]:
    """Two steps of the largest batch of a recipe: milliseconds and the peak."""
    cfg = compose(overrides)
    with torch.device(bench.device):
        words = vocabulary(cfg.backbone.tokenizer)
        backbone = instantiate(cfg.backbone.network, vocab_size=len(words))
    model = UFO(backbone, words, make_tasks(cfg), mask_points=cfg.mask_points)
    apply_lora(backbone, instantiate(cfg.lora))
    model.to(bench.device).train()
    step = step or steps_of(cfg, model)[0]
    task = model.task(step.task)
    asked, prompt, forced = written(model, step, Assumed())
    if asked.masks is not None:
        asked.masks = torch.zeros(asked.masks.shape, dtype=torch.uint8, device=bench.device)
    images = torch.randint(256, (step.batch, 3, step.side, step.side), dtype=torch.uint8, device=bench.device)
    full = cfg.trainer.precision == "32-true"
    run = step_of(
        bench, model, lambda: model.forced_pass(images, task, asked, prompt, forced).losses["loss"], full
    )
    torch.cuda.reset_peak_memory_stats()
    ms = bench.milliseconds(run, 1)
    return {"ms": ms, "GB": torch.cuda.max_memory_allocated() / GB}


def estimated(overrides: list[str]) -> tuple[Estimate, Step]:
    """What `ufo memory` says, and the largest step."""
    found = estimate(compose(overrides), Assumed())
    return found, max(found.steps, key=lambda step: found.steps[step].peak)


def memory(bench: Bench) -> Rows:
    """Backbone x resolution x precision, one image of the largest task."""
    if bench.miniature:
        yield "digits", partial(_memory, bench, ["experiment=digits", "sources.detection.batch_size=1"])
        return
    for name, experiment in SIZES.items():
        for resolution in ("1120", "448") if name == "base" else ("1120",):
            for precision in ("bf16-mixed", "32-true") if name == "base" else ("bf16-mixed",):
                words = [f"experiment={experiment}", f"trainer.precision={precision}"]
                words += ["mixture=coco_detection", "sources.detection.batch_size=1"]
                words += [f"tasks.detection.image_size={resolution}"]
                yield f"{name}, {resolution} px, {precision}", partial(_memory, bench, words)


def _memory(bench: Bench, overrides: list[str]) -> dict[str, float]:
    found, step = estimated(overrides)
    values = {"estimated GB": found.total(found.steps[step]) / GB}
    return values | (trained(bench, overrides, step) if bench.cuda else {})


def fits(bench: Bench) -> Rows:
    recipes = {"digits": ("detection",)} if bench.miniature else RECIPES
    for experiment, sources in recipes.items():
        words, ways = [f"experiment={experiment}"], [("as it is", [])]
        small = [f"sources.{source}.batch_size=1" for source in sources]
        ways += [("checkpointing", [CHECKPOINTING]), ("checkpointing, batch 1", [CHECKPOINTING, *small])]
        for way, more in ways:
            yield f"{experiment}, {way}, 24 GB", partial(_fits, bench, [*words, *more])


def _fits(bench: Bench, overrides: list[str]) -> dict[str, float]:
    if not bench.cuda:
        found, step = estimated(overrides)
        return {"estimated GB": found.total(found.steps[step]) / GB}
    total = torch.cuda.get_device_properties(bench.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(CARD / total, 1.0))
    try:
        return trained(bench, overrides)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
