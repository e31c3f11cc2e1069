"""From mask tokens to COCO RLE: the task's own post-processing against a straightforward one.

    python benchmarks/mask_postprocessing.py [--masks 100 300] [--size 480 640] [--threads 2] [--repeat 3]

The straightforward one upsamples all masks at once, scores them in a Python loop, compares them as float
maps and encodes what is kept one by one. Both must keep the same masks, pixel by pixel, with equal scores.
The product of mask embeddings and image features, which nobody can save, is also timed alone.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from common import Clock, class_names, common_arguments, show, with_peak
from pycocotools import mask as coco_mask
from torch import Tensor

from ufo.head.retrieval import retrieve_masks
from ufo.ops.masks import rle_encode
from ufo.tasks import make_task
from ufo.tasks.base import Answers
from ufo.tasks.instance_segmentation import InstanceSegmentation
from ufo.types import MASK_TOKEN


def make_answers(count: int, size: tuple[int, int], patches: int) -> Answers:
    """`count` blobs at the places and sizes of objects; about two answers per object, one class for three."""
    torch.manual_seed(0)
    tokens, width, side = 16, 768, 4 * patches
    axis = (torch.arange(side) + 0.5) / side
    objects = torch.rand(max(count // 2, 1), 4)[torch.arange(count) % max(count // 2, 1)]
    objects = objects + 0.02 * torch.randn(count, 4)
    x, y, w, h = (c[:, None, None] for c in objects.unbind(1))
    distance = ((axis - x) / (0.05 + 0.2 * w.abs())) ** 2 + (
        (axis[:, None] - y) / (0.05 + 0.2 * h.abs())
    ) ** 2
    logits = 4 * (1 - distance)  # [M, 4H, 4W], of rank one per axis and a constant
    planes = F.pixel_unshuffle(logits[:, None], 4)  # [M, K, H, W]
    # features with one direction per low-rank part of what the planes span
    u, s, v = torch.svd_lowrank(planes.flatten(2).flatten(0, 1), q=8)
    features = torch.zeros(1, patches, patches, width)
    features[0, ..., :8] = v.view(patches, patches, 8)
    embeddings = torch.zeros(count, tokens, width)
    embeddings[..., :8] = (u * s).view(count, tokens, 8) * width**0.5

    def mask_logits(rows: Tensor) -> Tensor:
        return retrieve_masks(embeddings[rows], features, [len(rows)])

    def masks(rows: Tensor) -> Tensor:
        planes = torch.einsum("nkc,hwc->nkhw", embeddings[rows], features[0]) / width**0.5
        logits = F.pixel_shuffle(planes, 4)
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0].sigmoid()

    names = class_names()
    return Answers(
        texts=[
            f"{names[i % max(count // 2, 1) % len(names) // 3]},{MASK_TOKEN * tokens}" for i in range(count)
        ],
        scores=torch.rand(count) * 0.5 + 0.5,
        references=None,
        size=size,
        classes=names,
        mask_counts=[tokens] * count,
        retrieve_masks=masks,
        retrieve_logits=mask_logits,
    )


def straightforward(task: InstanceSegmentation, answers: Answers):
    """Scores, labels and RLE of what is kept."""
    names = {name: i for i, name in enumerate(answers.classes)}
    labels = torch.tensor([names[text.split(",")[0]] for text in answers.texts])
    probabilities = answers.retrieve_masks(torch.arange(len(labels)))
    masks = probabilities > task.mask_threshold
    scores = answers.scores.clone()
    for i in range(len(masks)):
        scores[i] = scores[i] * probabilities[i][masks[i]].mean()
    order = scores.argsort(descending=True, stable=True)
    scores, labels, masks = scores[order], labels[order], masks[order]
    flat = masks.flatten(1).float()
    overlap = flat @ flat.T
    area = flat.sum(1)
    iou = overlap / (area[:, None] + area - overlap)
    iou = (iou * (labels[:, None] == labels)).triu(1)
    suppressed = iou.amax(0)[:, None]
    decay = torch.exp(task.nms_sigma * (suppressed.square() - iou.square())).amin(0)
    scores = scores * decay
    keep = (scores >= task.nms_filter).nonzero()[:, 0]
    keep = keep[scores[keep].argsort(descending=True, stable=True)]
    rles = [coco_mask.encode(np.asfortranarray(masks[i].numpy().astype(np.uint8))) for i in keep]
    return scores[keep], labels[keep], [rle["counts"].decode() for rle in rles]


def fast(task: InstanceSegmentation, answers: Answers):
    prediction = task.parse(answers)
    return prediction.scores, prediction.labels, [r["counts"] for r in rle_encode(prediction.masks)]


def best(repeat: int, clock: Clock, function, *arguments):
    """Result, shortest time and largest memory of some calls."""
    runs = [with_peak(clock, function, *arguments) for _ in range(repeat)]
    return runs[0][0], min(run[1] for run in runs), max(run[2] for run in runs)


@torch.no_grad()
def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--masks", type=int, nargs="+", default=[100, 300])
    made.add_argument("--size", type=int, nargs=2, default=[480, 640], help="original height and width")
    made.add_argument("--patches", type=int, default=70, help="patches per side of the image")
    made.add_argument("--repeat", type=int, default=3, help="calls of each side; the shortest counts")
    common_arguments(made)
    arguments = made.parse_args()
    torch.set_num_threads(arguments.threads)
    clock, task, rows = Clock(arguments.clock), make_task("instance_segmentation", image_size=1120), []
    for count in arguments.masks:
        answers = make_answers(count, tuple(arguments.size), arguments.patches)
        times = (arguments.repeat, clock)
        expected, slow, slow_peak = best(*times, straightforward, task, answers)
        found, quick, quick_peak = best(*times, fast, task, answers)
        _, product, _ = best(*times, answers.retrieve_logits, torch.arange(count))
        torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
        assert torch.equal(found[1], expected[1]), "other labels were kept"
        assert found[2] == expected[2], "a mask differs"
        rest = (slow - product) / (quick - product)
        row = [str(count), str(len(found[2])), f"{slow:.2f}", f"{quick:.2f}", f"{slow / quick:.1f}x"]
        rows.append([*row, f"{product:.2f}", f"{rest:.1f}x", f"{slow_peak:.1f}", f"{quick_peak:.1f}"])
    columns = ["masks", "kept", "straightforward", "default", "faster", "product", "without product"]
    columns += ["peak GB", "default's"]
    show(f"Mask post-processing ({arguments.clock} s, {arguments.threads} threads)", columns, rows)


if __name__ == "__main__":
    main()
