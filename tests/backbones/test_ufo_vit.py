"""UFO-ViT's streams: who may see whom, and that every shortcut computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ufo.backbones.attention import table_rows
from ufo.backbones.context import AnswerCache
from ufo.backbones.ufo_vit import UFOViT
from ufo.backbones.vit_grids import partition, unpartition
from ufo.ops.grid import query_grid

PROMPT = [2, 9, 11, 7]
START = 2


@pytest.fixture
def backbone(make_backbone) -> UFOViT:
    return make_backbone()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pictures(count: int = 2, height: int = 24, width: int = 24) -> Tensor:
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8)


def prompt(count: int = 1) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([PROMPT]).expand(count, -1)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def answers(rows: int, length: int = 5) -> Tensor:
    ids = torch.randint(5, 30, (rows, length))
    ids[:, 0] = START
    return ids


def same(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("queries", [None, query_grid(2, 2, 2)], ids=["single", "dense"])
@torch.no_grad()
def test_images_of_a_batch_do_not_influence_each_other(backbone, queries):
    images = pictures(3)
    together = backbone.encode(images, *prompt(), queries)
    ids = answers(together.num_rows)
    hidden = backbone.answer(together, ids)
    for image, row_ids, expected in zip(images, ids.chunk(3), hidden.chunk(3), strict=True):
        alone = backbone.encode(image[None], *prompt(), queries)
        same(backbone.answer(alone, row_ids), expected)
    same(alone.image_features[0], together.image_features[2])


@torch.no_grad()
def test_padding_of_a_prompt_changes_nothing(backbone):
    images = pictures(2)
    ids, visible = prompt(2)
    padding = torch.randint(5, 30, (2, 3))
    padded = torch.cat([ids, padding], 1)
    mask = torch.cat([visible, torch.zeros(2, 3, dtype=torch.bool)], 1)
    queries = query_grid(2, 2, 1)
    plain, long = (backbone.encode(images, *p, queries) for p in ((ids, visible), (padded, mask)))
    same(long.image_features, plain.image_features)
    ids = answers(plain.num_rows)
    same(backbone.answer(long, ids), backbone.answer(plain, ids))


@torch.no_grad()
def test_the_prompt_matters_and_equal_prompts_are_shared(backbone):
    images = pictures(2)
    shared = backbone.encode(images, *prompt(1)).image_features
    same(backbone.encode(images, *prompt(2)).image_features, shared)
    ids, visible = prompt(2)
    ids = torch.stack([ids[0], ids[1].flip(0)])
    different = backbone.encode(images, ids, visible).image_features
    same(different[0], shared[0])
    assert (different[1] - shared[1]).abs().max() > 1e-2


@torch.no_grad()
def test_a_remembered_prompt_is_forgotten_when_a_weight_changes(backbone, make_backbone):
    images = pictures()
    first = backbone.encode(images, *prompt()).image_features
    assert torch.equal(backbone.encode(images, *prompt()).image_features, first)
    other = make_backbone(seed=1)
    backbone.load_state_dict(other.state_dict())
    same(backbone.encode(images, *prompt()).image_features, other.encode(images, *prompt()).image_features)
    for layer in backbone.layers:
        layer.qkv.weight.mul_(0.5)
    changed = backbone.encode(images, *prompt()).image_features
    with torch.enable_grad():  # nothing is remembered with gradients
        same(changed, backbone.encode(images, *prompt()).image_features)


@torch.no_grad()
def test_the_prefix_never_sees_a_query(backbone):
    images = pictures()
    without = backbone.encode(images, *prompt()).image_features
    for per_window in (1, 3):
        grid = query_grid(2, 2, per_window)
        same(backbone.encode(images, *prompt(), grid).image_features, without)


@torch.no_grad()
def test_queries_do_not_see_each_other(backbone):
    """A query's answer stays when others leave; the order in which queries are listed is free."""
    images, grid = pictures(), query_grid(2, 2, 2)
    everyone = backbone.encode(images, *prompt(), grid)
    ids = answers(1).expand(everyone.num_rows, -1)
    expected = backbone.answer(everyone, ids).unflatten(0, (2, 16))
    # three of the four queries of every window, in mixed order and different for each image
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    windows = grid.windows[0][order]
    place = torch.stack([(windows[:, :i] == windows[:, i : i + 1]).sum(1) for i in range(16)], 1)
    few = order[place < 3].view(2, 12)
    remaining = backbone.encode(images, *prompt(), grid.select(few))
    hidden = backbone.answer(remaining, ids[: remaining.num_rows]).unflatten(0, (2, 12))
    same(hidden, expected.take_along_dim(few[..., None, None], 1))
    assert (expected[:, 0] - expected[:, 1]).abs().max() > 1e-2


