"""The ops against numbers recorded from the reference (`UFO_GOLDEN_DIR`; skipped if absent)."""

import os
from pathlib import Path

import pytest
import torch

from ufo.ops.boxes import decode_boxes, encode_boxes
from ufo.ops.masks import arrange_planes, resize_mask_logits, rle_decode, rle_encode
from ufo.ops.matching import assign, assignment_cost, hungarian, sample_per_window
from ufo.ops.nms import matrix_nms, soft_nms

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("UFO_GOLDEN_DIR", ROOT.parent / "shared" / "golden")) / "vit"
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no recordings; set UFO_GOLDEN_DIR to the folder that holds vit/"
)
REPEAT = 3


def load(name: str) -> dict:
    return torch.load(FOLDER / f"{name}.pt", weights_only=True)


def objects(recording: dict, image: int) -> dict:
    """Arguments of `assign` for one recorded image."""
    matched, truth = recording["hungarian"][image], recording["gt"][image]
    count = len(matched["gt_bboxes"]) // REPEAT
    size = recording["meta"]["img_shape"]
    arguments = {"boxes": matched["gt_bboxes"][:count], "size": size}
    if recording["task"] == "instance_segmentation":
        arguments["masks"] = rle_decode(truth["masks_rle"], size)
    if recording["task"] == "semantic_segmentation":
        arguments["masks"] = truth == matched["gt_labels"][:count, None, None]
        arguments["noise"] = recording["mask_random_cost_rand"][image]
    return arguments


@pytest.mark.parametrize("case, method", [("linear", "linear"), ("gauss", "gaussian"), ("naive", "naive")])
def test_soft_nms(case, method):
    recording = load("unit_nms")
    expected = recording[f"soft_{case}"]
    keep, scores = soft_nms(recording["boxes"], recording["scores"], recording["labels"], method=method)
    assert torch.equal(keep, expected["keep"])
    torch.testing.assert_close(scores, expected["dets"][:, 4], atol=1e-7, rtol=0)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_matrix_nms(kernel):
    recording = load("unit_nms")[f"matrix_{kernel}"]
    keep, scores = matrix_nms(recording["masks"], recording["labels"], recording["scores"], kernel=kernel)
    assert torch.equal(keep, recording["keep"])
    assert torch.equal(recording["labels"][keep], recording["out_labels"])
    torch.testing.assert_close(scores, recording["out_scores"], atol=1e-7, rtol=0)


def test_mask_arrangement():
    recording = load("unit_mask_arrangement")
    features = recording["image_features"]  # [h, w, C]
    tokens = recording["mask_features"].unflatten(0, (-1, 16))  # [N, K, C]
    planes = torch.einsum("nkc,hwc->nkhw", tokens, features) / features.shape[-1] ** 0.5
    torch.testing.assert_close(arrange_planes(planes), recording["mask_logits"])


@pytest.mark.parametrize("name", ["detection_224", "detection_448", "insseg_448", "semseg_448"])
def test_assignment(name):
    recording = load(f"train_{name}")
    points = recording["grid_reference"][0]
    for image, expected in enumerate(recording["hungarian"]):
        arguments = objects(recording, image)
        noise = arguments.pop("noise", None)
        cost = assignment_cost(points, **arguments).repeat(1, REPEAT)
        cost = cost if noise is None else cost + noise
        torch.testing.assert_close(cost, expected["cost"], atol=1e-5, rtol=0)
        assert torch.equal(hungarian(expected["cost"]) + 1, expected["gt_inds"])
        repeated = assign(points, **arguments, noise=noise, repeat=REPEAT, fold=False)
        assert torch.equal(repeated + 1, expected["gt_inds"])


def test_folded_assignment_of_instances():
    recording = load("train_insseg_448")
    points = recording["grid_reference"][0]
    for image, expected in enumerate(recording["get_targets"]["assign_gt_inds"]):
        folded = assign(points, **objects(recording, image), repeat=REPEAT)
        assert torch.equal(folded + 1, expected)


@pytest.mark.parametrize("name", ["detection_224", "detection_448"])
def test_bins_relative_to_the_reference(name):
    recording = load(f"train_{name}")
    head, points = recording["meta"]["head_cfg"], recording["grid_reference"][0]
    for image, tokens in enumerate(recording["get_targets"]["target_tokens"]):
        arguments = objects(recording, image)
        assigned = assign(points, **arguments, repeat=REPEAT)
        positive = assigned >= 0
        boxes = arguments["boxes"][assigned[positive]]
        bins = encode_boxes(boxes, arguments["size"], head["num_bins"], points[positive])
        assert torch.equal(bins + head["num_classes"] + 1, tokens[positive, 1:])


def test_bins_of_grounding():
    recording = load("train_grounding_224")
    boxes = torch.cat([truth["gt_bboxes"] for truth in recording["gt"]])
    size, num_bins = recording["meta"]["img_shape"], recording["meta"]["head_cfg"]["num_bins"]
    centre = recording["grid_reference"][0].expand(len(boxes), 2)
    expected = recording["get_targets"]["target_tokens"][:, 0]
    assert torch.equal(encode_boxes(boxes, size, num_bins, centre), expected)


