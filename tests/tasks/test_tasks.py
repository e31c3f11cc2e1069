"""What tasks ask, teach and understand: supervision of small batches, and answers read back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ufo.ops.grid import Queries, query_grid
from ufo.tasks import Answers, Asked, make_task, task_class, task_names
from ufo.types import IGNORE, Batch

BIN = 24 / 48  # pixels per bin in the tiny dense batches


@pytest.fixture
def grid() -> Queries:
    return query_grid(2, 2, 2)


def grid_of(task, grid: Queries) -> Queries | None:
    return grid if hasattr(task, "samples_per_window") else None


def answers(
    batch: Batch,
    texts: Sequence[str],
    references: Tensor | None = None,
    scores: Tensor | None = None,
    masks: dict[int, Tensor] | None = None,
) -> Answers:
    """What a model would hand to `parse` for one image; `masks` are probabilities by row."""
    masks = masks or {}
    size = tuple(batch.images.shape[-2:])
    nothing = torch.zeros(0, *size)
    return Answers(
        texts=list(texts),
        scores=torch.linspace(0.9, 0.5, len(texts)) if scores is None else scores,
        references=references,
        size=size,
        classes=batch.classes,
        mask_counts=[text.upper().count("<MASK>") for text in texts],
        retrieve_masks=lambda rows: torch.stack([masks[r] for r in rows.tolist()]) if len(rows) else nothing,
    )


def rows_of(asked: Asked, image: int, batch: Batch) -> list[str | None]:
    """The answers of one image."""
    per_image = len(asked.answers) // len(batch)
    return asked.answers[image * per_image : (image + 1) * per_image]


def mask_rows(asked: Asked) -> Tensor:
    """The rows whose answers hold masks, in the order of `asked.masks`."""
    return torch.tensor([i for i, a in enumerate(asked.answers) if a and "<MASK>" in a], dtype=torch.int64)


# ---------------------------------------------------------------- all tasks


def test_tasks_are_found_by_name_and_described_by_settings(task_name, make_tiny_task):
    task = make_tiny_task(task_name)
    assert task_name in task_names()
    assert make_task(task_name, **task.settings) == task
    with pytest.raises(ValueError, match=f"unknown task 'swim'.*{task_name}"):
        make_task("swim", image_size=24)


def test_missing_annotations_are_named(make_tiny_task, make_batch, grid):
    batch = make_batch("detection")
    batch.labels = None
    with pytest.raises(ValueError, match="there are no labels here; use a data set that provides"):
        make_tiny_task("detection").supervise(batch, grid)


def test_prompt_names_what_is_asked(task_name, make_tiny_task, make_batch):
    batch, task = make_batch(task_name), make_tiny_task(task_name)
    prompt = task.prompt(batch.classes, "the lost owl")
    assert task_name in prompt
    if task.needs_text:
        assert "the lost owl" in prompt
    if hasattr(task, "samples_per_window"):
        assert ",".join(batch.classes) in prompt


def test_supervision_follows_from_the_seed_of_the_batch(task_name, make_tiny_task, make_batch, grid):
    task, batch = make_tiny_task(task_name), make_batch(task_name)

    def supervise(seed: int) -> tuple:
        batch.seed = seed
        torch.rand(3)  # the global state must not matter
        made = task.supervise(batch, grid_of(task, grid))
        queries = None if made.queries is None else made.queries.references.tolist()
        return made.answers, queries

    assert supervise(3) == supervise(3)
    if hasattr(task, "samples_per_window"):
        assert any(supervise(seed) != supervise(3) for seed in (4, 5, 6))


def test_unparsable_answers_are_left_out(task_name, make_tiny_task, make_batch, grid):
    texts = ["", ",", ",,,,", "owl", "owl,1", "owl,a,b,c,d", "unicorn,1,2,3,4", "1;2;3;4"]
    texts += ["<MASK>", "owl,<MASK>", "owl," + 5 * "<MASK>", "bird," + 4 * "<MASK>", "１,２"]
    batch, task = make_batch(task_name), make_tiny_task(task_name)
    if task_name not in ("detection", "instance_segmentation", "semantic_segmentation"):
        for text in texts:
            prediction = task.parse(answers(batch, [text], masks={0: torch.zeros(12, 12)}))
            assert prediction.text == text
            assert prediction.boxes is None or prediction.boxes.eq(0).all()
            assert prediction.masks is None or not prediction.masks.any()
        return
    prediction = task.parse(answers(batch, texts, grid.references[0, : len(texts)]))
    if task_name == "semantic_segmentation":
        assert prediction.semantic.shape == (24, 24) and prediction.semantic.eq(IGNORE).all()
    else:
        assert len(prediction.boxes) == len(prediction.scores) == len(prediction.labels) == 0
    if task_name == "instance_segmentation":
        assert prediction.masks.shape == (0, 24, 24)


# ---------------------------------------------------------------- dense tasks


def test_every_window_trains_its_quota(dense_task, make_tiny_task, make_batch, grid):
    batch, task = make_batch(dense_task), make_tiny_task(dense_task)
    made = task.supervise(batch, grid)
    assert made.queries.windows.shape == (2, 12)
    for windows, references in zip(made.queries.windows, made.queries.references, strict=True):
        assert windows.bincount().tolist() == [3] * 4
        assert len(references.unique(dim=0)) == 12
    assert len(made.answers) == 24


def test_each_object_is_answered_up_to_repeat_times(dense_task, make_tiny_task, make_batch, grid):
    batch, task = make_batch(dense_task, (1, 2)), make_tiny_task(dense_task, repeat=2)
    made = task.supervise(batch, grid)
    for image, labels in enumerate(batch.labels):
        written = [a.split(",")[0] for a in rows_of(made, image, batch) if a not in (None, "background")]
        expected = [batch.classes[j] for j in labels.tolist()] * 2
        assert sorted(written) == sorted(expected)


def test_images_without_objects(dense_task, make_tiny_task, make_batch, grid):
    batch, task = make_batch(dense_task, (0, 2)), make_tiny_task(dense_task)
    made = task.supervise(batch, grid)
    empty = {"semantic_segmentation": None}.get(dense_task, "background")
    assert set(rows_of(made, 0, batch)) == {empty}
    assert set(rows_of(made, 1, batch)) != {empty}
    if made.masks is not None:
        masks = made.masks.to("cpu")
        assert made.mask_counts[0] == 0 and masks.shape[1:] == (24, 24)
        assert len(masks) == sum(made.mask_counts)


def test_more_objects_than_queries(dense_task, make_tiny_task, make_batch):
    batch, task = make_batch(dense_task, (6, 6)), make_tiny_task(dense_task, samples_per_window=1)
    made = task.supervise(batch, query_grid(1, 1, 1))
    assert len(made.answers) == 2
    assert all(answer not in (None, "background") for answer in made.answers)


# ---------------------------------------------------------------- boxes


@pytest.mark.parametrize("seed", range(5))
def test_detection_reads_what_it_teaches(make_tiny_task, make_batch, grid, seed):
    """Every object comes back with its class, its box to half a bin on each side of each value."""
    task = make_tiny_task("detection", repeat=1, samples_per_window=4)
    batch = make_batch("detection", (2, 4), seed)
    made = task.supervise(batch, grid)
    for image in range(2):
        texts = rows_of(made, image, batch)
        found = task.parse(answers(batch, texts, made.queries.references[image]))
        assert found.classes == batch.classes
        order = found.boxes[:, 0].argsort()
        assert torch.equal(found.labels[order], batch.labels[image])
        difference = found.boxes[order] - batch.boxes[image]
        assert difference.abs().max() <= BIN


def test_repeated_answers_are_suppressed(make_tiny_task, make_batch, grid):
    task = make_tiny_task("detection", repeat=3, samples_per_window=4)
    batch = make_batch("detection", (1, 1))
    made = task.supervise(batch, grid)
    found = task.parse(answers(batch, rows_of(made, 0, batch), made.queries.references[0]))
    assert found.labels.tolist() == batch.labels[0].tolist()
    assert (found.boxes - batch.boxes[0]).abs().max() <= BIN


def test_detection_keeps_the_best_valid_answers(make_tiny_task, make_batch, grid):
    task = make_tiny_task("detection", max_per_image=2, nms_iou=1.0)
    batch = make_batch("detection")
    texts = ["owl,24,24,4,4", "nothing", "dog,24,24,4,4", "RED CAT,24,24,4,4,9", "owl"]
    scores = torch.tensor([0.1, 0.9, 0.2, 0.3, 0.8])
    found = task.parse(answers(batch, texts, grid.references[0, :5], scores))
    assert [batch.classes[i] for i in found.labels] == ["red cat", "dog"]
    torch.testing.assert_close(found.scores, torch.tensor([0.3, 0.2]))


def test_spaces_inside_numbers_and_names_do_not_matter(make_tiny_task, make_batch, grid):
    """The decoder of word pieces writes "owl, 2 4, ..."."""
    task, batch = make_tiny_task("detection"), make_batch("detection")
    texts = ["owl,24,24,10,4", "owl, 2 4, 24, 1 0, 4"]
    first, second = (task.parse(answers(batch, [t], grid.references[0, :1])) for t in texts)
    assert torch.equal(first.boxes, second.boxes) and len(first.boxes) == 1


def test_numbers_of_any_length_are_read(make_tiny_task, make_batch, grid):
    """An answer of thirty digits is a box far outside, clipped to the image, not an overflow."""
    huge = "9" * 30
    for name, text in (("detection", f"owl,{huge},{huge},-{huge},4"), ("grounding", f"{huge},1,1,{huge}")):
        task, batch = make_tiny_task(name), make_batch(name, (1,))
        boxes = task.parse(answers(batch, [text], grid.references[0, :1])).boxes
        assert boxes.shape == (1, 4) and boxes.isfinite().all()
        assert boxes.min() >= 0 and boxes.max() <= batch.images.shape[-1]


@pytest.mark.parametrize("seed", range(5))
def test_grounding_reads_what_it_teaches(make_tiny_task, make_batch, seed):
    task, batch = make_tiny_task("grounding"), make_batch("grounding", (1, 1, 1), seed)
    made = task.supervise(batch, None)
    for text, boxes in zip(made.answers, batch.boxes, strict=True):
        found = task.parse(answers(batch, [text]))
        assert (found.boxes - boxes).abs().max() <= 12 / 48
    assert made.queries is None


def test_boxes_are_in_the_pixels_of_the_original_image(make_tiny_task, make_batch, grid):
    task, batch = make_tiny_task("detection"), make_batch("detection")
    small = answers(batch, ["owl,24,20,10,16"], grid.references[0, :1])
    large = answers(batch, ["owl,24,20,10,16"], grid.references[0, :1])
    large.size = (48, 240)
    factor = torch.tensor([10, 2, 10, 2])
    torch.testing.assert_close(task.parse(large).boxes, task.parse(small).boxes * factor)


# ---------------------------------------------------------------- masks


def test_instances_read_what_they_teach(make_tiny_task, make_batch, grid):
    task = make_tiny_task("instance_segmentation", repeat=1, samples_per_window=4)
    batch = make_batch("instance_segmentation", (2, 3))
    made = task.supervise(batch, grid)
    masks = made.masks.to("cpu").split(made.mask_counts)
    rows = mask_rows(made).split(made.mask_counts)
    for image in range(2):
        inside = (rows[image] - image * 16).tolist()
        given = {r: m.float() for r, m in zip(inside, masks[image], strict=True)}
        texts = rows_of(made, image, batch)
        found = task.parse(answers(batch, texts, made.queries.references[image], masks=given))
        order = found.boxes[:, 0].argsort()
        assert torch.equal(found.masks[order], batch.masks[image].bool())
        assert torch.equal(found.labels[order], batch.labels[image])
        assert (found.boxes[order] - batch.boxes[image]).abs().max() <= 1


def test_masks_belong_to_the_rows_that_name_them(mask_task, make_tiny_task, make_batch, grid):
    """The m-th mask is of the m-th answer that holds mask tokens, and shows an object of its class."""
    task, batch = make_tiny_task(mask_task), make_batch(mask_task, (3, 2))
    made = task.supervise(batch, grid)
    with_masks = mask_rows(made).tolist()
    assert made.mask_counts == [sum(r < 12 for r in with_masks), sum(r >= 12 for r in with_masks)]
    for row, mask in zip(with_masks, made.masks.to("cpu"), strict=True):
        name, tokens = made.answers[row].split(",")
        assert tokens == "<MASK>" * task.mask_tokens
        image, label = row // 12, batch.classes.index(name)
        shapes = batch.masks[image][batch.labels[image] == label]
        if mask_task == "semantic_segmentation":
            shapes = shapes.amax(0, keepdim=True)
        assert (shapes == mask).flatten(1).all(1).any()


def test_scores_of_instances_weigh_their_masks(make_tiny_task, make_batch, grid):
    """score = first token's probability x mean probability inside the mask; empty masks are dropped."""
    task, batch = make_tiny_task("instance_segmentation"), make_batch("instance_segmentation")
    sure, unsure, empty = torch.zeros(24, 24), torch.zeros(24, 24), torch.full((24, 24), 0.4)
    sure[:5], unsure[10:] = 1.0, 0.6
    texts = [f"{name},{4 * '<MASK>'}" for name in ("owl", "dog", "owl")]
    given = {0: sure, 1: unsure, 2: empty}
    scores = torch.tensor([0.5, 0.9, 1.0])
    found = task.parse(answers(batch, texts, grid.references[0, :3], scores, given))
    torch.testing.assert_close(found.scores, torch.tensor([0.54, 0.5]))
    assert [batch.classes[i] for i in found.labels] == ["dog", "owl"]


