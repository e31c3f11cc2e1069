"""What trains and what does not: adapters, frozen parts, and that merging changes nothing."""

from __future__ import annotations

import pytest
import torch
from commands import CONF
from omegaconf import OmegaConf
from tiny_mllm import FAMILIES, LORA, learn, make_mllm, outputs, training_batch

from ufo.backbones.lora import (
    ADAPTER,
    LoRASettings,
    apply_lora,
    fingerprint,
    frozen,
    merge_lora,
    plain_name,
    start_adapters,
)
from ufo.checkpoints.load import prepare_training
from ufo.modules.schedule import LayerRamp, parameter_groups
from ufo.ops.launches import Launches

EMBEDDINGS = {
    "net.model.language_model.embed_tokens.weight",
    "net.model.language_model.norm.weight",
    "net.lm_head.weight",
}
VARIANTS = ({}, {"dora": True}, {"rslora": True})


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


def adapted(family: str = "internvl", **changes):
    model = make_mllm(family)
    apply_lora(model.backbone, {**LORA, **changes})
    return model


def trained(model) -> set[str]:
    return {name for name, p in model.backbone.named_parameters() if p.requires_grad}


def test_the_official_form_trains_adapters_and_embeddings_only(family):
    official = OmegaConf.to_container(OmegaConf.load(CONF / "lora" / "official.yaml"))
    assert official.pop("_target_") == f"{LoRASettings.__module__}.{LoRASettings.__name__}"
    assert (official["r"], official["alpha"], official["dropout"]) == (8, 16, 0.05)
    model = make_mllm(family)
    linears = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    linears += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    expected = {
        f"net.model.language_model.layers.{i}.{linear}.lora_{x}.default.weight"
        for i in range(2)
        for linear in linears
        for x in "AB"
    }
    apply_lora(model.backbone, official)
    assert trained(model) == expected | EMBEDDINGS
    down = model.backbone.net.model.language_model.layers[0].mlp.down_proj
    assert down.lora_A["default"].weight.shape == (8, 48) and down.scaling["default"] == 2.0
    assert down.lora_dropout["default"].p == 0.05


@pytest.mark.parametrize("changes", VARIANTS)
def test_adapters_start_as_nothing_and_merge_into_the_same_function(family, changes):
    before = outputs(make_mllm(family))
    model = adapted(family, **changes)
    torch.testing.assert_close(outputs(model), before)
    learned = outputs(learn(model))
    assert (learned - before).abs().max() > 0.1
    merge_lora(model.backbone)
    assert model.state_dict().keys() == make_mllm(family).state_dict().keys()
    assert model.backbone.lora is None
    torch.testing.assert_close(outputs(model), learned, rtol=1e-4, atol=1e-5)


def test_adapters_of_dora_fit_weights_loaded_later():
    model, other = adapted(dora=True), make_mllm(seed=1)
    names = {plain_name(k): k for k in model.state_dict()}
    model.load_state_dict({names[k]: v for k, v in other.state_dict().items()}, strict=False)
    assert (outputs(model) - outputs(other)).abs().max() > 0.1
    start_adapters(model.backbone)
    torch.testing.assert_close(outputs(model), outputs(other))


def test_what_is_frozen_gets_no_gradient_no_state_and_no_change(family):
    model = adapted(family)
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    groups = parameter_groups(model.backbone, [], 0.01, LayerRamp())
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    for _ in range(2):  # B of an adapter starts at 0: A learns from the second step on
        optimizer.zero_grad()
        model.loss(training_batch())["loss"].backward()
        optimizer.step()
    parameters = dict(model.backbone.named_parameters())
    held = frozen(model.backbone)
    assert len(held) + len(trained(model)) == len(parameters)
    for name, parameter in parameters.items():
        is_held = name in held
        assert (parameter.grad is None) == is_held, name
        assert (parameter not in optimizer.state) == is_held, name
        assert torch.equal(parameter, before[name]) == is_held, name


@pytest.mark.parametrize(
    "changes, there, gone",
    [
        ({"train_vision": True}, "net.model.vision_tower.", "multi_modal_projector"),
        ({"train_projector": True}, "net.model.multi_modal_projector.", "vision_tower"),
        ({"train_lm": True}, "net.model.language_model.layers.0.input_layernorm", "vision_tower"),
    ],
)
def test_parts_can_be_trained_beside_adapters(family, changes, there, gone):
    names = trained(adapted(family, **changes))
    assert any(name.startswith(there) for name in names)
    assert not any(gone in name for name in names) and names >= EMBEDDINGS
    assert any(".lora_A." in name for name in names)


def test_parts_without_adapters(family):
    model = make_mllm(family)
    apply_lora(model.backbone, LoRASettings())
    assert not frozen(model.backbone) and model.backbone.lora is None
    apply_lora(model.backbone, LoRASettings(train_vision=False, train_embeddings=False))
    assert all("vision_tower" in n or n in EMBEDDINGS for n in frozen(model.backbone))
    assert not trained(model) & EMBEDDINGS and not any("vision_tower" in n for n in trained(model))
    assert any("projector" in n for n in trained(model))