@torch.no_grad()
def test_a_query_sees_its_own_window_only(make_backbone):
    """Where queries are and how they group into windows agree, also for 2 x 3 windows."""
    backbone = make_backbone(depth=0, global_layers=[])
    images, grid = pictures(1, 24, 36), query_grid(2, 3, 2)
    ids = answers(24)
    before = backbone.answer(backbone.encode(images, *prompt(), grid), ids)
    images[..., 12:, :12] = 255 - images[..., 12:, :12]  # the window at the lower left
    after = backbone.answer(backbone.encode(images, *prompt(), grid), ids)
    x, y = grid.references[0].unbind(-1)
    inside = (x < 1 / 3) & (y > 1 / 2)
    assert torch.equal(inside, grid.windows[0] == 3)
    changed = (after - before).abs().amax((1, 2)) > 1e-3
    assert torch.equal(changed, inside)


@torch.no_grad()
def test_windows_are_interchangeable(make_backbone):
    """Without absolute positions and global relative ones, moving windows moves their features."""
    backbone = make_backbone()
    backbone.pos_embed.zero_()
    backbone.layers[1].rel_pos_h.zero_()
    backbone.layers[1].rel_pos_w.zero_()
    images = pictures(1, 24, 36)
    moved = images.roll((12, 12), (2, 3))
    features = backbone.encode(images, *prompt()).image_features
    same(backbone.encode(moved, *prompt()).image_features, features.roll((3, 3), (1, 2)))


def test_partition_is_row_major_and_has_an_inverse():
    x = torch.arange(2 * 6 * 9).view(2, 6, 9, 1)
    tiles = partition(x, (3, 3))
    assert tiles.shape == (12, 9, 1)
    assert torch.equal(tiles[1].view(3, 3), x[0, :3, 3:6, 0])
    assert torch.equal(tiles[9].view(3, 3), x[1, 3:, :3, 0])
    assert torch.equal(unpartition(tiles, (6, 9), (3, 3)), x)


@pytest.mark.parametrize("queries", [None, query_grid(2, 2, 1)], ids=["single", "dense"])
@torch.no_grad()
def test_answers_in_chunks_equal_answers_at_once(backbone, queries):
    context = backbone.encode(pictures(), *prompt(), queries)
    ids = answers(context.num_rows, 7)
    cache = AnswerCache(7)
    chunks = [backbone.answer(context, part, cache=cache) for part in ids.split([1, 3, 1, 2], 1)]
    same(torch.cat(chunks, 1), backbone.answer(context, ids))


@torch.no_grad()
def test_rows_that_leave_do_not_change_the_rest(backbone):
    context = backbone.encode(pictures(), *prompt(), query_grid(2, 2, 1))
    ids, cache = answers(8, 4), AnswerCache(4)
    expected = backbone.answer(context, ids)
    backbone.answer(context, ids[:, :2], cache=cache)
    stay = torch.tensor([6, 1, 3])
    later = backbone.answer(context.select(stay), ids[stay, 2:], cache=cache.select(stay))
    same(later, expected[stay, 2:])