def test_semantic_reads_what_it_teaches(make_tiny_task, make_batch, grid):
    task = make_tiny_task("semantic_segmentation", samples_per_window=4)
    batch = make_batch("semantic_segmentation", (3, 3))
    made = task.supervise(batch, grid)
    for image, rows in enumerate(mask_rows(made).split(made.mask_counts)):
        masks = made.masks.to("cpu").split(made.mask_counts)[image]
        given = {int(r) - image * 16: m.float() for r, m in zip(rows, masks, strict=True)}
        texts = [a or "" for a in rows_of(made, image, batch)]
        found = task.parse(answers(batch, texts, made.queries.references[image], masks=given))
        known = batch.semantic[image] != IGNORE
        assert torch.equal(found.semantic[known], batch.semantic[image][known].long())


def test_semantic_votes_add_up(make_tiny_task, make_batch, grid):
    """Per pixel the class with the largest sum of score x probability, not the best single answer."""
    task, batch = make_tiny_task("semantic_segmentation"), make_batch("semantic_segmentation")
    texts = [f"{name},{4 * '<MASK>'}" for name in ("dog", "owl", "owl")]
    everywhere = torch.ones(24, 24)
    left = torch.zeros(24, 24)
    left[:, :12] = 1
    given, scores = {0: everywhere, 1: everywhere, 2: left}, torch.tensor([0.5, 0.3, 0.3])
    found = task.parse(answers(batch, texts, grid.references[0, :3], scores, given)).semantic
    assert found[:, :12].eq(1).all() and found[:, 12:].eq(2).all()


def test_semantic_noise_lets_any_point_of_a_region_answer(make_tiny_task, make_batch, grid):
    batch = make_batch("semantic_segmentation", (1, 1))
    batch.semantic.fill_(1)  # one region everywhere: without noise always the same queries

    def chosen(noise: float, seed: int) -> Tensor:
        task = make_tiny_task("semantic_segmentation", assign_noise=noise)
        generator = torch.Generator().manual_seed(seed)
        return task.assign(task.objects(batch, 0), batch.image_size, grid, generator)

    assert all(torch.equal(chosen(0, 0), chosen(0, s)) for s in range(4))
    assert any(not torch.equal(chosen(9, 0), chosen(9, s)) for s in range(4))


def test_a_subclass_without_a_name_of_its_own_does_not_replace_a_task():
    original = task_class("caption")

    class Longer(original):
        """Inherits its name."""

    assert task_class("caption") is original and task_class("caption") is not Longer
