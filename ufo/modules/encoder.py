"""A first stage that teaches the encoder of a UFO-ViT from scratch to see (not in the paper).

The published model adds six layers to an encoder that SAM taught. A small model that starts from nothing
learns shapes faster from a label at every pixel than from a few tokens per image: here the encoder, without
the new layers, gets a linear head that is thrown away at the end. Referring expressions are learned the same
way: which patches does the text mean? Shapes: `B` images, `H W` patches, `C` width, `K` classes, `s`
sub-pixels per patch side.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

from ufo.model import UFO
from ufo.modules.base import UFOModule
from ufo.types import Batch


class EncoderModule(UFOModule):
    """Class labels of `subpixels`^2 points per patch and the box of the object at a patch's centre.

    Takes instance segmentation batches (`num_classes` is without the background) and grounding batches:
    whether a patch's centre lies in the box that the text refers to, and that box.
    """

    def __init__(self, model: UFO, num_classes: int, subpixels: int = 4, **kwargs):
        super().__init__(model, **kwargs)
        self.num_classes, self.subpixels = num_classes, subpixels
        self.head = nn.Linear(model.backbone.width, (num_classes + 1) * subpixels**2 + 9)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        task = self.model.task(batch.task)
        prompts = [task.prompt(batch.classes, text) for text in batch.texts]
        output = self.head(self.model.encode(batch.images, prompts, None).image_features).float()
        losses = (self.referring_losses if task.needs_text else self.dense_losses)(batch, output)
        total = torch.stack([*losses.values()]).sum()
        self.log_dict({f"train/{batch.source}/{k}": v for k, v in losses.items()}, batch_size=len(batch))
        self.log("loss", total, prog_bar=True, logger=False, batch_size=len(batch))
        return total

    def referring_losses(self, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        """Binary cross-entropy of the referred patches and, at every patch, smooth L1 of the referred box.

        An answer reads the image wherever it looks first: so all patches learn where the object is.
        """
        assert batch.boxes is not None
        size, device = output.shape[1:3], output.device
        pixels = (batch.images.shape[-2], batch.images.shape[-1])
        on = torch.stack([_nearest(_inside(b[0], pixels)[None], size)[0] for b in batch.boxes]).to(device)
        box = torch.stack([_relative(b[0], pixels) for b in batch.boxes]).to(device)  # [B, 4]
        target = box[:, None, None].expand(-1, *size, -1) * 4 - output.new_tensor([2.0, 2.0, 0.0, 0.0])
        return {
            "referred": F.binary_cross_entropy_with_logits(output[..., 8], (on > 0).float()),
            "referred_box": F.smooth_l1_loss(output[..., 4:8], target, beta=0.1),
        }

    def dense_losses(self, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the labels and smooth L1 of the boxes, from `output [B, H, W, ...]`."""
        assert batch.masks is not None and batch.boxes is not None and batch.labels is not None
        boxes, logits = output[..., :4], output[..., 9:].permute(0, 3, 1, 2)
        logits = F.pixel_shuffle(logits, self.subpixels)  # [B, K+1, s*H, s*W]
        owner = [_owner(m) for m in batch.masks]
        label = torch.stack([_look_up(o, x + 1) for o, x in zip(owner, batch.labels, strict=True)])
        label = _nearest(label, logits.shape[-2:]).to(logits.device)
        size = boxes.shape[1:3]
        target = torch.stack([_box_map(o, b, size) for o, b in zip(owner, batch.boxes, strict=True)])
        on = torch.stack([_nearest(o[None], size)[0] >= 0 for o in owner]).to(boxes.device)
        box = F.smooth_l1_loss(boxes[on], target.to(boxes.device)[on], beta=0.1, reduction="sum")
        return {"label": F.cross_entropy(logits, label), "box": box / (4 * on.sum()).clamp(min=1)}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Nothing is predicted: the head answers no task."""
        return None


def _owner(masks: Tensor) -> Tensor:
    """Index of the object on each pixel, -1 where none: `[N, H, W]` -> int64 `[H, W]`."""
    index = torch.arange(len(masks))[:, None, None]
    return (
        torch.where(masks > 0, index, -1).amax(0)
        if len(masks)
        else masks.new_full(masks.shape[1:], -1, dtype=torch.int64)
    )


def _inside(box: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """1 on the pixels whose centre lies in `box [4]` (xyxy), else 0: int64 `[H, W]`."""
    y, x = (torch.arange(n) + 0.5 for n in size)
    rows, cols = (y >= box[1]) & (y < box[3]), (x >= box[0]) & (x < box[2])
    return (rows[:, None] & cols).long()


def _look_up(owner: Tensor, values: Tensor) -> Tensor:
    """`values [N]` of each pixel's object, 0 where there is none."""
    return torch.cat([values.new_zeros(1), values])[owner + 1]


def _nearest(maps: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Integer maps `[B, H, W]` at the centres of a coarser grid."""
    return F.interpolate(maps[:, None].float(), size=tuple(size), mode="nearest-exact")[:, 0].long()


def _relative(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes `[..., 4]` (xyxy pixels) as centre and extent in units of the image."""
    height, width = size
    return box_convert(boxes.float(), "xyxy", "cxcywh") / torch.tensor([width, height, width, height])


def _box_map(owner: Tensor, boxes: Tensor, size: torch.Size) -> Tensor:
    """Each patch's target: its object's box (centre from the patch, extent) in quarters of the image."""
    height, width = owner.shape
    at = _nearest(owner[None], size)[0]
    table = torch.cat([torch.zeros(1, 4), _relative(boxes, (height, width))])
    y = (torch.arange(size[0]) + 0.5) / size[0]
    x = (torch.arange(size[1]) + 0.5) / size[1]
    centre = torch.stack([x.expand(size), y[:, None].expand(size)], -1)
    values = table[at + 1]  # [H, W, 4]
    return torch.cat([values[..., :2] - centre, values[..., 2:]], -1) * 4
