"""The whole model on tiny batches: losses and gradients of all tasks, learning, predictions."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch
from PIL import Image

from ufo.backbones.context import Context
from ufo.head.decoding import Decoded
from ufo.head.losses import token_loss
from ufo.head.retrieval import retrieve_masks
from ufo.model import UFO
from ufo.types import Batch


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def gradients(model: UFO) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def learned(model: UFO) -> set[str]:
    return {n for n, p in model.named_parameters() if p.requires_grad}


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("objects", [(2, 3), (0, 2), (0, 0)], ids=["all", "some", "none"])
def test_every_task_trains_every_parameter(make_model, make_batch, task_name, objects):
    """Also without any object: DDP waits for the gradient of each parameter on each rank."""
    if task_name == "grounding":
        objects = tuple(max(n, 1) for n in objects)  # an expression always refers to something
    model = make_model().train()
    losses = model.loss(make_batch(task_name, objects))
    parts = {"token"} | ({"focal", "dice"} if task_name.endswith("segmentation") else set())
    assert losses.keys() == parts | {"loss"}
    assert all(value.isfinite() for value in losses.values())
    losses["loss"].backward()
    found = gradients(model)
    assert found.keys() == learned(model)
    assert all(g.isfinite().all() for g in found.values())
    # without objects nothing teaches semantic segmentation; all else learns "background" at least
    taught = task_name != "semantic_segmentation" or any(objects)
    assert any(g.abs().max() > 0 for g in found.values()) == taught


def test_a_loss_follows_from_seeds(make_model, make_batch, task_name):
    model, batch = make_model(), make_batch(task_name)

    def loss(draws: int, seed: int) -> float:
        torch.manual_seed(draws)  # the sampled points of mask losses
        batch.seed = seed
        with torch.no_grad():
            return model.loss(batch)["loss"].item()

    assert loss(0, 1) == loss(0, 1)
    if model.task(task_name).grid_per_window:  # which queries are trained
        assert any(loss(0, 1) != loss(0, seed) for seed in (2, 3, 4))


def test_the_token_loss_equals_padded_teacher_forcing(make_model, make_batch, task_name):
    """The model computes supervised positions only; here all are computed and the padding ignored."""
    model, batch = make_model(), make_batch(task_name)
    with torch.no_grad():
        found = model.loss(batch)["token"]
        task, grid = model.task(task_name), model.grid(model.task(task_name), *batch.images.shape[-2:])
        made = task.supervise(batch, grid)
        prompts = [task.prompt(batch.classes, text) for text in batch.texts]
        context = model.encode(batch.images, prompts, made.queries)
        rows = model.tokenizer.encode([a or "" for a in made.answers])
        ids = model.tokenizer.pad(rows)
        counted = torch.tensor([a is not None for a in made.answers])[:, None] & (ids[:, 1:] > 0)
        hidden = model.backbone.answer(context, ids[:, :-1])
    count = counted.sum().clamp(min=1)
    expected = token_loss(hidden[counted], ids[:, 1:][counted], model.backbone.output_embedding, count)
    torch.testing.assert_close(found, expected)


def test_a_training_pass_counts_patches_and_answer_tokens(make_model, make_batch):
    model, batch = make_model(), make_batch("caption", (1, 1))
    with torch.no_grad():
        losses, tokens = model.training_pass(batch)
        again = model.loss(batch)
    patches = 2 * 3 * 3
    answers = sum(len(row) - 1 for row in model.tokenizer.encode(batch.texts))  # the start token is only fed
    assert tokens == patches + answers
    assert losses["loss"] == again["loss"]


def test_gradient_checkpointing_changes_no_gradient(make_model, make_batch, task_name):
    found = []
    for checkpointing in (False, True, 2):
        torch.manual_seed(0)
        model = make_model(gradient_checkpointing=checkpointing).train()
        model.loss(make_batch(task_name))["loss"].backward()
        found.append(gradients(model))
    plain, *others = found
    assert all(torch.equal(recomputed[name], plain[name]) for recomputed in others for name in plain)


def test_autocast_to_bf16_is_finite(make_model, make_batch, task_name):
    model = make_model().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.loss(make_batch(task_name))
    assert all(v.isfinite() and v.dtype == torch.float32 for v in losses.values())
    losses["loss"].backward()
    assert all(g.isfinite().all() for g in gradients(model).values())


def test_losses_are_weighted(make_model, make_batch):
    model, batch = make_model(), make_batch("instance_segmentation")
    with torch.no_grad():
        plain = model.loss(batch)
        model.loss_weights = {"token": 2.0, "dice": 0.0}
        torch.manual_seed(0)
        weighted = model.loss(batch)
    torch.testing.assert_close(weighted["token"], 2 * plain["token"])
    assert weighted["dice"] == 0
    torch.testing.assert_close(weighted["loss"], weighted["token"] + weighted["focal"])


def test_masks_are_learnt_from_the_states_that_emit_them(make_model, make_batch, mask_task):
    """The embeddings are the states whose target is `<MASK>`, sorted by image like the masks."""
    model, batch = make_model(), make_batch(mask_task, (1, 3))
    task = model.task(mask_task)
    made = task.supervise(batch, model.grid(task, 24, 24))
    with (
        torch.no_grad(),
        patch("ufo.head.learning.retrieve_masks", wraps=retrieve_masks) as retrieving,
        patch("ufo.head.learning.token_loss", wraps=token_loss) as predicting,
    ):
        model.loss(batch)
    hidden, targets, _ = predicting.call_args.args
    embeddings, features, counts = retrieving.call_args.args
    assert list(counts) == made.mask_counts
    assert counts[0] < counts[1] and len(features) == 2
    assert torch.equal(embeddings.flatten(0, 1), hidden[targets == model.tokenizer.mask_id])


@pytest.mark.heavy
def test_losses_fall(make_model, make_batch, task_name):
    """A few dozen steps on one batch."""
    model = make_model(seed=1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    batch, history = make_batch(task_name, (1, 1)), []
    for _ in range(20):
        losses = model.loss(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    first, last = history[0], history[-1]
    assert last["token"] < 0.1 * first["token"]
    assert last["token"] < math.log(len(model.tokenizer)) / 4  # far below guessing
    if "dice" in last:
        assert last["focal"] + last["dice"] < 0.7 * (first["focal"] + first["dice"])


# ---------------------------------------------------------------- predictions


def test_images_are_predicted_one_by_one_as_together(make_model, make_batch, task_name):
    model, batch = make_model(), make_batch(task_name, (2, 1, 2))
    together = model.predict_batch(batch)
    for i, expected in enumerate(together):
        alone = Batch(
            task=task_name,
            source=batch.source,
            classes=batch.classes,
            images=batch.images[i : i + 1],
            texts=batch.texts[i : i + 1],
            sizes=batch.sizes[i : i + 1],
        )
        [found] = model.predict_batch(alone)
        assert found.text == expected.text
        for name in ("boxes", "scores", "labels", "masks", "semantic"):
            ours, theirs = getattr(found, name), getattr(expected, name)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs)


def scripted(model: UFO, batch: Batch, texts: list[str], features: torch.Tensor, context: Context):
    """`predict_batch` where the model 'says' `texts`; `features [R, T, C]` emitted their tokens."""
    rows = [row[1:] for row in model.tokenizer.encode(texts)]
    length = features.shape[1]
    ids = torch.tensor([row + [model.tokenizer.end_id] * (length - len(row)) for row in rows])
    decoded = Decoded(ids, torch.full((len(rows), 1), 0.9), features)
    with patch.object(model, "encode", return_value=context), patch("ufo.model.decode", return_value=decoded):
        return model.predict_batch(batch)


def test_answered_masks_arrive_exactly(make_model, make_batch, mask_task):
    """Mask embeddings that spell a picture give this picture: right image, answer, plane and pixel.

    12 x 12 pixels are 3 x 3 patches; with one direction of feature space for each, an embedding holds
    the signs of its plane. Predicted at the 6 x 6 sub-pixels of four planes, nothing is interpolated.
    """
    model = make_model()
    width, length, queries = model.backbone.width, 8, 4
    batch = make_batch(mask_task, (1, 1))
    batch.images = batch.images[..., :12, :12]
    batch.sizes = [(6, 6), (6, 6)]
    features = torch.eye(9, width).view(1, 3, 3, width).repeat(2, 1, 1, 1)
    features[1] = features[1].flip(-1)  # the second image has other directions
    owls = torch.rand(2, 6, 6) > 0.5
    embeddings = torch.randn(2 * queries, length, width)
    texts = ["background"] * (2 * queries)
    for image, (owl, dog) in enumerate([(2, 1), (4, 7)]):  # rows; dogs are where no owl is
        texts[owl], texts[dog] = (f"{name},{4 * '<MASK>'}" for name in ("owl", "dog"))
        signs = torch.where(owls[image], 90.0, -90.0)
        planes = signs.view(3, 2, 3, 2).permute(1, 3, 0, 2).reshape(4, 9)  # [K, patches]
        spelled = planes @ features[image].view(9, width)
        embeddings[owl, 2:6], embeddings[dog, 2:6] = spelled, -spelled  # name , M M M M [SEP]
    predictions = scripted(model, batch, texts, embeddings, Context(features, [], queries))
    for owl, prediction in zip(owls, predictions, strict=True):
        if mask_task == "semantic_segmentation":
            assert torch.equal(prediction.semantic, torch.where(owl, 1, 2))
            continue
        order = prediction.labels.argsort()
        assert prediction.labels[order].tolist() == [1, 2]
        assert torch.equal(prediction.masks[order], torch.stack([owl, ~owl]))
        torch.testing.assert_close(prediction.scores, torch.tensor([0.9, 0.9]))


def test_objects_know_the_answer_they_were_read_from(make_model, make_batch):
    model = make_model()
    batch = make_batch("detection")
    stages = []
    with torch.no_grad():
        answers = model.answer_batch(batch, stages.append)
    assert stages == ["encode", "decode"]
    assert [len(a.texts) for a in answers] == [16, 16]  # 2 x 2 windows of 2 x 2 queries
    said = answers[0]
    said.texts = ["background"] * 16
    said.texts[5], said.texts[11] = "owl,24,24,10,10", "dog,24,24,30,30"
    said.scores = torch.linspace(0.9, 0.2, 16)
    found = model.tasks["detection"].parse(said)
    names = {found.classes[i]: row for i, row in zip(found.labels.tolist(), found.rows.tolist(), strict=True)}
    assert names == {"owl": 5, "dog": 11}


def test_predictions_are_in_the_pixels_of_the_original(make_model, make_batch):
    model, batch = make_model(), make_batch("detection", (1, 1))
    batch.sizes = [(24, 24), (48, 240)]
    features = torch.zeros(32, 14, model.backbone.width)
    texts = ["owl,24,24,10,10" if i % 16 == 5 else "background" for i in range(32)]
    small, large = scripted(model, batch, texts, features, Context(torch.zeros(2, 6, 6, 16), [], 16))
    torch.testing.assert_close(large.boxes, small.boxes * torch.tensor([10.0, 2, 10, 2]))


@pytest.mark.parametrize("kind", ["path", "pil", "tensor"])
def test_predict_takes_images_of_any_size(make_model, task_name, tmp_path, kind):
    model = make_model().train()
    pixels = torch.randint(256, (3, 17, 31), dtype=torch.uint8)
    image = pixels
    if kind != "tensor":
        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    if kind == "path":
        image.save(tmp_path / "image.png")
        image = tmp_path / "image.png"
    prediction = model.predict(image, task_name, text="the owl")
    assert prediction.task == task_name
    assert model.training  # as before
    if prediction.semantic is not None:
        assert prediction.semantic.shape == (17, 31)
    if prediction.boxes is not None:
        assert prediction.boxes.shape[1] == 4


def test_predict_says_what_is_missing(make_model):
    model, image = make_model(), torch.zeros(3, 24, 24, dtype=torch.uint8)
    with pytest.raises(ValueError, match="needs a text"):
        model.predict(image, "grounding")
    with pytest.raises(ValueError, match=r"no task 'swim'; it has: .*detection"):
        model.predict(image, "swim")


def test_predict_asks_for_the_classes_it_is_given(make_model):
    model, image = make_model(), torch.zeros(3, 24, 24, dtype=torch.uint8)
    assert model.predict(image, "detection").classes == ("red cat", "owl", "dog")
    assert model.predict(image, "detection", classes=["cat"]).classes == ("cat",)


# ---------------------------------------------------------------- the model as a thing


def test_a_model_is_not_built_with_settings_that_exclude_each_other(make_backbone, tokenizer, make_tiny_task):
    task = make_tiny_task("detection", num_beams=3, top_tokens=2)
    with pytest.raises(ValueError, match="num_beams=3 and top_tokens=2 exclude each other"):
        UFO(make_backbone(), tokenizer, {"detection": task})


def test_vocabularies_must_agree(make_backbone, tokenizer):
    with pytest.raises(ValueError, match="the backbone knows 9 tokens"):
        UFO(make_backbone(vocab_size=9), tokenizer, {})


def test_models_of_two_families_share_a_task(make_backbone, tokenizer, make_tiny_task, make_batch):
    """Each asks in the words of its own backbone, whichever was made last."""
    from mllm_models import make_backbone as language_model

    from ufo.tasks.wording import INTERNVL, UFO_VIT

    task = make_tiny_task("grounding")
    first = UFO(make_backbone(), tokenizer, {"grounding": task})
    second = UFO(*language_model("internvl"), {"grounding": task})
    batch = make_batch("grounding", (1, 1))
    for model, wording in ((first, UFO_VIT), (second, INTERNVL)):
        prompts = model.task("grounding").ask(batch, None).prompts
        assert prompts == [wording.ask("grounding", text="the owl")] * 2
    assert task.wording is UFO_VIT and task == first.task("grounding")


def test_description_is_plain_and_complete(make_model):
    import json

    model = make_model()
    description = model.describe()
    assert json.loads(json.dumps(description)) == description
    assert set(description["tasks"]) == set(model.tasks)
    assert description["backbone"]["width"] == 16
    assert tuple(description["vocab"]) == model.tokenizer.vocab


def test_a_task_without_a_grid_has_no_queries(make_model):
    model = make_model()
    assert model.grid(model.task("caption"), 12, 12) is None
    assert model.grid(model.task("detection"), 24, 36).references.shape == (1, 24, 2)
    with pytest.raises(ValueError, match="multiple of 12"):
        model.grid(model.task("detection"), 20, 20)


# ---------------------------------------------------------------- recording


def test_recording_is_refused_without_a_gpu(make_model, monkeypatch):
    """As train.py and `ufo predict` refuse it; it was taken without a word."""
    model = make_model()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"use_cuda_graphs\(\) needs a CUDA device.*leave it out"):
        model.use_cuda_graphs()
    assert not hasattr(model.backbone, "replay")


def test_recording_waits_for_a_model_that_is_elsewhere(make_model, monkeypatch):
    model = make_model()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.warns(UserWarning, match=r"^the model is on cpu, where nothing is recorded; move it"):
        model.use_cuda_graphs()
    assert model.backbone.replay is not None
