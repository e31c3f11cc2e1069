"""Recorded passes give what the passes themselves give, for every task, backbone and way of decoding."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import MagicMock, patch

import pytest
import torch
from mllm_models import FAMILIES, encode, make_backbone, tall
from recorders import Tapes
from tiny_mllm import learn, make_mllm, prepared, training_batch

from ufo.backbones.base import Backbone
from ufo.head import training_inputs
from ufo.head.decoding import Decoded, decode
from ufo.head.greedy import greedy
from ufo.head.guesses import Drafts
from ufo.head.replay import recordings, replay
from ufo.head.replay.cuda_graphs import CudaGraphs
from ufo.head.strategy import Strategy
from ufo.model import UFO
from ufo.ops.grid import query_grid
from ufo.types import Batch

pytestmark = pytest.mark.heavy

SETTINGS = {
    "beams": ("caption", {"num_beams": 3}),
    "beams of queries": ("detection", {"num_beams": 2}),
    "grammar": ("detection", {"constrained": True}),
    "expansion": ("instance_segmentation", {"top_tokens": 2, "keep_queries": 5}),
    "masks": ("instance_segmentation", {"constrained": True}),
}


@pytest.fixture
def model(make_model) -> UFO:
    """A UFO-ViT of all tasks, with short answers."""
    model = make_model(seed=1)
    for task in model.tasks.values():
        task.max_length = min(task.max_length, 8)
    return model


@torch.no_grad()
def decoded(model: UFO, batch: Batch, autocast: bool = False) -> Decoded:
    """The answers to a batch, with the image's features among those of the answers."""
    task = model.task(batch.task)
    asked = task.ask(batch, model.grid(task, *batch.image_size))
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        context = model.encode(batch.images, asked.prompts, asked.queries, task)
        found = decode(model.backbone, context, model.tokenizer, task, batch.classes)
    features = [x.flatten(0, -2) for x in (found.features, context.image_features)]
    return replace(found, features=torch.cat(features))


def same(found: Decoded, expected: Decoded) -> None:
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.first_scores, expected.first_scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.features, expected.features, rtol=1e-3, atol=1e-4)


def compare(backbone: Backbone, ways: Sequence[Callable[[], Decoded]], most: int = 999) -> Tapes:
    """Each of some decodings as it is; then seen, recorded and replayed, in turns."""
    plain, recorder = [way() for way in ways], Tapes()
    replay(backbone, recorder, most)
    for _ in range(3):
        before = len(recorder.recorded)
        for way, expected in zip(ways, plain, strict=True):
            same(way(), expected)
    assert recorder.played and len(recorder.recorded) == before
    return recorder


def of_batches(model: UFO, batches: Sequence[Batch], **more) -> list[Callable[[], Decoded]]:
    return [lambda batch=batch: decoded(model, batch, **more) for batch in batches]


# ---------------------------------------------------------------- the same answers


@pytest.mark.heavy
def test_every_task_of_a_ufo_vit(model, make_batch, task_name):
    ways = of_batches(model, [make_batch(task_name, seed=seed) for seed in (0, 1)])
    assert set(compare(model.backbone, ways).recorded) >= {"encode", "answer"}


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_way_of_decoding(model, make_batch, kind):
    name, settings = SETTINGS[kind]
    for setting, value in settings.items():
        setattr(model.tasks[name], setting, value)
    recorder = compare(model.backbone, of_batches(model, [make_batch(name, seed=seed) for seed in (0, 1)]))
    assert max(recorder.chunks) > 1 or kind != "masks", "the tokens of a mask are fed at once"


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["internvl", "internvl3", "llava_qwen", "qwen3_vl"])
@pytest.mark.parametrize("queries", [True, False])
def test_language_models(name, queries):
    """Two images, whose rows leave one by one; prompts of two lengths; tokens that are fed at once."""
    backbone, tokenizer = make_backbone(name)
    grid = query_grid(2, 1, 2) if queries else None

    def way(prompts: list[str], drafts: bool) -> Decoded:
        strategy = Strategy(tokenizer.start_id, ends, 7, guesses=(Drafts([answer]),) if drafts else ())
        with torch.no_grad():
            context = encode(backbone, tokenizer, prompts, tall(backbone), grid)
            found = greedy(backbone, context, strategy)
        return replace(found, features=found.features.flatten(0, 1))

    ends = tokenizer.end_id
    first = way(["what is red", "what"], False)
    ends, answer = int(first.ids[0, 3]), first.ids[1].tolist()  # some row ends early, another follows a draft
    ways = [
        lambda: way(["what is red", "what"], False),
        lambda: way(["what", "what is a"], True),
        lambda: way(["what", "what"], False),
    ]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        recorder = compare(backbone, ways)
    assert max(recorder.chunks) > 2, "a draft is fed at once"
    refused = {str(w.message).split("`")[1] for w in said if "is not recorded" in str(w.message)}
    assert refused == ({"encode"} if name == "qwen3_vl" else set())


