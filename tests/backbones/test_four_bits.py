"""A LoRA over a base in four bits: near the model that it came from, small when saved, merged as it runs."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import tiny_mllm
import torch
from commands import compose
from lightning.pytorch.strategies import DeepSpeedStrategy
from safetensors.torch import load_file
from test_lora import CONF
from tiny_mllm import LORA, learn, make_mllm, training_batch
from torch.utils.data import DataLoader
from trainers import quiet_trainer

import ufo
from ufo import build
from ufo.backbones.four_bits import BLOCK, FourBitLinear
from ufo.backbones.lora import LoRASettings, apply_lora, in_four_bits, merge_lora, pack, shrink_base
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.load import check_base, check_same_model, initialise, prepare_training, save
from ufo.cli.main import main
from ufo.memory.meta import activations
from ufo.memory.sizes import size_of
from ufo.modules.base import UFOModule

pytest.importorskip("bitsandbytes", reason="needs the extra qlora")

HALF = {"dtype": "bfloat16"}
QLORA = {**LORA, "bits": 4}
LINEARS = 2 * 7  # of two layers


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def half():
    """As in a training: left after each step, for autocast remembers weights that have changed."""
    return torch.autocast("cpu", torch.bfloat16)


def outputs(model) -> torch.Tensor:
    with half():
        return tiny_mllm.outputs(model)


@pytest.fixture
def base(tmp_path):
    return save(make_mllm(**HALF), tmp_path / "base")


def started(base, seed: int = 1, **changes):
    """A model as training builds it, before its base is packed."""
    model = make_mllm(seed=seed, **HALF)
    torch.manual_seed(seed)  # the adapters are random
    prepare_training(model, {**QLORA, **changes})
    initialise(model, base)
    return model


@pytest.fixture
def packed(base):
    model = started(base)
    shrink_base(model.backbone)
    return model


def far(found, expected) -> float:
    return float((found - expected).float().norm() / expected.float().norm())


def test_a_layer__is_the_one_it_stands_for_but_for_sixteen_values():
    linear = torch.nn.Linear(80, 48, bias=True, dtype=torch.bfloat16).requires_grad_(False)
    four = FourBitLinear(linear)
    assert four.stored < 0.3 * linear.weight.numel() * 2 + 100 and len(four.scales) == 80 * 48 / BLOCK
    assert 0.03 < far(four.weight, linear.weight) < 0.15
    x = torch.randn(3, 5, 80, dtype=torch.bfloat16, requires_grad=True)
    same = four.unpacked()
    torch.testing.assert_close(four(x), same(x))
    (mine,), (theirs,) = (torch.autograd.grad(f(x).square().sum(), x) for f in (four, same))
    torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-2)
    assert set(four.state_dict()) == {"bias"}


@pytest.mark.parametrize("shape", [(48, 80), (32, 32), (8, 128), (3, 6)])
def test_a_layer__unpacks_each_value_with_the_scale_of_its_block(shape):
    """Rows of different sizes, so that another one's scale would be seen."""
    weight = torch.randn(shape) * torch.logspace(-2, 1, shape[0])[:, None]
    linear = torch.nn.Linear(*reversed(shape), bias=False)
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    four, flat = FourBitLinear(linear), weight.flatten()
    expected = []
    for block, scale in zip(flat.split(BLOCK), four.scales, strict=True):
        assert scale == block.abs().max()
        expected.append(four.values[(block[:, None] / scale - four.values).abs().argmin(-1)] * scale)
    torch.testing.assert_close(four.weight.flatten(), torch.cat(expected))
    x = torch.randn(2, shape[1])
    torch.testing.assert_close(four(x), x @ four.weight.T)


def test_a_layer__moves_without_changing_its_types():
    four = FourBitLinear(torch.nn.Linear(64, 8, dtype=torch.bfloat16).requires_grad_(False))
    scales = four.scales.clone()
    four.to(torch.float64)
    assert four.packed.dtype == torch.uint8 and torch.equal(four.scales, scales)
    assert four.to("meta").packed.is_meta and four.scales.is_meta


def test_outputs_are_near_those_of_the_base(base, packed):
    assert len(in_four_bits(packed)) == LINEARS
    whole = outputs(started(base))
    assert 0 < far(outputs(packed), whole) < 0.25
    names = [n for n, p in packed.named_parameters() if p.dtype != torch.bfloat16 and ".lora_" not in n]
    assert not names, "embedding, norms and vision tower are in bfloat16"


