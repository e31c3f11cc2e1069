"""The first stage of the digits model: dense labels and referred patches."""

import copy

import pytest
import torch

from ufo.modules.encoder import EncoderModule, _box_map, _inside, _owner

TASKS = ("instance_segmentation", "grounding")


@pytest.fixture
def module(make_model) -> EncoderModule:
    torch.manual_seed(0)
    return EncoderModule(copy.deepcopy(make_model()), num_classes=3).train()


def train(module, batch, steps: int) -> list[float]:
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.heavy
@pytest.mark.parametrize("task", TASKS)
def test_the_losses_fall_and_teach_the_encoder(module, make_batch, task, monkeypatch):
    for name in ("log", "log_dict"):
        monkeypatch.setattr(module, name, lambda *_, **__: None)
    before = module.model.backbone.patch_embed.weight.detach().clone()
    losses = train(module, make_batch(task, objects=(1, 1)), 30)
    assert losses[-1] < 0.6 * losses[0]
    assert not torch.equal(before, module.model.backbone.patch_embed.weight)


def test_an_image_without_objects_is_all_background(module, make_batch):
    batch = make_batch("instance_segmentation", objects=(0, 0))
    losses = module.dense_losses(batch, torch.zeros(2, 6, 6, module.head.out_features))
    assert losses["box"] == 0
    assert losses["label"] == pytest.approx(torch.tensor(4.0).log())  # three classes and the background


def test_the_expression_decides_which_patches_and_which_box_are_learned(module, make_batch):
    batch = make_batch("grounding", objects=(1, 1))
    output = torch.zeros(2, 3, 3, module.head.out_features)
    for image, (x1, y1, x2, y2) in enumerate(torch.cat(batch.boxes).tolist()):
        for row in range(3):
            for col in range(3):
                inside = y1 <= 4 * row + 2 < y2 and x1 <= 4 * col + 2 < x2
                output[image, row, col, 8] = 20.0 if inside else -20.0
        centre = torch.tensor([x1 + x2, y1 + y2]) / 2 / 12  # images are 12 px wide
        extent = torch.tensor([x2 - x1, y2 - y1]) / 12
        output[image, ..., 4:8] = 4 * torch.cat([centre - 0.5, extent])
    losses = module.referring_losses(batch, output)
    assert losses["referred"] < 1e-6 and losses["referred_box"] < 1e-6
    wrong = module.referring_losses(batch, -output)
    assert wrong["referred"] > 1 and wrong["referred_box"] > 0.1


def test_the_front_object_owns_a_pixel():
    masks = torch.zeros(2, 2, 3, dtype=torch.uint8)
    masks[0, :, :2] = 1
    masks[1, :, 1:] = 1
    assert _owner(masks).tolist() == [[0, 1, 1], [0, 1, 1]]


def test_a_patch_s_box_is_relative_to_its_centre():
    inside = _inside(torch.tensor([0.0, 0.0, 4.0, 8.0]), (8, 8))
    assert inside.sum() == 32
    target = _box_map(inside - 1, torch.tensor([[0.0, 0.0, 4.0, 8.0]]), (2, 2))
    # the box's centre is (1/4, 1/2) of the image, the first patch's (1/4, 1/4); in quarters of the image
    assert target[0, 0].tolist() == [0.0, 1.0, 2.0, 4.0]