@pytest.mark.heavy
@pytest.mark.parametrize("make", [make_mllm, prepared])
@pytest.mark.parametrize("autocast", [True, False])
def test_detection_of_a_language_model(make, autocast):
    model, batch = make().eval(), training_batch()
    model.tasks["detection"].max_length = 5
    batches = [batch, replace(batch, images=batch.images.flip(0, 3))]
    compare(model.backbone, of_batches(model, batches, autocast=autocast))


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["detection", "caption"])
def test_under_autocast_weights_are_cast_for_all_recordings(model, make_batch, name, monkeypatch):
    monkeypatch.setattr(training_inputs, "PROMPT_STEP", 1)  # more keys would round in another way
    ways = of_batches(model, [make_batch(name)], autocast=True)
    recorder = compare(model.backbone, ways)
    linear = {id(w) for layer in model.backbone.layers for w in layer.fc1.parameters()}
    read = [x for tape in recorder.tapes for x in tape.read]
    assert read and not linear & {id(x) for x in read}
    with torch.no_grad():
        for weight in model.backbone.layers[-1].parameters():
            weight.mul_(1.5)  # in its place, as averaged weights are swapped in
    found, recorded = ways[0](), len(recorder.recorded)
    assert recorded == len(recorder.recorded)
    same(found, decoded(plain(model), make_batch(name), True))


@pytest.mark.heavy
def test_adapters_that_change_in_their_place_are_followed():
    """A recording must not read what autocast remembers of them."""
    model, batch = prepared().eval(), training_batch()
    model.tasks["detection"].max_length = 3
    [way] = of_batches(model, [batch], autocast=True)
    compare(model.backbone, [way])
    learn(model, 0.5)
    same(way(), decoded(plain(model), batch, True))


@pytest.mark.heavy
def test_prompts_of_many_lengths_share_recordings(model, make_batch):
    batch = make_batch("grounding")
    texts = ["the owl", "the red owl left of the cat", "the cat", "the red dog", "the dog left of the cat"]
    batches = [replace(batch, texts=[text] * len(batch)) for text in texts]
    recorded = compare(model.backbone, of_batches(model, batches)).recorded
    assert [recorded.count(name) for name in ("prompt", "encode")] == [1, 1]


# ---------------------------------------------------------------- when there are recordings


def plain(model: UFO) -> UFO:
    """The same model without recordings."""
    other = copy.deepcopy(model)
    for name in {"encode_prompt", "encode", "answer"} & vars(other.backbone).keys():
        delattr(other.backbone, name)
    return other


def seen_twice(model: UFO, batch: Batch, most: int = 999) -> Tapes:
    recorder = Tapes()
    replay(model.backbone, recorder, most)
    decoded(model, batch)
    assert not recorder.recorded, "what is seen once runs as it is"
    decoded(model, batch)
    assert len(recorder.recorded) == len(model.backbone.replay.recordings) > 2 or most < 999
    return recorder


def gradient(model: UFO) -> None:
    model.backbone.read_prompt(torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool))


CHANGES = {
    "train": lambda model: model.train().eval(),
    "load": lambda model: model.load_state_dict(model.state_dict()),
    "to": lambda model: model.double().float(),
    "gradient": gradient,
}


@pytest.mark.parametrize("change", CHANGES)
def test_recordings_are_dropped_when_weights_may_change(model, make_batch, change):
    batch = make_batch("caption")
    recorder = seen_twice(model, batch)
    CHANGES[change](model)
    assert recorder.forgotten == 1 and not len(model.backbone.replay.recordings)
    played = recorder.played
    decoded(model, batch)
    assert recorder.played == played


def test_weights_that_lie_elsewhere(model, make_batch):
    batch = make_batch("caption")
    recorder = seen_twice(model, batch)
    weight = model.backbone.layers[0].fc1.weight
    weight.data = weight.data * 2
    found = decoded(model, batch)
    assert recorder.forgotten == 1
    same(found, decoded(plain(model), batch))