@torch.no_grad()
def test_answers_are_causal(backbone):
    context = backbone.encode(pictures(), *prompt())
    ids = answers(2)
    changed = ids.clone()
    changed[:, 3] += 1
    before, after = backbone.answer(context, ids), backbone.answer(context, changed)
    same(after[:, :3], before[:, :3])
    assert ((after - before)[:, 3:].abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize("queries", [None, query_grid(2, 2, 1)], ids=["single", "dense"])
def test_packed_answers_equal_padded_ones(make_backbone, queries):
    """Hidden states and gradients; one row has no supervised token at all."""
    outcomes = []
    for pack in (True, False):
        backbone = make_backbone()
        torch.manual_seed(0)
        context = backbone.encode(pictures(4), *prompt(), queries)
        ids = answers(context.num_rows, 6)
        lengths = torch.arange(context.num_rows) * 5 % 7
        packed = (torch.arange(6) < lengths[:, None]).flatten().nonzero()[:, 0]
        assert (lengths == 0).any()
        if pack:
            hidden = backbone.answer(context, ids, packed)
        else:
            hidden = backbone.answer(context, ids).flatten(0, 1)[packed]
        hidden.square().sum().backward()
        outcomes.append((hidden.detach(), gradients(backbone)))
    (packed, with_packing), (padded, without) = outcomes
    same(packed, padded)
    assert with_packing.keys() == without.keys()
    for name, gradient in without.items():
        typical = gradient.square().mean().sqrt()
        assert (with_packing[name] - gradient).abs().max() < 1e-4 * typical + 1e-6, name


def gradients(backbone: UFOViT) -> dict[str, Tensor]:
    return {n: p.grad for n, p in backbone.named_parameters() if p.grad is not None}


def test_gradient_checkpointing_changes_nothing(make_backbone):
    outcomes = []
    for checkpointing in (False, True):
        backbone = make_backbone(gradient_checkpointing=checkpointing).train()
        torch.manual_seed(0)
        context = backbone.encode(pictures(), *prompt(), query_grid(2, 2, 1))
        hidden = backbone.answer(context, answers(8), packed=torch.arange(0, 40, 2))
        (hidden.sum() + context.image_features.square().sum()).backward()
        outcomes.append((hidden.detach(), gradients(backbone)))
    (plain, expected), (recomputed, found) = outcomes
    assert torch.equal(plain, recomputed)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_bf16_autocast_is_finite_and_close(make_backbone):
    backbone = make_backbone()
    images, grid = pictures(), query_grid(2, 2, 1)
    ids = answers(8)
    with torch.no_grad():
        expected = backbone.answer(backbone.encode(images, *prompt(), grid), ids)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = backbone.answer(backbone.encode(images, *prompt(), grid), ids)
        hidden.float().square().sum().backward()
    assert all(g.isfinite().all() for g in gradients(backbone).values())
    distance = (hidden.float() - expected).norm() / expected.norm()
    assert distance < 0.1


def test_a_batch_may_have_no_supervised_position_at_all(make_backbone):
    """Then nothing is computed, but every parameter gets its (zero) gradient: DDP waits for it."""
    nothing = torch.empty(0, dtype=torch.int64)
    for ids in (answers(8), torch.empty(8, 0, dtype=torch.int64)):
        backbone = make_backbone()
        context = backbone.encode(pictures(), *prompt(), query_grid(2, 2, 1))
        hidden = backbone.answer(context, ids, packed=nothing)
        assert hidden.shape == (0, backbone.width)
        hidden.sum().backward()
        learned = {n for n, p in backbone.named_parameters() if p.requires_grad}
        assert gradients(backbone).keys() == learned


@pytest.mark.parametrize("mode, training, like", [("training", False, "never"), ("training", True, "always")])
@torch.no_grad()
def test_query_update_at_global_layers(make_backbone, mode, training, like):
    """The published quirk is reachable; by default training and inference do the same."""
    images, grid, ids = pictures(), query_grid(2, 2, 1), answers(8)

    def run(update: str, training: bool) -> Tensor:
        backbone = make_backbone(query_update_at_global=update).train(training)
        return backbone.answer(backbone.encode(images, *prompt(), grid), ids)

    same(run(mode, training), run(like, training))
    assert torch.equal(run("never", True), run("never", False))
    assert (run("never", False) - run("always", False)).abs().max() > 1e-2


def test_config_builds_the_same_network_again(backbone):
    again = UFOViT(**backbone.config)
    again.load_state_dict(backbone.state_dict())
    images = pictures()
    with torch.no_grad():
        expected = backbone.encode(images, *prompt()).image_features
        assert torch.equal(again.eval().encode(images, *prompt()).image_features, expected)


def test_sizes_that_do_not_divide_are_refused_with_advice(backbone):
    assert backbone.grid_windows(24, 36) == (2, 3)
    with pytest.raises(ValueError, match="multiple of 12, for example 24"):
        backbone.grid_windows(24, 28)
    with pytest.raises(ValueError, match="multiple of 12"):
        UFOViT(vocab_size=9, width=8, heads=2, image_size=20, patch_size=4, window_size=3)
    with pytest.raises(ValueError, match="mean_layers"):
        UFOViT(vocab_size=9, width=8, heads=2, new_layers=0)


def test_other_image_sizes_than_the_configured_one(backbone):
    """Position tables are resized to the image at hand, square or not."""
    with torch.no_grad():
        context = backbone.encode(pictures(1, 36, 12), *prompt(), query_grid(3, 1, 2))
    assert context.image_features.shape == (1, 9, 3, backbone.width)
    assert context.num_rows == 12


def test_parameters_know_their_layer_and_side(backbone):
    layers = {n: backbone.layer_of(n) for n, _ in backbone.named_parameters()}
    assert set(layers.values()) == {None, 0, 1, 2, 3}
    assert layers["layers.3.fc1.weight"] == 3 and layers["pos_embed"] is None
    text = {n for n in layers if backbone.is_text(n)}
    assert text == {n for n in layers if n.startswith("embedding.")} and len(text) == 4


def test_gradients_of_table_rows_do_not_depend_on_who_is_first():
    """Two threads, and rows that are asked for many times: the sums are the same to the last bit."""
    table = torch.randn(49, 256, requires_grad=True)
    index = torch.randint(0, 49, (8, 400))
    gradient = torch.randn(8, 400, 256)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        results = []
        for _ in range(8):
            table.grad = None
            rows = table_rows(table, index)
            rows.backward(gradient)
            results.append(table.grad)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(rows, table[index])
    assert all(torch.equal(results[0], other) for other in results)
