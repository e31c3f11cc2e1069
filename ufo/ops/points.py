"""Values of maps at points: of features where queries stand, of masks where their loss looks.

The loss looks at PointRend's uncertain points (arXiv 1912.08193; docs/published_system.md#mask-loss).
Shapes: M masks, P points per mask, `h w` pixels, `B` images, `Q` queries, `C` width. Points are xy in 0..1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ufo.ops.constants import constant


class Corners(NamedTuple):
    """The four pixels around each of some points in maps of one size, and their parts of it: `[B, Q, 4]`."""

    pixel: Tensor  # int64, among the pixels of all B maps
    weight: Tensor  # float32 (float64 of such points); 0 outside the map

    @classmethod
    def of(cls, points: Tensor, size: tuple[int, int]) -> Corners:
        """Of points `[B, Q, 2]`, for maps `[B, *size, C]` (`align_corners=False`, zeros outside)."""
        height, width = size
        points = points if points.dtype == torch.float64 else points.float()
        kind, device = points.dtype, points.device
        extent = constant((width, height), kind, device)
        at = (points * extent - 0.5)[:, :, None]
        steps = constant((0, 0, 1, 0, 0, 1, 1, 1), kind, device).view(4, 2)
        corner = at.floor() + steps  # [B, Q, 4, 2]
        weight = (1 - (at - corner).abs()).prod(-1)
        inside = corner.clamp(corner.new_zeros(2), extent - 1)
        weight = weight * (inside == corner).all(-1)
        x, y = inside.long().unbind(-1)
        image = torch.arange(points.shape[0], device=points.device)[:, None, None]
        return cls((image * height + y) * width + x, weight)

    def sample(self, maps: Tensor) -> Tensor:
        """Bilinear values of maps `[B, h, w, C]`: `[B, Q, C]`, in the maps' type.

        One gather and one weighted sum. `grid_sample` gives a GPU one thread per point, which loops over all
        channels.
        """
        # an embedding's gradient has a fixed order, that of an index has not
        pixels = F.embedding(self.pixel, maps.flatten(0, 2))  # [B, Q, 4, C]
        return (pixels * self.weight[..., None]).sum(-2).to(maps.dtype)


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points (`align_corners=False`, zeros outside).

    Args:
        maps: `[M, h, w]`, any real type; pixel (i, j) is centred at ((j + .5) / w, (i + .5) / h).
        points: `[M, P, 2]` xy in 0..1.

    Returns:
        `[M, P]`, float32 (float64 for float64 maps).
    """
    if not len(maps):
        return maps.new_zeros(points.shape[:2], dtype=torch.float32)
    if maps.dtype != torch.float64:
        maps = maps.float()  # also from bf16: coordinates need more than 8 bits
    grid = 2 * points[:, None].to(maps.dtype) - 1  # [M, 1, P, 2]
    return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, 0]


@torch.no_grad()
def sample_uncertain_points(
    logits: Tensor,
    num_points: int,
    oversample: float = 3.0,
    importance: float = 0.75,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Points for a mask loss: most where the prediction hesitates, the rest anywhere.

    Of `oversample * num_points` uniform points the `importance * num_points` with the smallest
    |logit| are kept; uniform ones fill up. No gradient flows through the choice.

    Args:
        logits: `[M, h, w]`.
        num_points: points per mask.
        oversample: candidates per point, at least 1.
        importance: share chosen by uncertainty, 0..1.
        generator: source of randomness; its device may differ from that of `logits`.

    Returns:
        float32 `[M, num_points, 2]` xy in 0..1.

    Raises:
        ValueError: `oversample` or `importance` out of range.
    """
    if oversample < 1 or not 0 <= importance <= 1:
        raise ValueError(
            f"point sampling needs oversample >= 1 and importance in 0..1, not {oversample} and {importance}"
        )
    num_uncertain = int(importance * num_points)
    num_candidates = int(oversample * num_points)
    total = num_candidates + num_points - num_uncertain
    device = logits.device if generator is None else generator.device
    points = torch.rand(len(logits), total, 2, generator=generator, device=device)
    candidates, rest = points.to(logits.device).split([num_candidates, total - num_candidates], 1)
    hesitation = -point_sample(logits, candidates).abs()  # [M, candidates]
    best = hesitation.topk(num_uncertain, dim=1).indices
    return torch.cat([candidates.take_along_dim(best[..., None], 1), rest], dim=1)
