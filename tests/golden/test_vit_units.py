"""The ops against numbers recorded from the reference (`UFO_GOLDEN_DIR`; skipped if absent)."""

import pytest
import torch
from vit_recordings import cases, load, parts

from ufo.ops.boxes import decode_boxes, encode_boxes
from ufo.ops.masks import arrange_planes, resize_mask_logits, rle_decode, rle_encode
from ufo.ops.matching import assign, assignment_cost, hungarian, sample_per_window
from ufo.ops.nms import matrix_nms, soft_nms

DENSE = ("detection", "instance_segmentation", "semantic_segmentation")


def objects(recording: dict, image: int, repeat: int) -> dict:
    """Arguments of `assign` for one recorded image."""
    matched, truth = recording["hungarian"][image], recording["gt"][image]
    count = len(matched["gt_bboxes"]) // repeat
    size = recording["meta"]["img_shape"]
    arguments = {"boxes": matched["gt_bboxes"][:count], "size": size}
    if recording["task"] == "instance_segmentation":
        arguments["masks"] = rle_decode(truth["masks_rle"], size)
    if recording["task"] == "semantic_segmentation":
        arguments["masks"] = truth == matched["gt_labels"][:count, None, None]
        arguments["noise"] = recording["mask_random_cost_rand"][image]
    return arguments


def with_kernel(suppress, kernel: str):
    """`suppress` with the kernel of a recorded name, which may be short: gauss."""
    names = ("linear", "gaussian", "naive")
    [full] = [name for name in names if name.startswith(kernel)]
    return lambda *arguments, **named: suppress(*arguments, **{named.pop("called"): full}, **named)


@pytest.mark.parametrize("part", parts("unit_nms", "soft_"))
def test_soft_nms(part):
    recording = load("unit_nms")
    expected = recording[part]
    known = {k: v for k, v in expected["cfg"].items() if k in ("iou_threshold", "sigma", "min_score")}
    inputs = (recording["boxes"], recording["scores"], recording["labels"])
    suppress = with_kernel(soft_nms, expected["cfg"].get("method", "linear"))
    keep, scores = suppress(*inputs, called="method", **known)
    assert torch.equal(keep, expected["keep"])
    torch.testing.assert_close(scores, expected["dets"][:, 4], atol=1e-7, rtol=0)


@pytest.mark.parametrize("part", parts("unit_nms", "matrix_"))
def test_matrix_nms(part):
    recording = load("unit_nms")[part]
    inputs = (recording["masks"], recording["labels"], recording["scores"])
    keep, scores = with_kernel(matrix_nms, part.removeprefix("matrix_"))(*inputs, called="kernel")
    assert torch.equal(keep, recording["keep"])
    assert torch.equal(recording["labels"][keep], recording["out_labels"])
    torch.testing.assert_close(scores, recording["out_scores"], atol=1e-7, rtol=0)


def test_mask_arrangement():
    recording = load("unit_mask_arrangement")
    features = recording["image_features"]  # [h, w, C]
    tokens = recording["mask_features"].unflatten(0, (len(recording["mask_logits"]), -1))  # [N, K, C]
    planes = torch.einsum("nkc,hwc->nkhw", tokens, features) / features.shape[-1] ** 0.5
    torch.testing.assert_close(arrange_planes(planes), recording["mask_logits"])


@pytest.mark.parametrize("case", cases("train", *DENSE))
def test_assignment(recordings, case):
    recording = load(case)
    points, repeat = recording["grid_reference"][0], recordings.head(recording["task"])["repeat_times"]
    for image, expected in enumerate(recording["hungarian"]):
        arguments = objects(recording, image, repeat)
        noise = arguments.pop("noise", None)
        cost = assignment_cost(points, **arguments).repeat(1, repeat)
        cost = cost if noise is None else cost + noise
        torch.testing.assert_close(cost, expected["cost"], atol=1e-5, rtol=0)
        assert torch.equal(hungarian(expected["cost"]) + 1, expected["gt_inds"])
        repeated = assign(points, **arguments, noise=noise, repeat=repeat, fold=False)
        assert torch.equal(repeated + 1, expected["gt_inds"])


@pytest.mark.parametrize("case", cases("train", "instance_segmentation"))
def test_folded_assignment_of_instances(recordings, case):
    recording = load(case)
    points, repeat = recording["grid_reference"][0], recordings.head(recording["task"])["repeat_times"]
    for image, expected in enumerate(recording["get_targets"]["assign_gt_inds"]):
        folded = assign(points, **objects(recording, image, repeat), repeat=repeat)
        assert torch.equal(folded + 1, expected)


