"""The recorded LoRA beside the weights, as in training: losses, gradients, the same function as merged."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import yaml
from mllm_recordings import FOLDER, heads, native_names, or_skip, read_weights, smallest
from vit_recordings import ROOT, close, spied

from ufo.backbones.lora import apply_lora, merge_lora

FOLDERS = sorted(path.name for path in FOLDER.glob("*_lora") if path.is_dir())


@pytest.fixture(scope="module", params=or_skip(FOLDERS))
def step(request) -> SimpleNamespace:
    """A recorded training step of a model with adapters, and the same model after they are merged."""
    folder = request.param
    case = smallest(folder, "loss")
    native, factors, described = read_weights(folder, heads(folder))
    backbone = case.backbone((native, described["config"]))
    official = yaml.safe_load((ROOT / "conf" / "lora" / "official.yaml").read_text(encoding="utf-8"))
    official.pop("_target_")
    rank = described["lora"]["rank"]
    assert described["lora"]["scale"] == official["alpha"] / official["r"]
    alpha = described["lora"]["scale"] * rank
    apply_lora(backbone, {**official, "r": rank, "alpha": alpha, "dropout": 0.0})
    ours = {n: p for n, p in backbone.net.named_parameters() if ".lora_" in n}
    assert ours.keys() == {peft_name(n) for n in factors}, "every factor has its place"
    for name, value in factors.items():
        ours[peft_name(name)].data.copy_(value)
    model, batch = case.model(backbone=backbone).train(), case.batch()
    with spied("ufo.head.learning.token_loss") as calls:
        with case.recorded_choices(model):
            losses = model.loss(batch)
        losses["loss"].backward()
        gradients = {n: p.grad for n, p in backbone.net.named_parameters()}
        merge_lora(backbone)
        with case.recorded_choices(model):
            model.loss(batch)
    return SimpleNamespace(case=case, losses=losses, gradients=gradients, calls=calls)


def peft_name(factor: str) -> str:
    return factor.replace(".weight", ".default.weight")


def test_losses(step):
    assert step.losses["loss"].item() == pytest.approx(step.case.meta["total"], rel=1e-4)


def test_gradients_of_factors(step):
    """The parts of a fused weight share one A, so its gradients add up; B's rows go with the parts."""
    recorded = {k: v for k, v in step.case.meta["grad_norms"].items() if ".lora_" in k}
    assert recorded
    norms = []
    for name in recorded:
        parts = [step.gradients[peft_name(n)] for n in native_names(step.case.folder)[name]]
        norms.append((sum(parts) if ".lora_A." in name else torch.cat(parts)).norm())
    close(torch.stack(norms), torch.tensor([*recorded.values()]))


def test_gradients_of_what_trains_in_full(step):
    """Token embedding, output head and final norm; everything else is frozen."""
    norms = step.case.meta["grad_norms"]
    trained = {n: g for n, g in step.gradients.items() if g is not None and ".lora_" not in n}
    places = {n[0]: k for k, n in native_names(step.case.folder).items() if len(n) == 1}
    assert len(trained) == 3
    recorded = [norms[places[n]] for n in trained]
    close(torch.stack([g.norm() for g in trained.values()]), torch.tensor(recorded))


def test_merged_is_the_same_function(step):
    (apart, _, head), (merged, _, same_head) = (call.arguments for call in step.calls)
    close((merged @ same_head.T).detach(), (apart @ head.T).detach())
