"""The recorded weights as a published file, through `ufo convert`: out comes the recorded model."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from vit_recordings import FOLDER, close, load

import ufo
from ufo.checkpoints import released_vit
from ufo.cli.main import main


@pytest.fixture(scope="module")
def converted(recordings, tmp_path_factory) -> ufo.model.UFO:
    """Written by mmengine's rules with a log in it, converted, loaded."""
    config = recordings.config["backbone"]
    last = config["arch"]["num_layers"] - 1
    new = range(last + 1, last + 1 + len(config["new_more_layers"]))
    one_window = config["img_size"] == config["patch_size"] * config["window_size"]
    if last not in config["arch"]["global_attn_indexes"] or one_window or config["mean_layers"] != list(new):
        pytest.skip("an architecture that no published model has: tensors alone do not tell it")
    folder = tmp_path_factory.mktemp("converted")
    content = {"meta": {"iter": 1}, "state_dict": recordings.state_dict, "message_hub": {"log_scalars": {}}}
    torch.save(content, folder / "small.pth")
    [vocabulary] = FOLDER.glob("*vocab.txt")
    arguments = ["--vocab", vocabulary, "--tasks", "detection,instance_segmentation,caption,grounding"]
    # the recorded width stands for base
    with patch.object(released_vit, "SIZES", {config["arch"]["embed_dims"]: "b"}):
        code = main([str(a) for a in ("convert", folder / "small.pth", folder / "model", *arguments)])
    assert code == 0
    return ufo.load(folder / "model")


def test_class_names_are_the_recorded_ones(recordings, converted):
    assert list(converted.classes["detection"]) == recordings.texts["class_names"]["coco"]


def test_logits(recordings, converted, infer_case):
    recording = load(infer_case)
    if "decode_logits" not in recording or recording["head_settings"]["beam_num"] > 1:
        pytest.skip("recorded without logits, or with beam search")
    task, batch = recordings.task(recording), recordings.batch(recording)
    prompts = [task.prompt(batch.classes, text) for text in batch.texts]
    emitted = recording["outputs_ids"].flatten(0, 1)
    start = torch.full_like(emitted[:, :1], converted.tokenizer.start_id)
    with torch.no_grad():
        context = converted.encode(batch.images, prompts, converted.grid(task, *batch.images.shape[-2:]))
        hidden = converted.backbone.answer(context, torch.cat([start, emitted[:, :-1]], 1))
        for step, recorded in enumerate(recording["decode_logits"]):
            logits = hidden[::9, step : step + 1] @ converted.backbone.output_embedding.T
            close(logits[..., recorded["vocab_ids"]], recorded["logits_sub"])
            close(logits.logsumexp(-1), recorded["lse"])
            assert torch.equal(logits.argmax(-1), recorded["argmax"])
