"""Query grids: a regular lattice of reference points over the image (paper section 3.3).

A backbone cuts its image into `rows x cols` windows (or tiles); a task asks R x R queries in each. References
are normalised (x, y) and listed row by row over the whole image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Queries:
    """Where the queries of a batch look. Every window of an image has equally many."""

    references: Tensor  # float32 [B or 1, Q, 2], normalised (x, y)
    windows: Tensor  # int64 [B or 1, Q], number of the window each reference lies in, row-major
    grid: tuple[int, int]  # (rows, columns) of the full lattice, of which these may be a part
    by_window: bool = False  # whether they are known to be listed window by window

    def map(self, function: Callable[[Tensor], Tensor]) -> Queries:
        """The same queries with a function, such as a move to a device, applied to their tensors."""
        return replace(self, references=function(self.references), windows=function(self.windows))

    def select(self, index: Tensor, by_window: bool = False) -> Queries:
        """The queries `index [B, S]` of each image; `by_window`: this lists them window by window."""
        batch = len(index)
        windows = self.windows.expand(batch, -1).gather(1, index)
        references = self.references.expand(batch, -1, -1)
        references = references.gather(1, index[..., None].expand(-1, -1, 2))
        return replace(self, references=references, windows=windows, by_window=by_window)


def query_grid(rows: int, cols: int, per_window: int, device: torch.device | str | None = None) -> Queries:
    """The full grid of `per_window`^2 queries in each of `rows x cols` windows, `[1, Q]`."""
    height, width = rows * per_window, cols * per_window
    y = torch.arange(height, device=device)
    x = torch.arange(width, device=device)
    centre_x = ((x + 0.5) / width).expand(height, width)
    centre_y = ((y + 0.5) / height)[:, None].expand(height, width)
    windows = (y // per_window)[:, None] * cols + (x // per_window)[None]  # [G_h, G_w]
    references = torch.stack([centre_x, centre_y], dim=-1).flatten(0, 1)
    return Queries(references[None], windows.flatten()[None], (height, width))
