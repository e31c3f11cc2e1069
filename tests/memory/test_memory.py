"""The estimate of a training's memory against what real steps of small models hold."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from commands import NETWORK, TASKS, resolution
from tiny_mllm import make_mllm, training_batch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ufo.backbones.lora import LoRASettings, apply_lora
from ufo.cli.main import main
from ufo.memory.meta import LiveBytes, activations
from ufo.memory.sizes import STRATEGIES, held, moments_of, size_of
from ufo.ops.autocast import autocasts
from ufo.tasks import task_names

pytestmark = pytest.mark.heavy

ADAMW = partial(torch.optim.AdamW, lr=1e-3)
ADAPTERS = LoRASettings(r=2, alpha=4, targets=r"layers\.\d+\.(qkv|proj)", train_vision=False, train_lm=False)


def saved_for_backward(model: nn.Module, loss: Tensor) -> int:
    """Bytes that the graph of a loss keeps for its backward pass, each storage once, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [other for other, _ in node.next_functions]
        for name in dir(node):
            if name.startswith("_saved_"):
                for tensor in tree_leaves(getattr(node, name)):
                    if isinstance(tensor, Tensor):
                        storage = tensor.untyped_storage()
                        kept[storage.data_ptr()] = storage.nbytes()
    return sum(size for address, size in kept.items() if address not in weights)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Attention by the fused kernel, also where a CPU is faster with explicit products."""
    monkeypatch.setattr("ufo.backbones.cpu_attention._SMALL", 0)


def both(model, batch, half=None) -> tuple[int, int]:
    """Bytes kept for the backward pass: of a real step, and as estimated."""
    real = saved_for_backward(model, model.loss(batch)["loss"])
    copy = model.to("meta")
    images = batch.to("meta")
    return real, activations(copy, lambda: copy.loss(images)["loss"], half).saved


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("task", task_names())
def test_activations__are_those_of_a_real_step(task, make_model, make_batch):
    # wide enough that the numbers of tensors, not their sizes, do not decide
    model = make_model(width=128, heads=4).train()
    real, estimated = both(model, make_batch(task))
    assert estimated == pytest.approx(real, rel=0.1)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_activations__of_a_language_model():
    real, estimated = both(make_mllm().train(), training_batch())
    assert estimated == pytest.approx(real, rel=0.02)


def test_checkpointing__keeps_less(make_model, make_batch):
    batch = make_batch("detection").to("meta")
    found = {}
    for on in (False, True):
        model = make_model(gradient_checkpointing=on).train().to("meta")
        found[on] = activations(model, lambda m=model: m.loss(batch)["loss"], None)
    assert found[True].saved < found[False].saved / 2
    assert found[True].saved < found[True].peak < found[False].peak


def test_half_precision__keeps_less_than_float32(make_model, make_batch):
    batch, model = make_batch("caption").to("meta"), make_model().train().to("meta")
    loss = lambda: model.loss(batch)["loss"]  # noqa: E731
    full, half = (activations(model, loss, kind).saved for kind in (None, torch.bfloat16))
    assert 0.4 * full < half < 0.9 * full
    assert not autocasts(torch.device("meta"))


def test_live_bytes__are_those_that_something_holds():
    with LiveBytes() as live:
        x = torch.empty(1000, device="meta")
        y = x.view(10, 100)[2:]
        assert live.now == 4000
        z = y + 1
        del z
        assert (live.now, live.peak) == (4000, 7200)
        del x
        assert live.now == 4000  # of which y is a part
        del y
    assert live.now == 0


@pytest.mark.parametrize("adapters", [False, True])
def test_kept__is_exact(adapters, make_model, make_batch):
    model = make_model().train()
    if adapters:
        apply_lora(model.backbone, ADAPTERS)
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer = ADAMW([p for p in model.parameters() if p.requires_grad])
    optimizer.step()
    nbytes = lambda tensors: sum(t.numel() * t.element_size() for t in tensors)  # noqa: E731
    found = held("ddp", size_of(model), 1, moments=moments_of(ADAMW))
    assert found.weights == nbytes(model.parameters())
    assert found.gradients == nbytes(p.grad for p in model.parameters() if p.grad is not None)
    moments = [s[k] for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq")]
    assert found.optimizer == nbytes(moments)
    assert size_of(model.to("meta")) == size_of(make_model()) or adapters


@pytest.mark.parametrize(
    "optimizer, moments",
    [
        (ADAMW, 2),
        (partial(torch.optim.AdamW, lr=1e-3, amsgrad=True), 3),
        (partial(torch.optim.SGD, lr=1e-3), 0),
        (partial(torch.optim.SGD, lr=1e-3, momentum=0.9), 1),
    ],
)
def test_moments__of_any_optimizer(optimizer, moments):
    assert moments_of(optimizer) == moments


def test_sharding__keeps_less_the_more_devices(make_model):
    size = size_of(make_model())
    for strategy in STRATEGIES[1:]:
        assert held(strategy, size, 8).total < held(strategy, size, 2).total < held(strategy, size, 1).total
    assert held("ddp", size, 8) == held("ddp", size, 1)


# ---------------------------------------------------------------- the command


SMALL = [*NETWORK, *resolution(112, 56)]  # a step of the real sizes takes seconds, also without values


def printed(capsys, *overrides: str) -> str:
    assert main(["memory", *overrides, *SMALL]) == 0
    return capsys.readouterr().out


def test_command__names_every_source_and_what_it_assumes(capsys):
    text = printed(capsys, "experiment=digits", "trainer=fsdp", "trainer.devices=2")
    for line in (
        "fsdp on 2 devices, bf16-mixed",
        "digits/detection",
        "digits/grounding",
        "assumed: 16 objects",
    ):
        assert line in text
    assert "with gradient_checkpointing=true" in text


def test_command__counts_recorded_steps(capsys):
    """They keep the memory of the largest step, beside which one of a new shape must fit."""

    def totals(*words: str) -> dict[str, list[float]]:
        rows = printed(capsys, "experiment=digits", *words).splitlines()
        return {
            r[:44].strip(): [float(x) for x in r[44:].split()]
            for r in rows
            if "digits/" in r or "  with" in r
        }

    plain, recorded = totals(), totals("cuda_graphs=all")
    largest = max(row[3] for name, row in plain.items() if "/" in name)
    for name, (*rest, total) in recorded.items():
        assert rest == plain[name][:-1]
        more = largest if "/" in name else 0.0  # with checkpointing nothing is recorded
        assert plain[name][-1] + more <= total <= plain[name][-1] + more + 0.05


@pytest.mark.parametrize(
    "word, said",
    [
        ("compile=true", "set compile=false, or cuda_graphs=auto"),
        ("backbone.network.gradient_checkpointing=true", "gradient_checkpointing=false, or cuda_graphs=auto"),
        ("trainer.precision=16-mixed", "set trainer.precision=bf16-mixed"),
        ("trainer=fsdp", "or use trainer=ddp"),
        ("cuda_graphs=al", "cuda_graphs must be auto, true, all or false, not 'al'"),
    ],
)
def test_command__estimates_no_recordings_that_training_refuses(word, said, capsys):
    assert main(["memory", "experiment=digits", "cuda_graphs=all", word]) == 1
    assert said in capsys.readouterr().err


def test_command__batches_count(capsys):
    total = lambda text: float(next(x for x in text.splitlines() if "digits/caption" in x).split()[-1])  # noqa: E731
    alone = ["experiment=digits", *(f"sources.{task}=null" for task in TASKS if task != "caption")]
    few = printed(capsys, *alone, "sources.caption.batch_size=64")
    many = printed(capsys, *alone, "sources.caption.batch_size=512")
    assert total(few) < total(many)


@pytest.mark.parametrize(
    "words, said",
    [
        (["experiment=digits", "trainer.precision=64-true"], "trainer.precision=auto"),
        (["experiment=digits", "--objects", "0"], "--objects must be 1 or more"),
        (["backbone=ufo_vit_base", "backbone.tokenizer.name_or_path=no/such"], "--tokens"),
        (["backbone=internvl_tiny", "backbone.network.pretrained=x/y"], "backbone.network.config"),
        (["experiment=ufo_vit_b_multi", "mixture=coco_detection"], "no tasks.instance_segmentation"),
        (["backbone=ufo_vit_base"], "image_size=112 does not divide into windows"),
    ],
)
def test_command__says_what_it_cannot_tell(words, said, capsys):
    assert main(["memory", *words]) == 1
    assert said in capsys.readouterr().err
