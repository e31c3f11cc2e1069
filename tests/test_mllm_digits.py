"""A small InternVL learns eight scenes by heart: every path from prompts to metrics, in four minutes.

The 64 scenes of `experiment=internvl_tiny_digits` take twenty on two cores;
here are eight scenes and four of the tasks.
"""

from __future__ import annotations

import pytest
from commands import batches, compose, metrics, options, run

SHARED = [
    "num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "+trainer.enable_progress_bar=false",
    "+trainer.enable_model_summary=false",
    "~callbacks.progress",
    "~callbacks.pictures",
    "++callbacks.worst.max_side=64",
    "prepare.digits.train=8",
    "prepare.digits.val=2",
    "trainer.log_every_n_steps=50",
    "seed=1",
]
QUICK = ["trainer.max_steps=2", "trainer.val_check_interval=2", "+trainer.limit_val_batches=1"]
EXPERIMENTS = [name for name in options("experiment") if "_tiny_" in name]


def few_at_once(experiment: str) -> list[str]:
    """Overrides for an experiment whose steps are not to learn anything: small batches, short texts."""
    used = {key: source for key, source in compose(f"experiment={experiment}").sources.items() if source}
    written = {source.task for source in used.values()} & {"caption", "vqa"}
    return [*batches(2, *used), *(f"tasks.{task}.max_length=8" for task in sorted(written))]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_survives_two_steps(name, tmp_path):
    scenes = f"prepare.digits.out={tmp_path / 'scenes'}"
    quick = [*SHARED, *QUICK, *few_at_once(name), scenes]
    run("train.py", *quick, f"experiment={name}", out=tmp_path / "run")
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.slow(minutes=4)
def test_eight_scenes_are_learned_by_heart(tmp_path):
    scenes = [*SHARED, f"prepare.digits.out={tmp_path / 'scenes'}", "schedule.warmup_steps=30"]
    unused = ("semantic_segmentation", "caption", "reasoning_segmentation", "vqa")
    none = [f"sources.{name}=null" for name in unused]
    steps = [f"trainer.{key}=200" for key in ("max_steps", "val_check_interval")]
    run("train.py", *scenes, "experiment=internvl_tiny_masks", *steps, out=tmp_path / "masks")
    init = f"init={tmp_path / 'masks'}"
    steps = [f"trainer.{key}=250" for key in ("max_steps", "val_check_interval")]
    run("train.py", *scenes, "experiment=internvl_tiny_digits", *none, *steps, init, out=tmp_path / "run")
    found = metrics(tmp_path / "run")
    # measured: 0.54, 0.25, 0.46, 1.0; without training all are 0
    assert found["val/digits/referring_segmentation/cIoU"] > 0.3
    assert found["val/digits/grounding/Acc@0.5"] > 0.1
    assert found["val/digits/detection/mAP50"] > 0.2
    assert found["val/digits/instance_segmentation/mAP50"] > 0.7
