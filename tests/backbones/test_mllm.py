"""Language-model backbones: equal to transformers where they do the same, and their own invariants."""

from __future__ import annotations

import inspect
from unittest.mock import patch

import pytest
import torch
from mllm_models import CONFIGS, FAMILIES, make_backbone, make_tokenizer
from tiny_mllm import make_mllm, training_batch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ufo.backbones import make_backbone as by_name
from ufo.backbones.context import AnswerCache
from ufo.backbones.internvl import InternVL
from ufo.backbones.llava import Llava
from ufo.backbones.qwen2_5_vl import Qwen2_5_VL
from ufo.head.losses import token_loss
from ufo.hf_tokenizer import HFTokenizer, build_tokenizer
from ufo.model import UFO
from ufo.ops.grid import query_grid
from ufo.tasks import make_task
from ufo.types import Batch

PROMPTS = ["what is red", "what"]


def images(count=2, height=16, width=16):
    return torch.randint(256, (count, 3, height, width), generator=torch.Generator().manual_seed(1)).byte()


def encode(backbone, tokenizer, prompts=PROMPTS, size=(16, 16), grid=None, **more):
    ids, mask = tokenizer.encode_prompts([backbone.chat(p) for p in prompts])
    return backbone.encode(images(len(prompts), *size), ids, mask, grid, **more)


def answers(rows, length=5, seed=2):
    return torch.randint(9, 16, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=FAMILIES, ids=lambda f: f.__name__)
def made(request):
    return make_backbone(request.param)


@pytest.fixture
def dense():
    """A model, its tokenizer, and two images of 2 x 1 tiles with eight queries each."""
    backbone, tokenizer = make_backbone(InternVL)
    grid = query_grid(*backbone.grid_windows(32, 16), 2)
    return backbone, encode(backbone, tokenizer, size=(32, 16), grid=grid), grid


# ---------------------------------------------------------------- one sequence: transformers' own result


@torch.no_grad()
def test_causal_answers_are_those_of_transformers(made):
    backbone, tokenizer = made
    ids, mask = tokenizer.encode_prompts([backbone.chat("what is red")])
    answer = answers(1)
    answer[:, 0] = ids[:, -1]
    context = backbone.encode(images(1), ids, mask, causal=True)
    ours = backbone.answer(context, answer) @ backbone.output_embedding.T
    layout = backbone.layout(16, 16)
    prompt = []
    for token in ids[0].tolist():
        prompt += [token] * (layout.tokens if token == backbone.patch_id else 1)
    whole = torch.tensor([[*prompt, *answer[0, 1:].tolist()]])
    net = backbone.net
    net.set_attn_implementation("eager")
    net.config.image_token_id = backbone.patch_id
    theirs = net(input_ids=whole, **vision_inputs(backbone, whole, layout)).logits
    torch.testing.assert_close(ours, theirs[:, len(prompt) - 1 :], rtol=1e-4, atol=1e-4)


def vision_inputs(backbone, ids, layout):
    if not isinstance(backbone, Qwen2_5_VL):
        return {"pixel_values": backbone.normalise(images(1).float())}
    # transformers' own order of patches: rows and columns of merged blocks, then inside a block
    p, m = 4, 2
    pixels = backbone.normalise(images(1).float())[0]
    patches = [
        pixels[:, (2 * y + dy) * p :, (2 * x + dx) * p :][:, :p, :p][:, None].expand(-1, 2, -1, -1).flatten()
        for y in range(layout.height)
        for x in range(layout.width)
        for dy in range(m)
        for dx in range(m)
    ]
    return {
        "pixel_values": torch.stack(patches),
        "image_grid_thw": torch.tensor([[1, layout.height * m, layout.width * m]]),
        "mm_token_type_ids": (ids == backbone.patch_id).int(),
    }


@torch.no_grad()
def test_image_tokens_see_later_ones_unless_causal(made):
    backbone, tokenizer = made
    both = [encode(backbone, tokenizer, causal=c).image_features.flatten(1, 2) for c in (False, True)]
    # the last image token sees all others in any case, in the first layer
    changed = (both[0] - both[1]).abs().amax(-1) > 1e-4
    assert changed.any()
    keys = [encode(backbone, tokenizer, causal=c).memory[0].shared[0] for c in (False, True)]
    torch.testing.assert_close(*keys)


