"""A loss that is not finite: named, skipped, and after a few in a row a bundle that repeats it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader
from trainers import quiet_trainer

from ufo.build import check_last_step
from ufo.callbacks import nonfinite
from ufo.callbacks.nonfinite import NonFinite, NonFiniteError
from ufo.cli.main import main
from ufo.modules.base import UFOModule
from ufo.ops.launches import Launches

pytestmark = pytest.mark.heavy

BAD = "bad/caption"


class Faulty(UFOModule):
    """Its loss on one source is not a number; keeps a weight after each batch."""

    def training_step(self, batch, batch_idx):
        found = super().training_step(batch, batch_idx)
        return {**found, "loss": found["loss"] * float("nan")} if batch.source == BAD else found

    def on_train_batch_end(self, *_) -> None:
        weight = next(p for p in self.model.parameters() if p.grad is not None or p.requires_grad)
        self.seen = [*getattr(self, "seen", []), weight.detach().clone()]


OPTIMIZERS = {
    "waits": partial(torch.optim.SGD, lr=0.1),
    "leaves out itself": partial(torch.optim.AdamW, lr=0.1, fused=True),
    "could, but for its momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
}


@pytest.fixture(params=OPTIMIZERS)
def train(request, monkeypatch):
    """Trains on batches, with an optimizer that leaves steps out on the device, too."""
    monkeypatch.setattr(nonfinite, "DEVICES", {"cpu"})
    return partial(_train, OPTIMIZERS[request.param])


def _train(optimizer: partial, model, batches, callback: NonFinite, **settings) -> tuple[Faulty, L.Trainer]:
    module = Faulty(model, optimizer)
    trainer = quiet_trainer(
        max_epochs=1,
        callbacks=[callback],
        **settings,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return module, trainer


@pytest.fixture
def batches(make_batch):
    """A good one, one whose loss is not a number."""
    good = make_batch("caption")
    return good, replace(good, source=BAD, ids=[5, 9], seed=77)


def test_a_bad_step_moves_no_weight_and_is_named(train, make_model, batches, tmp_path, caplog):
    good, bad = batches
    with caplog.at_level(logging.ERROR):
        module, trainer = train(make_model(), [good, bad, bad, good], NonFinite(tmp_path, 3))
    first, second, third, fourth = module.seen
    assert torch.equal(first, second) and torch.equal(second, third)
    assert not torch.equal(third, fourth) and fourth.isfinite().all()
    assert trainer.global_step == 4 and not list(tmp_path.iterdir())
    named = [r.getMessage() for r in caplog.records if "loss is nan" in r.getMessage()]
    assert len(named) == 2 and "step 1, process 0" in named[0]
    assert all(f"caption of {BAD}, samples 5, 9 (seed 77)" in message for message in named)


def test_a_first_step_that_is_left_out_leaves_no_trace(train, make_model, batches, tmp_path):
    """Also in what the optimizer remembers of it."""
    good, bad = batches
    trained = []
    for kinds in ([good, good], [bad, good, good]):
        module, _ = train(make_model(), kinds, NonFinite(tmp_path, 3))
        trained.append(dict(module.named_parameters()))
    for name, weight in trained[0].items():
        assert torch.equal(trained[1][name], weight), name


def test_one_bad_batch_of_an_accumulation_is_the_one_that_is_named(
    train, make_model, batches, tmp_path, caplog
):
    good, bad = batches
    with caplog.at_level(logging.ERROR):
        module, _ = train(make_model(), [good, bad], NonFinite(tmp_path, 3), accumulate_grad_batches=2)
    assert torch.equal(*module.seen)
    assert caplog.text.count("samples 5, 9") == 1 and "tiny/caption" not in caplog.text


def test_only_steps_in_a_row_end_the_run(train, make_model, batches, tmp_path):
    good, bad = batches
    train(make_model(), [bad, good, bad, good, bad], NonFinite(tmp_path, 2))
    with pytest.raises(NonFiniteError, match=r"2 steps in a row.*samples 5, 9.*ufo replay .*step_000003"):
        train(make_model(), [bad, good, bad, bad, good], NonFinite(tmp_path, 2))


def test_a_training_whose_last_step_was_left_out_does_not_end_well(train, make_model, batches, tmp_path):
    """It was only logged; the weights before the step are saved, and the bundle repeats it."""
    good, bad = batches
    for kinds in ([bad, good], [good, bad], [bad, bad]):
        callback = NonFinite(tmp_path, 3)
        module, trainer = train(make_model(), kinds, callback)
        assert all(weight.isfinite().all() for weight in module.model.parameters())
        if kinds[-1] is good:
            check_last_step(trainer)
            assert not list(tmp_path.iterdir())
            continue
        with pytest.raises(
            NonFiniteError, match=r"^the last step had no .*samples 5, 9.*ufo replay .*step_000001"
        ):
            check_last_step(trainer)
        content = torch.load(tmp_path / "step_000001" / "weights.pt", weights_only=True)
        for name, weight in module.model.state_dict().items():
            assert torch.equal(content["state_dict"][name], weight)
        shutil.rmtree(tmp_path / "step_000001")


def test_a_checkpoint_says_whether_its_last_step_was_left_out(train, make_model, batches, tmp_path):
    class Asked(NonFinite):
        def on_train_batch_end(self, *_) -> None:
            said.append(bool(self.state_dict()))

    (good, bad), said = batches, []
    train(make_model(), [good, bad, good, bad], Asked(tmp_path, 2))
    assert said == [False, True, False, True]


def test_a_fused_optimizer_on_a_gpu_is_not_waited_for(make_model, batches, tmp_path, monkeypatch):
    """Nothing is read from the device between the backward pass and the step."""
    monkeypatch.setattr(nonfinite, "DEVICES", {"cpu"})
    decide, read = NonFinite.on_before_optimizer_step, []

    def listening(self, *arguments):
        with Launches() as launches:
            decide(self, *arguments)
        read.append(launches.by_name["_local_scalar_dense"])

    monkeypatch.setattr(NonFinite, "on_before_optimizer_step", listening)
    for kind in OPTIMIZERS:
        _train(OPTIMIZERS[kind], make_model(), [batches[0]] * 3, NonFinite(tmp_path, 2))
    assert read == [1, 1, 1, 0, 1, 1, 1, 1, 1]  # the flag of the step before is on the host by then


def test_the_bundle_repeats_the_step(train, make_model, make_batch, tmp_path, capsys):
    """A weight is not a number: the same loss from the files alone; a sound bundle says that it is sound."""
    model = make_model()
    with torch.no_grad():
        model.backbone.output_embedding[-1, 0] = float("inf")
    batch = replace(make_batch("detection"), ids=[3, 4], seed=5)
    with pytest.raises(NonFiniteError):
        train(model, [batch], NonFinite(tmp_path, 1))
    bundle = tmp_path / "step_000000"
    assert sorted(p.name for p in bundle.iterdir()) == ["batch_0.pt", "weights.pt"]
    assert main(["replay", str(bundle)]) == 0
    printed = capsys.readouterr().out
    assert "detection of tiny/detection, samples 3, 4 (seed 5)" in printed
    assert "loss nan" in printed or "loss inf" in printed
    content = torch.load(bundle / "weights.pt", weights_only=True)
    for value in content["state_dict"].values():
        value.nan_to_num_(posinf=0.0)
    torch.save(content, bundle / "weights.pt")
    assert main(["replay", str(bundle)]) == 1
    assert "gradients not finite: 0" in capsys.readouterr().out


def test_patience_and_bundles_are_checked(tmp_path, capsys):
    with pytest.raises(ValueError, match="at least 1"):
        NonFinite(tmp_path, 0)
    assert main(["replay", str(tmp_path)]) != 0
    assert "is not a bundle" in capsys.readouterr().err


@pytest.fixture
def bundle(make_model, make_batch, tmp_path) -> Path:
    """What a run leaves of a step in which a weight is not a number."""
    model = make_model()
    with torch.no_grad():
        model.backbone.output_embedding[-1, 0] = float("inf")
    with pytest.raises(NonFiniteError):
        _train(OPTIMIZERS["waits"], model, [make_batch("caption")], NonFinite(tmp_path, 1))
    return tmp_path / "step_000000"


@pytest.mark.parametrize(
    "change",
    [
        {"task": "swim"},
        {"task": None},
        {"images": "none"},
        {"images": torch.zeros(3)},
        {"captions": [None]},
        {"seed": "five"},
        {"seed": 10**400},
        {"more": 1},
    ],
    ids=str,
)
def test_a_strange_batch_ends_in_a_sentence(change, bundle, capsys):
    path = bundle / "batch_0.pt"
    [values] = torch.load(path, weights_only=True)
    torch.save([{**values, **change}], path)
    assert main(["replay", str(bundle)]) == 1
    assert "copy the bundle again" in capsys.readouterr().err


@pytest.mark.parametrize("content", [3, None, [3], {"a": 1}, "text", [[1] * 3]], ids=str)
@pytest.mark.parametrize("name", ["batch_0.pt", "weights.pt"])
def test_strange_files_in_a_bundle_end_in_a_sentence(name, content, bundle, capsys):
    torch.save(content, bundle / name)
    assert main(["replay", str(bundle)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    (bundle / name).write_bytes(b"\x80\x02garbage")
    assert main(["replay", str(bundle)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_references_in_a_batch_that_multiply_are_refused_at_once(bundle, capsys):
    value = ["a"]
    for _ in range(5):
        value = [value] * 500
    torch.save([{"ids": value}], bundle / "batch_0.pt")
    assert main(["replay", str(bundle)]) == 1
    assert "nested as no checkpoint's are" in capsys.readouterr().err


def test_autograd_names_the_operation(bundle, capsys):
    with pytest.warns(UserWarning, match="Error detected"):
        assert main(["replay", str(bundle), "--anomaly"]) == 0
    assert "autograd: Function '" in capsys.readouterr().out
