"""Many runs at once: what became of each (record), grids and searches, Slurm, one report at the end.

Hydra finds the sweepers and launchers through the thin classes in `hydra_plugins/`.
"""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback


class SweepSettings(Callback):
    """Lets `${hydra:...}` resolve in the settings of a sweep, as it does in those of its runs."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)
