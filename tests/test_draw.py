"""Pictures: sizes, that marks are where they belong, odd inputs, equal output for equal input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ufo.draw import PALETTE, REFERRED, color, contact_sheet, draw, side_by_side
from ufo.draw.blocks import wrapped
from ufo.draw.paint import label_places
from ufo.ops.masks import rle_encode
from ufo.tasks import kind_of
from ufo.types import IGNORE, Prediction, Target

CLASSES = ("cat", "dog")
GREY = torch.full((3, 112, 112), 128, dtype=torch.uint8)
BOX = torch.tensor([[20.0, 40, 60, 90]])


def detection(boxes=BOX, scores=(0.9,), labels=(1,), **more) -> Prediction:
    boxes = torch.as_tensor(boxes, dtype=torch.float32).view(-1, 4)
    scores, labels = torch.tensor(scores), torch.tensor(labels, dtype=torch.int64)
    return Prediction("detection", boxes=boxes, scores=scores, labels=labels, classes=CLASSES, **more)


def nothing(**more) -> Prediction:
    return detection(torch.zeros(0, 4), (), (), **more)


def mask() -> torch.Tensor:
    result = torch.zeros(1, 112, 112, dtype=torch.bool)
    result[0, 30:80, 20:50] = True
    return result


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def has_color(region: np.ndarray, rgb) -> bool:
    return bool((np.abs(region - np.array(rgb)).max(-1) <= 2).any())


def test_small_images_grow_and_large_ones_shrink():
    assert draw(GREY).size == (448, 448)
    assert draw(torch.zeros(3, 480, 640, dtype=torch.uint8)).size == (640, 480)
    assert draw(torch.zeros(3, 2000, 3000, dtype=torch.uint8)).size == (1024, 683)


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1), (1, 1)])
def test_extreme_images_give_bounded_pictures(shape):
    height, width = shape
    box = detection(torch.tensor([[0.0, 0, width, height]]))
    target = Target(0, shape, boxes=box.boxes, labels=torch.zeros(1, dtype=torch.int64))
    picture = side_by_side(torch.zeros(3, *shape, dtype=torch.uint8), box, target)
    assert max(picture.size) < 2200
    assert min(picture.size) >= 1


def test_box_is_drawn_around_its_object():
    picture = pixels(draw(GREY, detection()))
    assert has_color(picture[40 * 4 - 2 : 40 * 4 + 3, 25 * 4 : 55 * 4], PALETTE[1])
    assert has_color(picture[60 * 4 : 80 * 4, 20 * 4 - 2 : 20 * 4 + 3], PALETTE[1])
    assert (picture[50 * 4 : 80 * 4, 30 * 4 : 50 * 4] == 128).all()  # the inside is left alone
    assert (picture[:, 80 * 4 :] == 128).all()


def test_mask_tints_its_pixels_and_no_others():
    prediction = detection(masks=mask())
    prediction.task = "instance_segmentation"
    picture = pixels(draw(GREY, prediction))
    inside, outside = picture[60 * 4, 35 * 4], picture[60 * 4, 60 * 4]
    expected = 0.55 * 128 + 0.45 * np.array(PALETTE[1])
    assert np.abs(inside - expected).max() <= 2
    assert (outside == 128).all()
    assert has_color(picture[60 * 4, 18 * 4 : 23 * 4], PALETTE[1])  # the contour


def test_target_masks_equal_predicted_ones():
    labels = torch.tensor([1])
    target = Target(0, (112, 112), boxes=BOX, labels=labels, masks=rle_encode(mask()))
    truth = pixels(draw(GREY, target=target, classes=CLASSES))
    found = pixels(draw(GREY, detection(masks=mask())))
    assert (truth[50 * 4 : 80 * 4] == found[50 * 4 : 80 * 4]).all()


def test_semantic_map_colors_classes_but_not_ignored_pixels():
    semantic = torch.zeros(112, 112, dtype=torch.uint8)
    semantic[:, 56:] = 1
    semantic[80:] = IGNORE
    plain = draw(GREY)
    picture = draw(GREY, target=Target(0, (112, 112), semantic=semantic), classes=CLASSES)
    assert picture.width == plain.width
    assert picture.height > plain.height  # the legend
    values = pixels(picture)
    for x, label in ((20, 0), (90, 1)):
        expected = 128 + (np.array(PALETTE[label]) - 128) * 140 / 255
        assert np.abs(values[40 * 4, x * 4] - expected).max() <= 2
        assert (values[100 * 4, x * 4] == 128).all()
    assert has_color(values[448:], PALETTE[0])
    assert has_color(values[448:], PALETTE[1])


def test_a_class_map_has_the_hues_of_its_legend_on_any_photo():
    """Classes are told apart by colour: what lies below must not turn one into another."""
    image = torch.tensor([230, 120, 20], dtype=torch.uint8).view(3, 1, 1).expand(3, 112, 112)
    semantic = torch.arange(112).repeat(112, 1) // 28
    values = pixels(
        draw(image, target=Target(0, (112, 112), semantic=semantic), classes=("a", "b", "c", "d"))
    )
    for label in range(4):
        seen = values[200, (28 * label + 14) * 4].astype(float)
        hue = seen - seen.mean()
        alike = [
            float(hue @ (np.array(rgb) - np.mean(rgb))) / np.linalg.norm(rgb - np.mean(rgb))
            for rgb in PALETTE[:4]
        ]
        assert int(np.argmax(alike)) == label
        assert alike[label] == pytest.approx(np.linalg.norm(hue), rel=0.05)


def test_low_scores_are_only_counted():
    weak = detection(BOX.repeat(2, 1), (0.1, 0.2), (0, 1))
    picture = draw(GREY, weak)
    assert (pixels(picture)[:448] == 128).all()
    assert picture.height > 448
    assert not (pixels(draw(GREY, weak, min_score=0.15))[:448] == 128).all()


def test_best_object_is_drawn_on_top():
    masks = mask().repeat(2, 1, 1)
    first = draw(GREY, detection(BOX.repeat(2, 1), (0.9, 0.5), (0, 1), masks=masks))
    swapped = draw(GREY, detection(BOX.repeat(2, 1), (0.5, 0.9), (1, 0), masks=masks))
    assert first.tobytes() == swapped.tobytes()
    assert has_color(pixels(first)[60 * 4, 18 * 4 : 23 * 4], PALETTE[0])


@pytest.mark.parametrize(
    "prediction",
    [
        nothing(),
        nothing(masks=torch.zeros(0, 112, 112, dtype=torch.bool)),
        detection(masks=torch.zeros(1, 112, 112, dtype=torch.bool)),
        detection([[30.0, 30, 30, 30]]),
        detection([[50.0, 50, 30, 30]]),
        detection([[-1e9, float("nan"), float("inf"), 1e9]]),
        detection(labels=(7,)),
        Prediction("caption", text=""),
        Prediction("caption", text="\ud800 broken\n\x00 surrogate"),
        Prediction("caption", text="größer 日本語 Привет 🦉"),
        Prediction("caption", text="long " * 5000),
        Prediction("caption", text="x" * 5000),
        Prediction("grounding", boxes=torch.zeros(1, 4), scores=torch.zeros(1), text="?"),
        Prediction("semantic_segmentation", semantic=torch.arange(112 * 112).view(112, 112) // 300),
    ],
    ids=lambda p: p.task,
)
def test_odd_predictions_are_drawn(prediction):
    target = Target(0, (112, 112), captions=[], text="the \u201ered\u201d one")
    for picture in (draw(GREY, prediction), side_by_side(GREY, prediction, target)):
        assert picture.mode == "RGB"
        assert picture.height < 1000


def test_odd_input_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="with pixels"):
        draw(torch.zeros(3, 0, 5, dtype=torch.uint8))
    with pytest.raises(ValueError, match="original image's pixels"):
        draw(GREY, detection(masks=torch.zeros(1, 5, 5, dtype=torch.bool)))
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])


def test_side_by_side_has_both():
    target = Target(0, (112, 112), boxes=BOX, labels=torch.tensor([0]))
    picture = pixels(side_by_side(GREY, detection(), target))
    half = picture.shape[1] // 2
    assert half > 448
    assert has_color(picture[:, :half], PALETTE[0])
    assert not has_color(picture[:, :half], PALETTE[1])
    assert has_color(picture[:, half:], PALETTE[1])


def test_detection_is_compared_with_boxes_even_if_the_data_set_knows_masks():
    labels = torch.tensor([1])
    target = Target(0, (112, 112), boxes=BOX, labels=labels, masks=rle_encode(mask()))
    bare = Target(0, (112, 112), boxes=BOX, labels=labels)
    with_masks, without = (side_by_side(GREY, detection(), t) for t in (target, bare))
    assert with_masks.tobytes() == without.tobytes()


def test_grounding_is_named_and_scored():
    answer = Prediction("grounding", boxes=BOX, scores=torch.tensor([0.8]), text="1,2,3,4")
    target = Target(0, (112, 112), boxes=BOX + 4, text="the red one")
    plain, with_text = draw(GREY, answer), draw(GREY, answer, text="the red one")
    assert has_color(pixels(plain), PALETTE[REFERRED])
    assert with_text.height > plain.height
    overlaid = draw(GREY, answer, target)  # the target's dashes
    assert has_color(pixels(overlaid)[94 * 4 - 3 : 94 * 4 + 3], (255, 255, 255))
    assert side_by_side(GREY, answer, target).height > with_text.height


def test_labels_of_one_place_do_not_hide_each_other():
    masks = mask().repeat(3, 1, 1)
    prediction = detection(BOX.repeat(3, 1), (0.9, 0.8, 0.7), (0, 1, 2), masks=masks)
    picture = pixels(draw(GREY, prediction))
    for index in range(3):  # the smallest of the labels has 50 x 20 pixels, not half of it text
        assert (np.abs(picture - np.array(PALETTE[index])).max(-1) <= 2).sum() > 500


@pytest.mark.parametrize("seed", range(8))
def test_labels_never_cover_each_other_and_stay_in_the_picture(seed):
    """Neighbouring and equal boxes, up to more than the picture has room for."""
    generator = np.random.default_rng(seed)
    picture = 300, 200
    boxes = []
    for _ in range(5 + 20 * seed):
        x, y = generator.integers(0, 60), generator.integers(0, 60)
        boxes.append((x, y, x + generator.integers(1, 200), y + generator.integers(1, 130)))
    sizes = [(int(generator.integers(20, 90)), 17) for _ in boxes]
    places = label_places(boxes, sizes, picture)
    assert places == label_places(boxes, sizes, picture)
    kept = [place for place in places if place is not None]
    assert len(kept) >= 5
    for i, (left, up, right, low) in enumerate(kept):
        assert left >= 0 and up >= 0 and right <= picture[0] and low <= picture[1]
        for a, b, c, d in kept[:i]:
            assert left >= c or right <= a or up >= d or low <= b
    first, size = boxes[0], sizes[0]
    assert places[0][:2] == (first[0], max(0, first[1] - size[1]))  # the best object's is where it belongs


def test_pixels_without_a_class_are_shown_and_named():
    """The legend names what is seen and nothing else."""
    semantic = torch.zeros(112, 112, dtype=torch.uint8)
    plain = draw(GREY, target=Target(0, (112, 112), semantic=semantic), classes=CLASSES)
    assert not has_color(pixels(plain), (112, 117, 122))
    semantic[80:] = IGNORE
    picture = draw(GREY, target=Target(0, (112, 112), semantic=semantic), classes=CLASSES)
    values = pixels(picture)
    assert has_color(values[340:440, :440], (112, 117, 122)), "lines over the pixels"
    assert has_color(values[448:], (112, 117, 122)), "and their entry in the legend"
    assert not has_color(values[:300, :440], (112, 117, 122))
    huge = torch.zeros(3000, 3000, dtype=torch.uint8)
    huge[5, 5] = 1  # vanishes in the drawn picture
    image = torch.full((3, 3000, 3000), 128, dtype=torch.uint8)
    shrunken = draw(image, target=Target(0, (3000, 3000), semantic=huge), classes=CLASSES)
    assert not has_color(pixels(shrunken)[1024:], PALETTE[1])


def test_same_input_same_pixels():
    torch.manual_seed(0)
    corners = torch.rand(60, 2, 2).sort(1).values.flatten(1) * 112
    scores, labels = torch.rand(60).tolist(), [i % 2 for i in range(60)]
    first, second = (draw(GREY, detection(corners, scores, labels)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_input_is_left_alone():
    image, prediction = GREY.clone(), detection(masks=mask())
    draw(image, prediction)
    assert (image == GREY).all()
    assert torch.equal(prediction.boxes, BOX)


def test_colors_are_distinct_and_fixed():
    colors = [color(i) for i in range(40)]
    assert len(set(colors)) == 40
    assert colors == [color(i) for i in range(40)]
    assert all(0 <= part <= 255 for rgb in colors for part in rgb)


def test_contact_sheet_holds_all_pictures():
    pictures = [Image.new("RGB", (40, 30), color(i)) for i in range(5)]
    sheet = contact_sheet(pictures, columns=2, title="five")
    assert all(has_color(pixels(sheet), color(i)) for i in range(5))
    assert sheet.height > 3 * 30
    assert contact_sheet(pictures, columns=9).width > 5 * 40


def test_what_an_expression_means_is_painted_and_compared():
    masks = torch.zeros(1, 48, 64, dtype=torch.bool)
    masks[:, 10:30, 10:40] = True
    target = Target(0, (48, 64), masks=rle_encode(masks), text="the thing")
    found = Prediction("referring_segmentation", masks=masks, scores=torch.ones(1))
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    painted = np.asarray(draw(image, found, target))
    assert (painted != np.asarray(draw(image, replace(found, masks=~masks & False), target))).any()
    kind = kind_of(found.task)
    assert kind.note(found, target) == "IoU 1.00"
    nowhere = replace(found, masks=masks & False, text="no")
    assert kind.note(nowhere, target) == "no mask in the answer 'no'"


def test_answers_to_a_question_are_written_below():
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    target = Target(0, (48, 64), text="what?", answers=["a"])
    short = draw(image, target=Target(0, (48, 64), text="what?"))
    assert draw(image, target=target).height > short.height
    assert draw(image, Prediction("vqa", text="b"), target).height > short.height


def test_a_long_list_of_classes_breaks_between_names():
    names = [f"class{i}" for i in range(40)]
    lines = wrapped(f"find: {','.join(names)}", 16, 400)
    assert len(lines) > 2
    said = "".join(lines).removeprefix("find:").strip().split(",")
    assert said == names and all(line.endswith(",") for line in lines[:-1])