@torch.no_grad()
def test_batch_is_loop(made):
    """Prompts of different lengths do not disturb each other."""
    backbone, tokenizer = made
    ids = answers(2)
    together = backbone.answer(encode(backbone, tokenizer), ids)
    for i, prompt in enumerate(PROMPTS):
        prompt_ids, mask = tokenizer.encode_prompts([backbone.chat(prompt)])
        context = backbone.encode(images()[i : i + 1], prompt_ids, mask)
        torch.testing.assert_close(
            backbone.answer(context, ids[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5
        )


@torch.no_grad()
def test_first_token_is_the_prompts_last(made):
    """An answer to the whole prompt is that of a shorter prompt that the answer continues."""
    backbone, tokenizer = made
    ids, mask = tokenizer.encode_prompts([backbone.chat("what is red")])
    answer = answers(1)
    whole = backbone.answer(backbone.encode(images(1), ids, mask), answer)
    longer = torch.cat([ids[:, -2:], answer[:, 1:]], 1)
    split = backbone.answer(backbone.encode(images(1), ids[:, :-1], mask[:, :-1]), longer)
    torch.testing.assert_close(split[:, 1:], whole, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- queries


@torch.no_grad()
def test_chunks_with_a_cache_are_the_whole(dense):
    backbone, context, _ = dense
    ids = answers(16)
    cache = AnswerCache(5)
    chunks = [backbone.answer(context, part, cache=cache) for part in ids.split([1, 3, 1], 1)]
    torch.testing.assert_close(torch.cat(chunks, 1), backbone.answer(context, ids), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_packed_positions_are_those_of_whole_rows(dense):
    backbone, context, _ = dense
    ids = answers(16)
    lengths = torch.arange(16) % 5 + 1
    packed = (torch.arange(5) < lengths[:, None]).flatten().nonzero()[:, 0]
    whole = backbone.answer(context, ids).flatten(0, 1)[packed]
    torch.testing.assert_close(backbone.answer(context, ids, packed), whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_queries_do_not_see_each_other(dense):
    backbone, context, _ = dense
    ids = answers(16)
    before = backbone.answer(context, ids)
    ids[3] = answers(1, seed=9)[0]
    changed = (backbone.answer(context, ids) - before).abs().amax((1, 2)) > 1e-4
    assert changed.nonzero()[:, 0].tolist() == [3]


@torch.no_grad()
def test_rows_that_stay_do_not_notice_those_that_leave(dense):
    backbone, context, _ = dense
    ids = answers(16)
    whole = backbone.answer(context, ids)
    for rows in ([1, 5, 9], [2, 2, 2, 15], [0], list(range(8, 16))):
        rows = torch.tensor(rows)
        chosen = context.select(rows)
        assert chosen.memory[0].shared[0].data_ptr() == context.memory[0].shared[0].data_ptr()
        torch.testing.assert_close(backbone.answer(chosen, ids[rows]), whole[rows], rtol=1e-4, atol=1e-5)
        again = torch.arange(len(rows)).flip(0)
        torch.testing.assert_close(
            backbone.answer(chosen.select(again), ids[rows[again]]), whole[rows[again]], rtol=1e-4, atol=1e-5
        )


@torch.no_grad()
def test_scores_in_parts_are_those_at_once(dense, monkeypatch):
    backbone, context, _ = dense
    ids = answers(16)
    whole = backbone.answer(context, ids)
    monkeypatch.setattr("ufo.backbones.prefix_attention.SCORES_ON_CPU", 1000)
    torch.testing.assert_close(backbone.answer(context, ids), whole, rtol=1e-4, atol=1e-5)


def test_a_query_starts_from_the_image_at_its_place(dense):
    """Image of 2 x 1 tiles: the map is upright, and each layer adds what the layer below saw at the place."""
    backbone, context, grid = dense
    height, width = context.image_features.shape[1:3]
    assert (height, width) == (4, 2)
    patches = backbone.read_images(images(2, 32, 16), backbone.layout(32, 16))
    # a query at the centre of the last token of the lower tile is that token
    last = grid.select(torch.tensor([[0], [0]]))
    last.references = torch.tensor([1 - 0.5 / width, 1 - 0.5 / height]).expand(2, 1, 2)
    ids, mask = make_tokenizer(InternVL).encode_prompts([backbone.chat("what")])
    found = backbone.encode(images(2, 32, 16), ids, mask, last)
    torch.testing.assert_close(found.first_token.embedding, patches[:, -1], rtol=1e-4, atol=1e-5)
    assert found.memory[0].local is None and all(m.local is not None for m in found.memory[1:])


# ---------------------------------------------------------------- sizes and errors


@pytest.mark.parametrize(
    ("size", "rows_cols"),
    [
        ((448, 448), (1, 1)),
        ((896, 896), (2, 2)),
        ((1344, 1344), (3, 3)),
        ((448, 896), (1, 2)),
        ((900, 440), (2, 1)),
    ],
)
def test_layout(size, rows_cols):
    from ufo.backbones.tiles import tile_layout

    assert tile_layout(*size, 448, 12) == rows_cols


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 200), (200, 1), (50, 20)])
def test_odd_images(made, size):
    backbone, tokenizer = made
    backbone.max_tiles = 4
    context = encode(backbone, tokenizer, size=size)
    rows, cols = backbone.grid_windows(*size)
    assert rows * cols <= 4
    assert context.image_features.shape[1] * context.image_features.shape[2] <= 4 * 256
    assert context.image_features.isfinite().all()


def test_a_long_strip_is_bounded():
    for family in FAMILIES:
        backbone, _ = make_backbone(family)
        assert backbone.layout(1, 4000).tokens <= 12 * 256


def test_prompt_longer_than_the_context(made):
    backbone, tokenizer = made
    ids, mask = tokenizer.encode_prompts([backbone.chat("what " * 600)])
    with pytest.raises(ValueError, match="shorten the question"):
        backbone.check_prompt(ids, mask, 16, 16, 30)


def test_a_question_must_not_hold_the_images_token(made):
    backbone, tokenizer = made
    ids, mask = tokenizer.encode_prompts([backbone.chat(f"what {backbone.patch_token}")])
    if isinstance(backbone, Llava):  # there the place-holder is that token: it says where the image stands
        ids, mask = tokenizer.encode_prompts([backbone.chat("a <image> b <image>")])
    with pytest.raises(ValueError, match="one image"):
        backbone.check_prompt(ids, mask, 16, 16, 30)


def test_a_tokenizer_without_the_special_tokens(made):
    backbone, _ = made
    other = HFTokenizer(build_tokenizer(["what"], ["<unk>", "<s>", "</s>"]))
    with pytest.raises(ValueError, match="the tokenizer has no token"):
        backbone.attach(other)


# ---------------------------------------------------------------- training and configs


class Shapes(TorchDispatchMode):
    """The shape of every tensor that is computed, also in the backward pass."""

    def __init__(self):
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen |= {tuple(x.shape) for x in tree_leaves(result) if isinstance(x, torch.Tensor)}
        return result


def test_no_scores_between_answers_in_training():
    """Answers cost Q*T x N scores, never (N + Q*T)^2: no tensor has two dimensions as long as all answers."""
    backbone, tokenizer = make_backbone(InternVL)
    grid, length = query_grid(*backbone.grid_windows(32, 16), 4), 5
    queries = grid.references.shape[1]
    ids = answers(2 * queries, length)
    with Shapes() as shapes:
        context = encode(backbone, tokenizer, size=(32, 16), grid=grid)
        hidden = backbone.answer(context, ids, torch.arange(ids.numel()))
        (hidden.square().mean() + context.image_features.mean()).backward()
    prefix = context.memory[0].shared[0].shape[2]
    together = queries * length
    assert prefix < together
    assert any(shape[-1:] == (prefix,) and shape[-2] >= together for shape in shapes.seen if len(shape) > 1)
    assert not [shape for shape in shapes.seen if sum(n >= together for n in shape) > 1]


def test_logits_of_supervised_positions_only():
    model, batch = make_mllm().train(), training_batch()
    targets = []

    def listen(hidden, wanted, embedding):
        targets.append(len(wanted))
        return token_loss(hidden, wanted, embedding)

    with patch("ufo.model.token_loss", listen), Shapes() as shapes:
        model.loss(batch)["loss"].backward()
    words, width = model.backbone.output_embedding.shape
    logits = {torch.Size(shape) for shape in shapes.seen if shape[-1:] == (words,)} - {(width, words)}
    assert logits and max(shape[:-1].numel() for shape in logits) == targets[0]


SINGLE = {
    "caption": {"texts": ["red three", "three"]},
    "grounding": {"boxes": [torch.tensor([[2.0, 3.0, 9.0, 12.0]])] * 2},
    "referring_segmentation": {"masks": [torch.ones(1, 16, 16, dtype=torch.uint8)] * 2},
    "reasoning_segmentation": {"masks": [torch.ones(1, 16, 16, dtype=torch.uint8)] * 2},
    "vqa": {"conversations": [["what", "red", "what", "three"], ["what", "red"]]},
}


@pytest.mark.parametrize("name", SINGLE)
def test_single_answer_tasks(made, name):
    """Every family learns and answers them; a family without grid queries needs no more than its file."""
    backbone, tokenizer = made
    task = make_task(name, image_size=16, **({"num_bins": 20} if name == "grounding" else {}))
    model = UFO(backbone, tokenizer, {name: task}, mask_points=0)
    shared = {"task": name, "source": "x", "classes": (), "images": images(), "texts": ["what", "red three"]}
    batch = Batch(**{**shared, **SINGLE[name]}, sizes=[(30, 40), (16, 16)])
    losses = model.loss(batch)
    losses["loss"].backward()
    assert all(v.isfinite() for v in losses.values())
    trained = [n for n, p in backbone.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any("layers.0" in n for n in trained) and any(backbone.part_of(n) == "vision" for n in trained)
    for size, prediction in zip(batch.sizes, model.predict_batch(batch), strict=True):
        if prediction.masks is not None:
            assert prediction.masks.shape == (1, *size)
        if name == "grounding":
            assert prediction.boxes.shape == (1, 4)


def test_a_third_family_is_small():
    assert len(inspect.getsource(inspect.getmodule(Qwen2_5_VL)).splitlines()) < 150


def test_gradient_checkpointing_changes_nothing():
    gradients = []
    for checkpointing in (False, True):
        backbone, tokenizer = make_backbone(InternVL, gradient_checkpointing=checkpointing)
        backbone.train()
        grid = query_grid(2, 1, 2)
        context = encode(backbone, tokenizer, size=(32, 16), grid=grid)
        hidden = backbone.answer(context, answers(16), torch.arange(0, 80, 2))
        (hidden.square().mean() + context.image_features.mean()).backward()
        gradients.append({n: p.grad for n, p in backbone.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 50
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_bf16(made):
    backbone, tokenizer = made
    with torch.autocast("cpu", torch.bfloat16):
        hidden = backbone.answer(encode(backbone, tokenizer), answers(2))
    hidden.float().square().mean().backward()
    exact = backbone.answer(encode(backbone, tokenizer), answers(2))
    error = (hidden.float() - exact).norm() / exact.norm()
    assert error < 0.05
    backbone.bfloat16()
    with torch.no_grad():
        assert backbone.answer(encode(backbone, tokenizer), answers(2)).isfinite().all()


@torch.no_grad()
def test_config_builds_the_same_model(made):
    backbone, tokenizer = made
    again = by_name(type=type(backbone).__name__, **backbone.config).eval()
    again.load_state_dict(backbone.state_dict())
    again.attach(tokenizer)
    assert again.config == backbone.config
    torch.testing.assert_close(
        again.answer(encode(again, tokenizer), answers(2)),
        backbone.answer(encode(backbone, tokenizer), answers(2)),
    )


def test_from_a_folder(tmp_path):
    """A folder that transformers wrote, with a token appended: its output row is the mean of the others."""
    backbone, tokenizer = make_backbone(InternVL)
    backbone.net.save_pretrained(tmp_path)
    more = InternVL(vocab_size=len(tokenizer) + 1, pretrained=str(tmp_path))
    head = backbone.output_embedding
    torch.testing.assert_close(more.output_embedding[:-1], head)
    torch.testing.assert_close(more.output_embedding[-1], head.mean(0))


def test_layers_and_text_of_parameters():
    backbone, _ = make_backbone(Llava)
    layers = {backbone.layer_of(n) for n, _ in backbone.named_parameters() if "vision_tower" in n}
    assert layers == {None}
    assert backbone.layer_of("net.model.language_model.layers.2.mlp.up_proj.weight") == 2
    assert backbone.is_text("net.lm_head.weight") and not backbone.is_text("net.model.vision_tower.x")


def test_config_or_pretrained():
    with pytest.raises(ValueError, match="not both"):
        InternVL(vocab_size=10)
    with pytest.raises(ValueError, match="not both"):
        InternVL(vocab_size=10, config=CONFIGS[InternVL], pretrained="x")
