"""A small InternVL learns eight scenes by heart: every path from prompts to metrics, in two minutes.

The 64 scenes of `experiment=internvl_tiny_digits` take twenty minutes; here are eight and four of the tasks.
"""

from __future__ import annotations

import json

import pytest
from commands import run

SHARED = [
    "num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "+trainer.enable_progress_bar=false",
    "+trainer.enable_model_summary=false",
    "~callbacks.progress",
    "~callbacks.pictures",
    "prepare.digits.train=8",
    "prepare.digits.val=2",
    "trainer.log_every_n_steps=50",
    "seed=1",
]
LEARNED = ("detection", "instance_segmentation", "grounding", "referring_segmentation")


@pytest.mark.slow
def test_eight_scenes_are_learned_by_heart(tmp_path):
    scenes = f"prepare.digits.out={tmp_path / 'scenes'}"
    first = ["experiment=internvl_tiny_encoder", "trainer.max_steps=150", "schedule.warmup_steps=30"]
    run("train.py", *SHARED, scenes, *first, out=tmp_path / "encoder")
    unused = ("semantic_segmentation", "caption", "reasoning_segmentation", "vqa")
    second = ["experiment=internvl_tiny_digits", "trainer.max_steps=360", "trainer.val_check_interval=360"]
    init = f"init={tmp_path / 'encoder'}"
    none = [f"sources.{name}=null" for name in unused]
    run("train.py", *SHARED, scenes, *second, *none, init, "schedule.warmup_steps=30", out=tmp_path / "run")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    print(found)