def test_predict_in_eval_mode_keeps_recordings(model):
    recorder = Tapes()
    replay(model.backbone, recorder)
    image = torch.zeros(3, 12, 12, dtype=torch.uint8)
    for _ in range(3):
        model.predict(image, "caption")
    assert recorder.played > len(recorder.recorded) > 0 and not recorder.forgotten


def test_training_is_as_before(model, make_batch):
    batch = make_batch("detection")
    torch.manual_seed(0)
    expected = model.train().loss(batch)["loss"]
    recorder = Tapes()
    replay(model.backbone, recorder)
    torch.manual_seed(0)
    assert torch.equal(model.loss(batch)["loss"], expected) and not recorder.recorded
    assert not any("replay" in name for name in model.state_dict())


@pytest.mark.heavy
def test_no_more_than_so_many(model, make_batch, monkeypatch):
    """Longer answers than there may be recordings do not drop each one before its next use."""
    batch, other = make_batch("caption"), make_batch("vqa")
    expected = decoded(model, batch), decoded(model, other)
    recorder = seen_twice(model, batch, most=3)
    same(decoded(model, batch), expected[0])
    assert len(recorder.recorded) == len(model.backbone.replay.recordings) == 3
    monkeypatch.setattr(recordings, "PATIENCE", 0)
    for _ in range(3):
        same(decoded(model, other), expected[1])
    assert len(recorder.recorded) > 3 == len(model.backbone.replay.recordings)


@pytest.mark.heavy
def test_a_copy_has_recordings_of_its_own(model, make_batch):
    batch = make_batch("caption")
    seen_twice(model, batch)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.backbone.layers[-1].fc2.weight.mul_(3)
    assert other.backbone.replay is not model.backbone.replay and not len(other.backbone.replay.recordings)
    expected, changed = decoded(plain(model), batch), decoded(plain(other), batch)
    for _ in range(3):
        same(decoded(other, batch), changed)
        same(decoded(model, batch), expected)
    assert not torch.equal(expected.features, changed.features)


def test_threads_do_not_mix_their_inputs(model, make_batch):
    batches = [make_batch("detection", seed=seed) for seed in (0, 1)]
    expected = [decoded(model, batch) for batch in batches]
    seen_twice(model, batches[0])
    found: list[list[Decoded]] = [[], []]

    def work(index: int) -> None:
        found[index] += [decoded(model, batches[index]) for _ in range(2)]

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for some, right in zip(found, expected, strict=True):
        assert len(some) == 2
        for one in some:
            same(one, right)


def test_without_a_gpu_nothing_is_recorded(model, make_batch):
    replay(model.backbone)
    for _ in range(3):
        decoded(model, make_batch("caption"))
    assert not len(model.backbone.replay.recordings)


def test_a_pass_that_failed_is_waited_for():
    """What it was given is dropped then, and its memory is used again, on another stream."""
    current, side = MagicMock(), MagicMock()

    def failing(inputs):
        current.wait_stream.assert_not_called()
        raise RuntimeError("it waits")

    with (
        patch.multiple("torch.cuda", device=MagicMock(), Stream=lambda: side, stream=MagicMock()),
        patch("torch.cuda.current_stream", lambda: current),
        pytest.raises(RuntimeError, match="it waits"),
    ):
        CudaGraphs().record(failing, {"ids": torch.ones(1)})
    side.wait_stream.assert_called_once_with(current)
    current.wait_stream.assert_called_once_with(side)


def test_no_pass_of_a_published_backbone_waits():
    """Families with one size of tiles; towers of Qwen's look at the sizes of their images."""
    assert {"internvl", "internvl3", "internvl3_5", "llava", "llava_qwen"} < set(FAMILIES)
    for name in ("internvl3_5", "llava"):
        backbone, tokenizer = make_backbone(name)
        replay(backbone, Tapes())
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*is not recorded")
            for _ in range(2):
                encode(backbone, tokenizer, size=tall(backbone), grid=query_grid(2, 1, 2))
        assert len(backbone.replay.recordings) == 1


def test_weights_that_need_no_cast(model, make_batch, monkeypatch):
    """Under autocast a network in half precision has none to follow."""
    monkeypatch.setattr(training_inputs, "PROMPT_STEP", 1)  # more keys would round in another way
    model.bfloat16()
    compare(model.backbone, of_batches(model, [make_batch("caption")], autocast=True))
