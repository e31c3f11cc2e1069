"""Memory: peaks of training steps beside what `ufo memory` says of them, and which recipes fit 24 GB.

The allocator is held to 24 GB for the second table; options are tried in the order in which they cost.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

import torch
from gpu_rows import Bench
from gpu_vit import Rows, step_of
from hydra.utils import instantiate

from ufo.backbones.lora import apply_lora, pack
from ufo.checkpoints.recipes import compose, make_tasks
from ufo.memory.recipe import Assumed, Estimate, Step, estimate, steps_of, vocabulary, written
from ufo.model import UFO

GB = 1e9
CARD = 24 * GB
CHECKPOINTING = "backbone.network.gradient_checkpointing=true"
FOUR_BITS = "four bits"
HALF = "backbone.network.dtype=bfloat16"  # of a language model's weights
SIZES = ("base", "large", "huge")
LORA, LORA_1 = "internvl2_5_8b_referring", "sources.referring.batch_size=1"
# recipe: options beside those that it has, of which checkpointing in all but base
RECIPES = {
    "ufo_vit_b_detection": {"as it is": [], "checkpointing": [CHECKPOINTING]},
    "ufo_vit_b_multi": {"as it is": [], "checkpointing": [CHECKPOINTING]},
    "ufo_vit_l_multi": {"as it is": []},
    "ufo_vit_h_multi": {"as it is": []},
    LORA: {"as it is": [], "bf16": [HALF], "bf16, batch 1": [HALF, LORA_1], FOUR_BITS: ["lora=qlora", HALF]},
}


def trained(bench: Bench, overrides: list[str], step: Step | None = None) -> dict[str, float]:
    """Two steps of the largest batch of a recipe, or of this one: milliseconds and the peak."""
    cfg = compose(overrides)
    with torch.device(bench.device):
        words = vocabulary(cfg.backbone.tokenizer)
        backbone = instantiate(cfg.backbone.network, vocab_size=len(words))
    model = UFO(backbone, words, make_tasks(cfg), mask_points=cfg.mask_points)
    apply_lora(backbone, instantiate(cfg.lora))
    if (backbone.lora or {}).get("bits"):
        pack(backbone)
    model.to(bench.device).train()
    step = step or max(steps_of(cfg, model), key=lambda one: _pixels(one, model))
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


def _pixels(step: Step, model: UFO) -> tuple[int, bool]:
    """Of a batch, and whether it has masks: what its memory grows with."""
    return step.batch * step.side**2, model.task(step.task).mask_tokens > 0


def estimated(overrides: list[str]) -> tuple[Estimate, Step]:
    """What `ufo memory` says, and the largest step."""
    found = estimate(compose(overrides), Assumed())
    return found, max(found.steps, key=lambda step: found.steps[step].peak)


def memory(bench: Bench) -> Rows:
    """Backbone x resolution x precision, one image of the largest task."""
    if bench.miniature:
        yield "digits", partial(_memory, bench, ["experiment=digits", "sources.detection.batch_size=1"])
        return
    for size in SIZES:
        for pixels in ("1120", "448") if size == "base" else ("1120",):
            for precision in ("bf16-mixed", "32-true") if size == "base" else ("bf16-mixed",):
                words = ["experiment=ufo_vit_b_detection", f"backbone=ufo_vit_{size}"]
                words += ["sources.detection.batch_size=1", f"tasks.detection.image_size={pixels}"]
                words += [f"trainer.precision={precision}"]
                yield f"{size}, {pixels} px, {precision}", partial(_memory, bench, words)
    for pixels in ("448", "896", "1344"):
        words = [f"experiment={LORA}", HALF, LORA_1, f"tasks.referring_segmentation.image_size={pixels}"]
        yield f"{LORA}, {pixels} px, bf16", partial(_memory, bench, words)


def _memory(bench: Bench, overrides: list[str]) -> dict[str, float]:
    found, step = estimated(overrides)
    values = {"estimated GB": found.total(found.steps[step]) / GB}
    return values | (trained(bench, overrides, step) if bench.cuda else {})


def fits(bench: Bench) -> Rows:
    recipes = {"digits": {"as it is": []}} if bench.miniature else RECIPES
    for experiment, ways in recipes.items():
        for way, more in ways.items():
            if way == FOUR_BITS and not find_spec("bitsandbytes"):
                continue
            yield f"{experiment}, {way}, 24 GB", partial(_fits, bench, [f"experiment={experiment}", *more])


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
