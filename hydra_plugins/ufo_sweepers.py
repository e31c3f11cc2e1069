"""Where Hydra looks for plug-ins: `hydra/sweeper=basic` and `hydra/sweeper=optuna` (see ufo/sweeps/)."""

from ufo.sweeps import grid, search


class GridSweeper(grid.Grid):
    """Every combination once."""


class OptunaSweeper(search.Search):
    """A search with Optuna."""
