"""How the recordings are read: which step stands for a folder, with folders made here."""

from __future__ import annotations

import json

import mllm_recordings
import numpy as np
import pytest
from mllm_recordings import smallest


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Write a case of so many tokens; `texts` as the recordings name them."""
    monkeypatch.setattr(mllm_recordings, "FOLDER", tmp_path)

    def write(name: str, task: str, length: int, images: int = 2, **texts: list[str]) -> None:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        meta = {"samples": [{"task_name": task}] * images, **texts}
        (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        np.savez(folder / "tensors.npz", final_normed=np.zeros((images, length, 2), dtype=np.float32))

    return write


def test_the_smallest_step_is_one_with_texts(record):
    record("internvl_lora/vqa_loss_1", "vqa", 3)
    record("internvl_lora/a_loss_1", "detection", 9, get_prompt_sample=["x"])
    record("internvl_lora/b_loss_1", "grounding", 7, get_conversations=["x"])
    record("internvl_lora/c_pred_1", "grounding", 2, images=1, get_conversations=["x"])
    assert smallest("internvl_lora", "loss", "pred").name == "internvl_lora/b_loss_1"


def test_a_prediction_of_one_image_where_no_step_has_texts(record):
    record("llava_lora/vqa_loss_1", "vqa", 3)
    record("llava_lora/a_pred_1", "grounding", 4, images=2, get_conversations=["x"])
    record("llava_lora/b_pred_1", "grounding", 5, images=1, get_conversations=["x"])
    assert smallest("llava_lora", "loss", "pred").name == "llava_lora/b_pred_1"
    with pytest.raises(pytest.skip.Exception, match="no recorded step with its texts"):
        smallest("llava_lora", "loss")
