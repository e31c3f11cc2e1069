"""What the tokens of an object say equals plain loops over them, and an expected IoU all boxes enumerated."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torchvision.ops import box_iou

from ufo.head.certainty import Certainty, Layout, number_tokens
from ufo.head.strategy import check_settings
from ufo.ops.expected_iou import expected_iou, expected_numbers
from ufo.ops.masks import soft_iou

VALUES = 9


def cxcywh_iou(a, b) -> float:
    corners = [[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y, w, h in (a, b)]
    return float(box_iou(*(torch.tensor([c], dtype=torch.float64) for c in corners))[0, 0].nan_to_num())


def peaked(boxes: torch.Tensor, sharpness: float, seed: int = 0) -> torch.Tensor:
    """Probabilities around the numbers of boxes `[N, 4]`: `[N, 4, VALUES]`."""
    noise = torch.randn(len(boxes), 4, VALUES, generator=torch.Generator().manual_seed(seed))
    distance = (torch.arange(VALUES) - boxes[..., None]).abs()
    return (0.4 * noise - sharpness * distance).softmax(-1)


def enumerated(box: torch.Tensor, spread: torch.Tensor) -> float:
    """The expected IoU over all boxes."""
    total = 0.0
    for values in itertools.product(range(VALUES), repeat=4):
        likely = math.prod(float(spread[i, v]) for i, v in enumerate(values))
        if likely > 1e-7:
            total += likely * cxcywh_iou(box.tolist(), values)
    return total


@pytest.mark.parametrize(("sharpness", "near"), [(4.0, 0.01), (2.0, 0.04)])  # on a grid of 9 bins
def test_expected_iou_is_close_to_that_of_all_boxes(sharpness, near):
    boxes = torch.tensor([[4, 4, 6, 4], [5, 3, 3, 6]])
    spread = peaked(boxes, sharpness)
    found = expected_iou(boxes, spread)
    wanted = [enumerated(box, some) for box, some in zip(boxes, spread, strict=True)]
    assert found.tolist() == pytest.approx(wanted, abs=near)
    assert max(wanted) < 0.97, "nothing would be tested"


def test_expected_iou_is_exact_where_one_number_varies_and_extents_do_not():
    """The quotient of two expectations, each of which is exact."""
    box = torch.tensor([[4, 4, 4, 4]])
    spread = torch.zeros(1, 4, VALUES)
    spread[0, [1, 2, 3], 4] = 1
    spread[0, 0] = peaked(box, 1.0)[0, 0]
    shared = sum(float(p) * max(0, 4 - abs(v - 4)) * 4 for v, p in enumerate(spread[0, 0]))
    assert float(expected_iou(box, spread)) == pytest.approx(shared / (32 - shared), abs=1e-5)


def test_expected_iou_falls_with_the_spread_and_with_what_is_no_number():
    box = torch.tensor([[4, 4, 5, 5]])
    values = [float(expected_iou(box, peaked(box, sharpness))) for sharpness in (6.0, 3.0, 1.5, 0.5)]
    assert values == sorted(values, reverse=True) and values[0] > 0.95
    sure = torch.nn.functional.one_hot(box, VALUES).float()
    assert float(expected_iou(box, sure)) == pytest.approx(1)
    assert float(expected_iou(box, sure * 0.9)) == pytest.approx(0.9**4)
    assert float(expected_iou(torch.tensor([[4, 4, 0, 5]]), sure)) == 0


def test_an_expected_number_lies_between_the_likely_ones():
    box = torch.tensor([[4, 3, 4, 2]])
    sure = torch.nn.functional.one_hot(box, VALUES).float()
    assert expected_numbers(box, sure).tolist() == box.tolist()
    spread = sure.clone()
    spread[0, 0, 4], spread[0, 0, 5] = 0.5, 0.5
    spread[0, 1, 2], spread[0, 1, 3], spread[0, 1, 4] = 0.3, 0.4, 0.3
    assert expected_numbers(box, spread)[0].tolist() == pytest.approx([4.5, 3, 4, 2])
    assert torch.equal(expected_numbers(box, 0.5 * spread), expected_numbers(box, spread)), (
        "what else is said"
    )
    spread[0, 0, 0] = 0.4
    assert float(expected_numbers(box, spread)[0, 0]) == pytest.approx(4.5), (
        "another box is no reason to move"
    )
    assert expected_numbers(box, torch.zeros_like(spread)).tolist() == box.tolist()
    assert expected_numbers(box[:0], spread[:0]).shape == (0, 4)


def test_expected_numbers_of_drawn_boxes_are_nearer_than_bins(tokenizer):
    """Bins say where a thing lies with an error of up to a half; probabilities in line with it undo that."""
    generator = torch.Generator().manual_seed(0)
    place = 30 + 20 * torch.rand(200, 4, generator=generator, dtype=torch.float64)
    spread = (-0.5 * (torch.arange(81) - place[..., None]).square()).softmax(-1)
    said = spread.argmax(-1)
    nearer = (expected_numbers(said, spread) - place).abs()
    assert (said - place).abs().max() <= 0.5 and nearer.max() < 0.01


def certainty(tokenizer, answers, layout, dtype=torch.float32, seed=0, sharp=3.0):
    """Of answers whose states are logits that favour what was said."""
    ids = tokenizer.pad([row[1:] for row in tokenizer.encode(answers)])
    ids[ids == tokenizer.pad_id] = tokenizer.end_id
    size = len(tokenizer)
    noise = torch.randn(*ids.shape, size, generator=torch.Generator().manual_seed(seed))
    logits = noise + sharp * torch.nn.functional.one_hot(ids, size)
    return Certainty(ids, logits.to(dtype), torch.eye(size, dtype=dtype), tokenizer, layout), ids, logits


ANSWERS = ["owl,12,30,5,7", "background", "red cat,1,2,3,48", "dog,4"]
BOXES = Layout(largest=48, at_end=True)


def test_sequence_is_the_geometric_mean_of_the_numbers_of_a_box(tokenizer):
    found, ids, logits = certainty(tokenizer, ANSWERS, BOXES)
    sequence = found.of("sequence")
    assert sequence.shape == (4, 1) and (sequence <= 1).all()
    assert (sequence > 0)[:, 0].tolist() == [True, False, True, True], "one holds no number"
    for row, numbers in ((0, "12 30 5 7"), (2, "1 2 3 48")):
        tokens = [tokenizer.token_id(number) for number in numbers.split()]
        product = 1.0
        for token in tokens:
            place = ids[row].tolist().index(token)
            product *= float(logits[row, place].softmax(-1)[token])
        assert float(sequence[row]) == pytest.approx(product**0.25, rel=1e-4)


def test_sequence_of_masks_takes_the_mask_tokens_alone(tokenizer):
    answers = ["owl," + "<MASK>" * 4, "background"]
    found, ids, logits = certainty(tokenizer, answers, Layout(mask_id=tokenizer.mask_id, mask_tokens=4))
    places = ids[0].eq(tokenizer.mask_id).nonzero()[:, 0].tolist()
    product = math.prod(float(logits[0, t].softmax(-1)[tokenizer.mask_id]) for t in places)
    assert float(found.of("sequence")[0]) == pytest.approx(product**0.25, rel=1e-4)
    assert found.of("quality").tolist() == [[1.0], [1.0]], "a mask's quality is that of its pixels"


def test_quality_is_the_expected_iou_of_the_numbers_distributions(tokenizer):
    found, ids, logits = certainty(tokenizer, ANSWERS, BOXES)
    numbers = [tokenizer.token_id(str(value)) for value in range(49)]
    spread = torch.zeros(4, 49)
    for i, text in enumerate(["12", "30", "5", "7"]):
        place = ids[0].tolist().index(tokenizer.token_id(text))
        spread[i] = logits[0, place].softmax(-1)[numbers]
    wanted = expected_iou(torch.tensor([[12, 30, 5, 7]]), spread[None])
    assert float(found.of("quality")[0]) == pytest.approx(float(wanted), rel=1e-4)
    assert found.of("quality")[1] == found.of("quality")[3] == 0, "they hold no box"


def test_numbers_are_those_of_the_text_and_expected_ones_near_them(tokenizer):
    found, _, _ = certainty(tokenizer, ANSWERS, BOXES)
    said, expected = found.numbers(slice(None))
    none = [-1] * 4
    assert said[:, 0].tolist() == [[12, 30, 5, 7], none, [1, 2, 3, 48], none]
    assert expected[1].eq(-1).all() and expected[3].eq(-1).all(), "they hold no box"
    moved = (expected[[0, 2], 0] - said[[0, 2], 0]).abs()
    side = said[[0, 2], 0][:, 2:].repeat(1, 2)
    assert (moved > 0).all() and (moved <= (side / 4).clamp(min=1)).all()
    part, _ = found.numbers(slice(2, 3))
    assert part.tolist() == said[2:3].tolist()


def test_several_boxes_of_an_answer_have_scores_of_their_own(tokenizer):
    layout = Layout(objects=3, largest=48)
    both, _, _ = certainty(tokenizer, ["1,2,3,4;5,6,7,8"], layout, seed=1)
    quality, sequence = both.of("quality")[0], both.of("sequence")[0]
    assert (quality[:2] > 0).all() and quality[2] == 0 and quality[0] != quality[1]
    assert len(set(sequence.tolist())) == 3


def test_half_precision_gives_nearly_the_same(tokenizer):
    whole, _, _ = certainty(tokenizer, ANSWERS, BOXES)
    half, _, _ = certainty(tokenizer, ANSWERS, BOXES, torch.bfloat16)
    for score in ("sequence", "quality"):
        assert half.of(score).dtype == torch.float32
        assert torch.allclose(half.of(score), whole.of(score), atol=0.02)


def test_rows_one_by_one_are_rows_together(tokenizer, monkeypatch):
    together, _, _ = certainty(tokenizer, ANSWERS, BOXES)
    monkeypatch.setattr("ufo.head.certainty._AT_ONCE", 1)  # a place at a time
    for row in range(len(ANSWERS)):
        part = slice(row, row + 1)
        alone = Certainty(together.ids[part], together.features[part], together.embedding, tokenizer, BOXES)
        for score in ("sequence", "quality"):
            assert torch.allclose(alone.of(score), together.of(score)[part], atol=1e-6)


def test_first_tokens_may_have_states_of_their_own(tokenizer):
    layout = Layout(largest=48)
    whole, ids, logits = certainty(tokenizer, ["12,30,5,7"], layout)
    other = logits.clone()
    other[:, 0] = 0  # what a mask would be read with
    split = Certainty(ids, other, whole.embedding, tokenizer, layout, first=logits[:, 0])
    for score in ("sequence", "quality"):
        assert torch.equal(split.of(score), whole.of(score))


class Digits:
    """A tokenizer whose numbers are digits, as those of language models."""

    words = ("<end>", ",", *"0123456789")

    def __len__(self) -> int:
        return len(self.words)

    def decode(self, rows):
        return ["".join(self.words[i] for i in row if i) for row in rows]


def test_a_number_of_several_tokens_may_differ_in_each():
    tokenizer = Digits()
    ids = torch.tensor([[tokenizer.words.index(c) for c in "25,25,25,25"]])
    logits = torch.randn(1, ids.shape[1], 12, generator=torch.Generator().manual_seed(3))
    logits += 3 * torch.nn.functional.one_hot(ids, 12)
    found = Certainty(ids, logits, torch.eye(12), tokenizer, Layout(largest=99))
    _, boxes, spread = found._numbers
    assert boxes.tolist() == [[25] * 4]
    first, second = logits[0, 0].softmax(-1), logits[0, 1].softmax(-1)
    for digit in range(
        10
    ):  # behind another first digit stands what is nearest; the first as it is, any second
        token = 2 + digit
        if digit != 2:
            nearest = 10 * digit + (0 if digit > 2 else 9)
            assert float(spread[0, 0, nearest]) == pytest.approx(float(first[token]), rel=1e-4)
        wanted = float(first[4] * second[token])
        assert float(spread[0, 0, 20 + digit]) == pytest.approx(wanted, rel=1e-4)


def test_a_number_of_several_digits_is_expected_near_where_it_is(tokenizer):
    """Each digit is said with its probability given those before it, of numbers spread around a place."""
    digits, places = Digits(), [199.6, 300.4, 209.5, 248.2]
    ids, states = [], []
    for place in places:
        spread = (-0.5 * ((torch.arange(1000) - place) / 2).square()).softmax(0)
        values = torch.arange(1000).where(spread > 1e-9, -1)  # all of them have three digits
        for step in (100, 10, 1):
            likely = torch.zeros(12).index_add_(
                0, 2 + values.clamp(min=0) // step % 10, spread * (values >= 0)
            )
            ids.append(int(likely.argmax()))
            states.append((likely / likely.sum()).log().clamp(min=-50))
            values = values.where(values // step % 10 == ids[-1] - 2, -1)
        ids.append(1)
        states.append(50.0 * torch.nn.functional.one_hot(torch.tensor(1), 12))
    found = Certainty(
        torch.tensor([ids]), torch.stack(states)[None], torch.eye(12), digits, Layout(largest=999)
    )
    said, expected = found.numbers(slice(None))
    assert (said[0, 0] - torch.tensor(places)).abs().max() < 1
    assert (expected[0, 0] - torch.tensor(places)).abs().max() < 0.6


def test_pieces_of_words_are_no_whole_numbers(tokenizer):
    class Pieces(Digits):
        words = ("<end>", "7", "##7", "1234567", "a7", " 12")

        def decode(self, rows):
            return ["".join(self.words[i] for i in row) for row in rows]

    value, kind = number_tokens(Pieces(), 8)
    assert value.tolist() == [-1, 7, 7, -1, -1, 12, -1, -1]
    assert kind.tolist() == [0, 1, -1, 0, 0, 2, 0, 0]


def test_soft_iou_is_that_of_masks_whose_pixels_are_right_so_often():
    """Of drawn pixels, where as many are missing as are there wrongly."""
    generator = torch.Generator().manual_seed(0)
    for right in (0.5, 0.9, 1.0):
        inside = torch.rand(100_000, generator=generator) < right
        shared, missing = int(inside.sum()), int((~inside).sum())
        assert float(soft_iou(torch.tensor(right))) == pytest.approx(
            shared / (len(inside) + missing), abs=0.01
        )
    assert soft_iou(torch.tensor([0.0, 1.0])).tolist() == [0, 1]


# ---------------------------------------------------------------- as a setting of tasks


SCORED = ["detection", "instance_segmentation", "grounding", "referring_segmentation"]


@pytest.fixture(scope="module")
def scoring(make_model):
    """A model with well-formed answers and a score that is chosen."""
    model = make_model()

    def choose(task: str, score: str):
        model.tasks[task].constrained = model.tasks[task].has_grammar
        model.tasks[task].score = score
        return model

    yield choose


@pytest.mark.parametrize("task", SCORED)
@pytest.mark.parametrize("score", ["sequence", "quality"])
def test_scores_are_probabilities_and_do_not_depend_on_the_batch(scoring, make_batch, task, score):
    model, batch = scoring(task, score), make_batch(task)
    with torch.no_grad():
        both = model.predict_batch(batch)
        for i, found in enumerate(both):
            one = replace(batch, images=batch.images[i : i + 1], sizes=batch.sizes[:1], texts=batch.texts[:1])
            (alone,) = model.predict_batch(one)
            assert torch.allclose(alone.scores, found.scores, atol=1e-4)
            assert ((found.scores >= 0) & (found.scores <= 1)).all()


@pytest.mark.parametrize("task", SCORED)
def test_first_asks_no_token_and_equals_what_comparing_finds(scoring, make_batch, task, monkeypatch):
    model, batch = scoring(task, "first"), make_batch(task)
    with torch.no_grad():
        compared = model.predict_batch(batch, compare=True)

        def of(self, score):
            raise AssertionError("nobody asks")

        monkeypatch.setattr(Certainty, "of", of)
        plain = model.predict_batch(batch)
    for one, other in zip(plain, compared, strict=True):
        assert one.under is None and set(other.under) == {"first", "sequence", "quality"}
        assert torch.equal(one.scores, other.scores) and torch.equal(one.scores, other.under["first"].scores)


@pytest.mark.parametrize(
    ("task", "settings", "words"),
    [
        ("detection", {"score": "best"}, "choose first or sequence or quality"),
        ("caption", {"score": "quality"}, "choose first"),
        ("detection", {"calibration": {"score": "first", "points": [[0, 0], [0.5, 0.7], [1, 0.6]]}}, "rises"),
        ("detection", {"calibration": {"score": "first", "points": [[0, 0], [1, float("nan")]]}}, "pairs"),
        ("detection", {"calibration": {"score": "quality", "points": [[0, 0], [1, 1]]}}, "score=quality"),
        ("detection", {"calibration": {"points": [[0, 0], [1, 1]]}}, "calibration=null"),
        (
            "grounding",
            {"box": "expected", "calibration": {"score": "first", "points": [[0, 0], [1, 1]]}},
            "box=said",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused(make_tiny_task, task, settings, words):
    with pytest.raises(ValueError, match=words):
        check_settings(make_tiny_task(task, **settings))
