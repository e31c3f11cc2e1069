"""What the layers of a UFO-ViT share in one batch: where queries stand, what follows from a window's size.

Shapes: `B` images, `Q` queries per image, `H W` patches, `W` windows in the batch, `n` prompt tokens, `C`
width, `d` of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ufo.backbones.attention import key_columns, relative_rows_of, table_rows
from ufo.backbones.vit_grids import to_windows, window_numbers
from ufo.backbones.vit_layers import Layer
from ufo.ops.autocast import product_type
from ufo.ops.grid import Queries
from ufo.ops.points import Corners


@dataclass
class QueryStream:
    """The query stream's constants. Queries are listed as they were given, image by image."""

    start: Tensor  # [B, Q, C], state before the first layer
    corners: Corners  # of the references, in the image stream
    window: Tensor  # int64 [B*Q], the window of each in the batch
    order: Tensor | None  # int64 [B*Q], queries sorted by window; None: they are listed so
    back: Tensor | None  # int64 [B*Q], the inverse permutation

    @classmethod
    def of(cls, queries: Queries, start: Tensor, size: tuple[int, int], windows: int) -> QueryStream:
        """Of queries that begin as `start [B, Q, C]`, in images of `size` patches and `windows` each."""
        batch = start.shape[0]  # no `len`, which an exported graph would take for a constant
        references = queries.references.expand(batch, -1, -1)
        first = windows * torch.arange(batch, device=references.device)
        window = (queries.windows + first[:, None]).flatten()
        order = None if queries.by_window else window.argsort(stable=True)
        back = None if order is None else order.argsort()
        return cls(start, Corners.of(references, size), window, order, back)

    def by_window(self, x: Tensor) -> Tensor:
        """Rows `[B*Q, ...]` of queries in the order of their windows."""
        return x if self.order is None else table_rows(x, self.order)

    def as_listed(self, x: Tensor) -> Tensor:
        """The inverse of `by_window`."""
        return x if self.back is None else table_rows(x, self.back)


@dataclass
class Windows:
    """What layers that attend in windows of one size have in common."""

    size: tuple[int, int]  # in patches
    count: int  # W
    hiding: Tensor  # the `key_columns` of all windows, or of one for all
    positions: dict[int, tuple[Tensor, Tensor]]  # of each layer: the `relative_rows` of both tables
    together: Tensor | None = None  # int64 [B*H*W + B*Q], the window of each token; None: nothing drops any

    @classmethod
    def of_kinds(
        cls, layers: Sequence[Layer], window: int, image: Tensor, mask: Tensor, queries: QueryStream | None
    ) -> dict[bool, Windows]:
        """Of layers that are windowed (True), with windows of `window x window` patches, and of global ones.

        Images are `[B, H, W, C]`, the `mask [B or 1, n]` says what may be seen of their prompts.
        """
        kinds = {}
        for windowed in {layer.windowed for layer in layers}:
            numbered = {i: layer for i, layer in enumerate(layers) if layer.windowed == windowed}
            size = (window, window) if windowed else (image.shape[1], image.shape[2])
            kinds[windowed] = made = cls.of(numbered, size, image, mask)
            if layers[0].training and layers[0].drop is not None:
                made.together = made.numbers(image, queries if windowed else None)
        return kinds

    @classmethod
    def of(cls, layers: dict[int, Layer], size: tuple[int, int], image: Tensor, mask: Tensor) -> Windows:
        """Of numbered layers with windows of one size."""
        batch, height, width = image.shape[:3]
        count = batch * (height // size[0]) * (width // size[1])
        visible = mask if mask.shape[0] == 1 else to_windows(mask, count)
        tables = ([getattr(layer, name) for layer in layers.values()] for name in ("rel_pos_h", "rel_pos_w"))
        rows = [relative_rows_of(t, s) for t, s in zip(tables, size, strict=True)]
        width = rows[0][0].shape[-1]  # of a head
        return cls(
            size=size,
            count=count,
            hiding=key_columns(visible, size, width, product_type(image)),
            positions=dict(zip(layers, zip(*rows, strict=True), strict=True)),
        )

    def numbers(self, image: Tensor, queries: QueryStream | None) -> Tensor:
        """The window of each patch and, counted on, of each query: stochastic depth drops them as one."""
        batch, height, width = image.shape[:3]
        patches = window_numbers(batch, height, width, self.size, image.device)
        return patches if queries is None else torch.cat([patches, self.count + queries.window])
