"""Batches of pictures, each with a text of its own, through language-model backbones."""

from __future__ import annotations

import pytest
import torch
from tiny_mllm import CLASSES, FAMILIES, SIDE, make_mllm

from ufo.model import UFO
from ufo.tasks import make_task


@pytest.mark.parametrize("family", FAMILIES)
def test_many_are_answered_as_one_by_one(family):
    """Prompts of different lengths are padded; that changes no answer."""
    made = make_mllm(family)
    tasks = {**made.tasks, "grounding": make_task("grounding", image_size=SIDE, num_bins=20)}
    model = UFO(made.backbone, made.tokenizer, tasks, {"detection": CLASSES}).eval()
    images = [torch.full((3, 20 + i, 30), 60 * i, dtype=torch.uint8) for i in range(3)]
    texts = ["owl", "the owl in the image that", "cat"]
    for name, task in model.tasks.items():
        asked = texts if task.needs_text else None
        together = model.predict(images, name, asked, batch_size=3)
        for i, (image, found) in enumerate(zip(images, together, strict=True)):
            alone = model.predict(image, name, asked[i] if asked else None)
            assert found.asked == (texts[i] if task.needs_text else "")
            assert (found.text, len(found)) == (alone.text, len(alone))
            torch.testing.assert_close(found.scores, alone.scores)