def test_targets_choose_layers():
    names = trained(adapted(targets=r".*language_model\.layers\.1\.self_attn\.[qv]_proj"))
    layers = {name.split(".lora_")[0] for name in names - EMBEDDINGS}
    assert layers == {f"net.model.language_model.layers.1.self_attn.{p}_proj" for p in "qv"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"targets": "q_proj"}, "no linear layer of InternVL is called"),
        ({"targets": "("}, "not a regular expression"),
        ({"r": 0}, "lora.r >= 1"),
        ({"alpha": None}, "lora.alpha"),
        ({"dropout": 1.5}, "part of 1"),
        ({"r": None, "train_embeddings": False}, "freezes every weight"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        adapted(**changes)


# ---------------------------------------------------------------- UFO-ViT


def test_a_ufo_vit_takes_adapters_too(make_model, make_batch):
    settings = OmegaConf.load(CONF / "lora" / "ufo_vit.yaml")
    settings = OmegaConf.merge(OmegaConf.load(CONF / "lora" / "official.yaml"), settings)
    settings = {k: v for k, v in settings.items() if k not in ("defaults", "_target_")}
    model = make_model()
    batch = make_batch("detection")
    before = model.loss(batch)["token"]
    apply_lora(model.backbone, {**settings, "dropout": 0.0})
    torch.testing.assert_close(model.loss(batch)["token"], before)
    names = trained(model)
    assert {n.split(".")[0] for n in names} == {"layers", "embedding"}
    assert all(".lora_" in n for n in names if n.startswith("layers"))
    model.loss(batch)["loss"].backward()
    assert all(p.grad is None for p in frozen(model.backbone).values())
    learned = learn(model).loss(batch)["token"].detach()
    merge_lora(model.backbone)
    torch.testing.assert_close(model.loss(batch)["token"].detach(), learned, rtol=1e-4, atol=1e-4)


def test_four_bits_are_not_for_a_ufo_vit(make_model):
    """It has no setting that would turn it to bfloat16: the option to take is named, not that one."""
    with pytest.raises(
        ValueError, match="is for language models; the adapters of a UFO-ViT are lora=ufo_vit"
    ):
        apply_lora(make_model().backbone, {**LORA, "bits": 4})


def test_what_a_backbone_freezes_itself_stays_frozen(make_model):
    model = make_model()
    own = set(frozen(model.backbone))
    apply_lora(model.backbone, LoRASettings())
    assert own and set(frozen(model.backbone)) == own


# ---------------------------------------------------------------- learning rates


def test_the_ramp_of_the_published_full_models():
    """Layers 0-20 x0.1, then 0.175 ... 0.925; head, norm, embedding x1; vision and projector x0.1."""
    ramp = LayerRamp(low=0.1, first=20, last=32)
    backbone = make_mllm().backbone

    def factor(name: str) -> float:
        return ramp.factor(backbone.layer_of(name), backbone.is_text(name))

    layers = [factor(f"net.model.language_model.layers.{i}.mlp.up_proj.weight") for i in range(32)]
    assert layers == pytest.approx([0.1] * 21 + [0.175 + 0.075 * i for i in range(11)])
    assert {factor(name) for name in EMBEDDINGS} == {1.0}
    assert factor("net.model.multi_modal_projector.linear_1.weight") == 0.1
    assert factor("net.model.vision_tower.encoder.layers.31.mlp.fc1.weight") == 0.1


def test_adapters_get_the_full_rate_whatever_the_ramp():
    model = adapted(train_vision=True)
    groups = parameter_groups(model.backbone, [], 1.0, LayerRamp(low=0.1, first=20, last=32))
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    parameters = model.backbone.named_parameters()
    rates = {"vision_tower" in n: rate[id(p)] for n, p in parameters if p.requires_grad}
    assert rates == {True: 0.1, False: 1.0}


# ---------------------------------------------------------------- fingerprints


def test_a_fingerprint_tells_weights_apart():
    one, other = make_mllm(), make_mllm(seed=1)
    state = one.backbone.state_dict()
    known = fingerprint(state)
    assert fingerprint(make_mllm().backbone.state_dict()) == known
    assert fingerprint({k: v.bfloat16() for k, v in state.items()}) == known
    assert fingerprint(other.backbone.state_dict()) != known
    name = next(iter(state))
    assert fingerprint({**state, name: state[name] + 1}) != known
    assert fingerprint({k: v for k, v in state.items() if k != name}) != known
    apply_lora(one.backbone, LORA)
    assert fingerprint(frozen(one.backbone)) == fingerprint(
        {k: v for k, v in state.items() if k not in EMBEDDINGS}
    )


@pytest.mark.parametrize("changes", [{}, {"rslora": True}], ids=["lora", "rslora"])
def test_under_autocast_inputs_of_adapters_are_not_cast_to_and_fro(changes, monkeypatch):
    """Attention and MLP give bf16, adapters are float32: the same gradients bit for bit, in fewer casts."""
    gradients, casts = [], []
    for always in (True, False):
        if always:
            monkeypatch.setattr("ufo.backbones.lora._cast_where_autocast_does_not", lambda *_: None)
        model = make_mllm()
        torch.manual_seed(1)  # of the adapters
        prepare_training(model, {**LORA, **changes})
        learn(model).train()
        with Launches() as launches:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model.loss(training_batch())["loss"]
            loss.backward()
        monkeypatch.undo()
        casts.append(launches.casts)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    old, new = gradients
    assert old.keys() == new.keys() and any(ADAPTER in name for name in new)
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert casts[1] < casts[0]
    model.zero_grad()
    model.eval().loss(training_batch())["loss"].backward()  # without autocast the input is cast as before