@pytest.mark.parametrize("name", ["detection_224", "detection_448", "insseg_448", "semseg_448"])
def test_sampled_queries(name):
    """The draw is random, so: same positives, same order of what is ordered, same membership."""
    recording = load(f"train_{name}")
    per_side, _ = recording["meta"]["git_cfg"]["grid_resolution_perwin"]
    quota = recording["meta"]["git_cfg"]["samples_grids_eachwin"]
    side = round(len(recording["grid_reference"][0]) ** 0.5)
    cell = torch.arange(side) // per_side
    windows = (cell[:, None] * (side // per_side) + cell).flatten()
    assigned = torch.stack([h["gt_inds"] for h in recording["hungarian"]]) - 1
    expected = recording["select_index"]
    chosen = sample_per_window(assigned, windows, quota, torch.Generator().manual_seed(0))
    assert chosen.shape == expected.shape
    assert torch.equal(windows[chosen], windows[expected])
    positive = assigned.gather(1, expected) >= 0
    assert torch.equal(assigned.gather(1, chosen) >= 0, positive)
    uncrowded = positive.unflatten(1, (-1, quota)).sum(-1).lt(quota).repeat_interleave(quota, 1)
    ordered = positive & uncrowded
    assert ordered.any() == (name != "detection_224")  # its only window is crowded
    assert torch.equal(chosen[ordered], expected[ordered])


@pytest.mark.parametrize("case", ["ori300x400", "max10"])
def test_detection_post_processing(case):
    recording = load("post_detection")[case]
    before = recording["pre_nms"]
    keep, scores = soft_nms(before["boxes"], before["scores"], before["labels"])
    assert torch.equal(keep, before["keep"])
    assert torch.equal(scores, recording["scores"])
    assert torch.equal(before["boxes"][keep], recording["bboxes"])
    assert torch.equal(before["labels"][keep], recording["labels"])


def parse_bins(text: str) -> list[int] | None:
    try:
        bins = [int(part.replace(" ", "")) for part in text.split(",")[:4]]
    except ValueError:
        return None
    return bins if len(bins) == 4 else None


@pytest.mark.parametrize("case", ["ori300x400", "max10"])
def test_decoded_detection_boxes(case):
    recording = load("post_detection")
    before, meta = recording[case]["pre_nms"], recording[case]["meta"]
    num_bins = meta["head_cfg"]["num_bins"]
    found: dict[float, torch.Tensor] = {}  # by score, the recorded link between text and box
    for text, probability, reference in zip(
        recording["decoded"], recording["logits"][:, 0], recording["references"], strict=True
    ):
        bins = parse_bins(text.partition(",")[2])
        if bins is not None:
            found[probability.item()] = decode_boxes(
                torch.tensor(bins), meta["ori_shape"], num_bins, reference
            )
    unique = [i for i, s in enumerate(before["scores"].tolist()) if before["scores"].eq(s).sum() == 1]
    assert len(unique) >= len(before["scores"]) // 2
    boxes = torch.stack([found[before["scores"][i].item()] for i in unique])
    torch.testing.assert_close(boxes, before["boxes"][unique], atol=1e-4, rtol=0)


def test_decoded_grounding_boxes():
    recording = load("post_grounding")
    size = recording["img_shape"]
    scale = torch.tensor(recording["scale_factor"]).repeat(2)
    original = tuple(round(s / f) for s, f in zip(size, recording["scale_factor"][::-1], strict=True))
    for text, expected in zip(recording["texts"], recording["bboxes"], strict=True):
        bins = parse_bins(text)
        if bins is None:
            assert expected.eq(0).all()
            continue
        centre = torch.tensor([0.5, 0.5])
        direct = decode_boxes(torch.tensor(bins), original, 448, centre)
        torch.testing.assert_close(direct, expected, atol=1e-4, rtol=0)
        by_network = decode_boxes(torch.tensor(bins), size, 448, centre) / scale
        torch.testing.assert_close(by_network, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["ori150x200", "ori448"])
def test_instance_post_processing(case):
    recording = load("post_instance_segmentation")[case]
    before = recording["pre_nms"]
    masks = rle_decode(before["masks_rle"], recording["meta"]["ori_shape"])
    keep, scores = matrix_nms(masks, before["labels"], before["scores"])
    assert torch.equal(keep, before["keep"])
    torch.testing.assert_close(scores, recording["scores"], atol=1e-7, rtol=0)
    counts = [rle["counts"].decode() for rle in recording["masks_rle"]]
    assert [rle["counts"] for rle in rle_encode(masks[keep])] == counts


@pytest.mark.parametrize("case", ["ori150x200", "ori448"])
def test_instance_masks_from_features(case):
    recording = load("post_instance_segmentation")
    before, size = recording[case]["pre_nms"], recording[case]["meta"]["ori_shape"]
    ids, padding = recording["ids"], 102
    is_mask = ids == ids[ids != padding].mode().values  # <MASK> is by far the most frequent id
    complete = is_mask.sum(1) == 16
    tokens = recording["outputs_feat"][complete][is_mask[complete]].unflatten(0, (-1, 16))
    features = recording["image_feat"]
    planes = torch.einsum("nkc,hwc->nkhw", tokens, features) / features.shape[-1] ** 0.5
    masks = resize_mask_logits(arrange_planes(planes), size) > 0
    made = {rle["counts"] for rle in rle_encode(masks)}
    assert {rle["counts"].decode() for rle in before["masks_rle"]} <= made
