"""Language-model backbones: their own invariants for one sequence, sizes, errors and weights."""

from __future__ import annotations

import inspect

import pytest
import torch
from mllm_models import FAMILIES, MODELS, PROMPTS, answers, encode, images, make_backbone

from ufo.backbones import make_backbone as by_name
from ufo.backbones.internvl import InternVL
from ufo.backbones.llava import Llava
from ufo.hf_tokenizer import HFTokenizer, build_tokenizer
from ufo.ops.grid import query_grid


@pytest.fixture(params=FAMILIES)
def made(request):
    return make_backbone(request.param)


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


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_windows_of_a_dynamic_resolution(name):
    """A window is 16 x 16 tokens, as many as an InternVL tile has; there are at most `max_tiles`."""
    backbone, _ = make_backbone(name, max_tiles=6)
    windows = {
        (16, 16): (1, 1),
        (128, 128): (1, 1),
        (256, 128): (2, 1),
        (256, 384): (2, 3),
        (180, 180): (1, 1),
    }
    assert {size: backbone.grid_windows(*size) for size in windows} == windows
    for size in [(2000, 2000), (8, 4000), (4000, 8), (300, 1000)]:
        rows, cols = backbone.grid_windows(*size)
        assert 1 <= rows * cols <= 6


def test_a_long_strip_is_bounded():
    for family in FAMILIES:
        backbone, _ = make_backbone(family)
        assert backbone.layout(1, 4000).tokens <= 12 * 256


def test_prompt_longer_than_the_context(made):
    backbone, tokenizer = made
    ids, mask = tokenizer.encode_prompts([backbone.chat("what " * 1200)])
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


def test_a_family_is_small():
    for family, _ in MODELS.values():
        assert len(inspect.getsource(inspect.getmodule(family)).splitlines()) < 150


def test_gradient_checkpointing_changes_nothing():
    gradients = []
    for checkpointing in (False, True):
        backbone, tokenizer = make_backbone("internvl", gradient_checkpointing=checkpointing)
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
    backbone, tokenizer = make_backbone("internvl")
    backbone.net.save_pretrained(tmp_path)
    more = InternVL(vocab_size=len(tokenizer) + 1, pretrained=str(tmp_path))
    assert all(module.training for module in more.modules())
    head = backbone.output_embedding
    torch.testing.assert_close(more.output_embedding[:-1], head)
    torch.testing.assert_close(more.output_embedding[-1], head.mean(0))


def test_layers_and_text_of_parameters():
    backbone, _ = make_backbone("llava")
    layers = {backbone.layer_of(n) for n, _ in backbone.named_parameters() if "vision_tower" in n}
    assert layers == {None}
    assert backbone.layer_of("net.model.language_model.layers.2.mlp.up_proj.weight") == 2
    assert backbone.is_text("net.lm_head.weight") and not backbone.is_text("net.model.vision_tower.x")


def test_config_or_pretrained():
    with pytest.raises(ValueError, match="not both"):
        InternVL(vocab_size=10)
    with pytest.raises(ValueError, match="not both"):
        InternVL(vocab_size=10, config=MODELS["internvl"][1], pretrained="x")


@pytest.mark.parametrize("kind", ["gemma2", "qwen3_moe"])
def test_a_decoder_that_is_more_than_its_layers_is_refused(kind):
    config = {
        **MODELS["internvl"][1],
        "text_config": {**MODELS["internvl"][1]["text_config"], "model_type": kind},
    }
    with pytest.raises(ValueError, match=f"the language model is a {kind}"):
        InternVL(vocab_size=10, config=config)


def test_a_sliding_window_bounds_the_context():
    """Within the window every token sees all earlier ones, so nothing more is needed."""
    text = {**MODELS["llava"][1]["text_config"], "model_type": "mistral", "sliding_window": 40}
    backbone = Llava(vocab_size=456, config={**MODELS["llava"][1], "text_config": text})
    assert backbone.context_length == 40
    ids = torch.full((1, 30), 3)
    backbone.patch_id = ids[0, 0] = 5
    with pytest.raises(ValueError, match="the model reads 40"):
        backbone.check_prompt(ids, torch.ones_like(ids).bool(), 16, 16, 30)


def test_the_chat_of_a_newer_internvl_is_its_own():
    """Turns are lines there; the published UFO models were trained without line breaks."""
    texts = {
        n: make_backbone(n, system="S")[0].chat("what") for n in ("internvl", "internvl3", "internvl3_5")
    }
    image = "<img><IMG_CONTEXT></img>"
    assert texts["internvl"] == (
        f"<|im_start|>system\nS<|im_end|><|im_start|>user\nwhat\n{image}<|im_end|><|im_start|>assistant\n"
    )
    assert (
        texts["internvl3"]
        == texts["internvl3_5"]
        == (
            f"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nwhat\n{image}<|im_end|>\n<|im_start|>assistant\n"
        )
    )


def test_siglip_wants_other_pixels_than_clip():
    grey = torch.full((1, 3, 2, 2), 127.5)
    assert make_backbone("llava_qwen")[0].normalise(grey).abs().max() < 1e-6
    assert make_backbone("llava")[0].normalise(grey).abs().min() > 0.05


def test_a_tower_that_gives_other_tokens_than_its_patches():
    config = {**MODELS["llava"][1], "vision_feature_select_strategy": "full"}
    backbone, tokenizer = make_backbone("llava", config=config)
    with pytest.raises(ValueError, match=r"gives 5 tokens a tile instead of 2 x 2; choose"):
        encode(backbone, tokenizer)