def test_only_adapters_and_embeddings_learn(packed):
    packed.train()
    before = [m.packed.clone() for m in in_four_bits(packed)]
    optimizer = torch.optim.AdamW([p for p in packed.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(6):
        with half():
            loss = packed.loss(training_batch())["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    learning = {n for n, p in packed.named_parameters() if p.grad is not None}
    assert learning == {n for n, p in packed.named_parameters() if p.requires_grad}
    assert all(".lora_" in n or packed.backbone.is_text(n) for n in learning)
    assert all(torch.equal(m.packed, b) for m, b in zip(in_four_bits(packed), before, strict=True))


def test_a_folder_holds_what_was_trained_and_is_found_with_its_base(packed, tmp_path):
    learn(packed)
    path = save(packed, tmp_path / "lora")
    saved = load_file(path / "model.safetensors")
    assert saved.keys() == {n for n, p in packed.named_parameters() if p.requires_grad}
    loaded = ufo.load(path)
    assert loaded.describe() == packed.describe() and loaded.backbone.lora["bits"] == 4
    assert len(in_four_bits(loaded)) == LINEARS
    assert torch.equal(outputs(loaded), outputs(packed))


def test_merged_it_is_the_running_model(packed, tmp_path, capsys):
    learn(packed)
    path = save(packed, tmp_path / "lora")
    running = outputs(packed)
    assert main(["convert", "--merge", str(path), str(tmp_path / "merged")]) == 0
    merged = ufo.load(tmp_path / "merged")
    assert merged.backbone.lora is None and not in_four_bits(merged)
    assert far(outputs(merged), running) < 0.03  # bfloat16's rounding of the sums
    merge_lora(packed.backbone)
    assert torch.equal(outputs(packed), outputs(merged))


@pytest.mark.slow
def test_a_run_goes_on(base, tmp_path):
    def fit(steps: int, resume=None):
        model = started(base)
        shrink_base(model.backbone)
        module = UFOModule(model, lambda groups: torch.optim.AdamW(groups, lr=0.01))
        module._optimizer.keywords = {"lr": 0.01}
        trainer = quiet_trainer(max_steps=steps, default_root_dir=tmp_path, precision="bf16-mixed")
        loader = DataLoader([training_batch()] * 8, batch_size=None)
        trainer.fit(module, loader, ckpt_path=resume, weights_only=True if resume else None)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return model

    fit(2)
    content = torch.load(tmp_path / "2.ckpt", weights_only=True)
    assert not any("base_layer" in name for name in content["state_dict"])
    model = started(base)
    check_same_model(model, content["ufo"], "2.ckpt")
    check_base(model, tmp_path / "2.ckpt")
    straight, resumed = fit(4), fit(4, tmp_path / "2.ckpt")
    assert torch.equal(outputs(resumed), outputs(straight))
    assert torch.equal(outputs(ufo.load(tmp_path / "4.ckpt")), outputs(resumed))


def test_it_does_not_go_on_as_a_lora_over_another_base(packed, base):
    whole = make_mllm(**HALF)
    prepare_training(whole, LORA)
    with pytest.raises(CheckpointError, match="was trained with lora="):
        check_same_model(whole, packed.describe(), "x.ckpt")


def test_a_base_that_no_file_holds_is_refused():
    model = make_mllm(**HALF)
    prepare_training(model, QLORA)
    with pytest.raises(ValueError, match="no file holds the weights under them"):
        shrink_base(model.backbone)


@pytest.mark.parametrize(
    "changes, dtype, message",
    [
        ({"bits": 8}, "bfloat16", "lora.bits is 4 or null, not 8"),
        ({"dora": True}, "bfloat16", "goes with lora.r, lora.dora=false"),
        ({"train_lm": True}, "bfloat16", "goes with lora.r, lora.dora=false"),
        ({"r": None}, "bfloat16", "goes with lora.r, lora.dora=false"),
        ({}, "float32", "add backbone.network.dtype=bfloat16"),
    ],
)
def test_settings_that_are_not_honoured_are_refused(changes, dtype, message):
    with pytest.raises(ValueError, match=message):
        apply_lora(make_mllm(dtype=dtype).backbone, {**QLORA, **changes})


def test_without_the_library_it_is_said():
    missing = patch.dict(sys.modules, {"bitsandbytes": None})
    with missing, pytest.raises(ValueError, match=r"needs bitsandbytes: pip install 'ufo-vision\[qlora\]'"):
        apply_lora(make_mllm(**HALF).backbone, QLORA)


@pytest.mark.parametrize("compiled, strategy", [(True, object), (False, DeepSpeedStrategy)])
def test_what_does_not_go_together_is_refused(packed, compiled, strategy):
    trainer = SimpleNamespace(strategy=object.__new__(strategy))
    with pytest.raises(ValueError, match="goes with compile=false and one device or trainer=ddp"):
        build.shrink_base(SimpleNamespace(compile=compiled), packed, trainer)


@pytest.mark.parametrize("other", ["compile=true", "trainer=fsdp"])
def test_what_does_not_go_together_is_not_estimated(other, capsys):
    words = ["experiment=internvl_tiny_digits", "lora=qlora", "backbone.network.dtype=bfloat16", other]
    assert main(["memory", *words]) == 1
    assert "goes with compile=false and one device or trainer=ddp" in capsys.readouterr().err


def test_the_config_is_the_published_lora_over_four_bits():
    cfg = compose("experiment=internvl_tiny_digits", "lora=qlora")
    official = compose("experiment=internvl_tiny_digits", "lora=official")
    assert dict(cfg.lora) == {**official.lora, "bits": 4}
    assert LoRASettings(**{k: v for k, v in cfg.lora.items() if k != "_target_"}).bits == 4
    assert (CONF / "lora" / "qlora.yaml").is_file()


def test_memory_counts_four_bits():
    found = {}
    for bits in (None, 4):
        model = make_mllm(**HALF)
        apply_lora(model.backbone, {**LORA, "bits": bits})
        model.train().to("meta")
        if bits:
            pack(model.backbone)
        batch = training_batch().to("meta")
        held = activations(model, lambda model=model, batch=batch: model.loss(batch)["loss"], torch.bfloat16)
        found[bits] = size_of(model), held
    (whole, kept), (small, packed) = found[None], found[4]
    weights = sum(32 * n for n in (32, 16, 16, 32, 48, 48, 48)) * 2
    assert whole.total == small.total and whole.trained == small.trained
    saved = whole.stored - small.stored
    assert 0.65 * 2 * weights < saved < 0.75 * 2 * weights
    assert packed.saved == kept.saved, "no unpacked weight waits for the backward pass"