@pytest.mark.parametrize("case", cases("train", "detection"))
def test_bins_relative_to_the_reference(recordings, case):
    recording = load(case)
    repeat = recordings.head(recording["task"])["repeat_times"]
    head, points = recording["meta"]["head_cfg"], recording["grid_reference"][0]
    for image, tokens in enumerate(recording["get_targets"]["target_tokens"]):
        arguments = objects(recording, image, repeat)
        assigned = assign(points, **arguments, repeat=repeat)
        positive = assigned >= 0
        boxes = arguments["boxes"][assigned[positive]]
        bins = encode_boxes(boxes, arguments["size"], head["num_bins"], points[positive])
        assert torch.equal(bins + head["num_classes"] + 1, tokens[positive, 1:])


@pytest.mark.parametrize("case", cases("train", "grounding"))
def test_bins_of_grounding(case):
    recording = load(case)
    boxes = torch.cat([truth["gt_bboxes"] for truth in recording["gt"]])
    size, num_bins = recording["meta"]["img_shape"], recording["meta"]["head_cfg"]["num_bins"]
    centre = recording["grid_reference"][0].expand(len(boxes), 2)
    expected = recording["get_targets"]["target_tokens"][:, 0]
    assert torch.equal(encode_boxes(boxes, size, num_bins, centre), expected)


@pytest.mark.parametrize("case", cases("train", *DENSE))
def test_sampled_queries(case):
    """The draw is random, so: same positives, same order of what is ordered, same membership."""
    recording = load(case)
    per_side = recording["meta"]["git_cfg"]["grid_resolution_perwin"]
    quota = recording["meta"]["git_cfg"]["samples_grids_eachwin"]
    grid = recording["grid_int_position"].shape[:2]
    row, column = (torch.arange(n) // per for n, per in zip(grid, per_side, strict=True))
    windows = (row[:, None] * (grid[1] // per_side[1]) + column).flatten()
    assigned = torch.stack([h["gt_inds"] for h in recording["hungarian"]]) - 1
    expected = recording["select_index"]
    chosen = sample_per_window(assigned, windows, quota, torch.Generator().manual_seed(0))
    assert chosen.shape == expected.shape
    assert torch.equal(windows[chosen], windows[expected])
    positive = assigned.gather(1, expected) >= 0
    assert torch.equal(assigned.gather(1, chosen) >= 0, positive)
    uncrowded = positive.unflatten(1, (-1, quota)).sum(-1).lt(quota).repeat_interleave(quota, 1)
    ordered = positive & uncrowded
    # where every window with positives is crowded, nothing is left whose order is known
    assert torch.equal(chosen[ordered], expected[ordered])


@pytest.mark.parametrize("part", parts("post_detection"))
def test_detection_post_processing(part):
    recording = load("post_detection")[part]
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


@pytest.mark.parametrize("part", parts("post_detection"))
def test_decoded_detection_boxes(part):
    recording = load("post_detection")
    before, meta = recording[part]["pre_nms"], recording[part]["meta"]
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


@pytest.mark.parametrize("part", parts("post_instance_segmentation"))
def test_instance_post_processing(part):
    recording = load("post_instance_segmentation")[part]
    before = recording["pre_nms"]
    masks = rle_decode(before["masks_rle"], recording["meta"]["ori_shape"])
    keep, scores = matrix_nms(masks, before["labels"], before["scores"])
    assert torch.equal(keep, before["keep"])
    torch.testing.assert_close(scores, recording["scores"], atol=1e-7, rtol=0)
    counts = [rle["counts"].decode() for rle in recording["masks_rle"]]
    assert [rle["counts"] for rle in rle_encode(masks[keep])] == counts


@pytest.mark.parametrize("part", parts("post_instance_segmentation"))
def test_instance_masks_from_features(recordings, part):
    recording = load("post_instance_segmentation")
    before, size = recording[part]["pre_nms"], recording[part]["meta"]["ori_shape"]
    is_mask = recording["ids"] == recordings.tokenizer.mask_id
    held = is_mask.sum(1)
    count = held[held > 0].mode().values  # of a complete mask: others are broken on purpose
    complete = held == count
    tokens = recording["outputs_feat"][complete][is_mask[complete]].unflatten(0, (-1, int(count)))
    features = recording["image_feat"]
    planes = torch.einsum("nkc,hwc->nkhw", tokens, features) / features.shape[-1] ** 0.5
    masks = resize_mask_logits(arrange_planes(planes), size) > 0
    made = {rle["counts"] for rle in rle_encode(masks)}
    assert {rle["counts"].decode() for rle in before["masks_rle"]} <= made
