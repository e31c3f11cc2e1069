"""Position tables resized to another grid, against the recorded ones."""

from __future__ import annotations

import pytest
import torch
from vit_recordings import close, load

from ufo.backbones.attention import relative_rows
from ufo.backbones.vit_grids import resize_position_grid

pytestmark = pytest.mark.usefixtures("recordings")


def test_absolute_positions():
    recorded = load("unit_posembed_relpos")
    table = recorded["pos"]  # [1, side*side, C]
    side = round(table.shape[1] ** 0.5)
    resized = {key: value for key, value in recorded.items() if key.startswith("pos_(")}
    assert resized
    for key, expected in resized.items():
        rows, columns = (int(n) for n in key[len("pos_(") : -1].split(","))
        ours = resize_position_grid(table.unflatten(1, (side, side)), (rows, columns))
        close(ours.flatten(1, 2), expected, rtol=1e-5)


def test_relative_positions():
    recorded = load("unit_posembed_relpos")
    resized = {key: value for key, value in recorded.items() if key.startswith("rel_")}
    assert resized
    for key, expected in resized.items():
        size = int(key.split("_")[1])
        close(relative_rows(recorded["rel"], size), expected, rtol=1e-5)


def test_tables_of_another_image_size():
    """The reference resizes tables when it loads them, we when we use them: the same rows."""
    tables = {k: v for k, v in load("unit_load_resize").items() if isinstance(v, dict)}
    assert tables
    for name, table in tables.items():
        source, expected = table["src"], table["dst"]
        if name.endswith("pos_embed"):
            close(resize_position_grid(source, expected.shape[1:3]), expected, rtol=1e-5)
            continue
        size = (len(expected) + 1) // 2
        rows = relative_rows(source, size)  # [size, size, d], row i - j + size - 1 of the table
        ours = torch.cat([rows[0].flip(0), rows[1:, 0]])
        close(ours, expected, rtol=1e-5)
