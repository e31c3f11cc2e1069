"""Many runs at once: what became of each (record), grids and searches, Slurm, one report at the end.

Hydra finds the sweepers and launchers through the thin classes in `hydra_plugins/`.
"""

from __future__ import annotations

import sys
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf.errors import OmegaConfBaseException

from ufo.runs.naming import check_name
from ufo.sweeps.record import Refused


class SweepSettings(Callback):
    """What must be known before Hydra makes the folder of a run or of a sweep.

    `${hydra:...}` resolves in the settings of a sweep as it does in those of its runs, and a name that leads
    out of the folder of all runs is refused.
    """

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        _refuse_name(config)

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)
        _refuse_name(config)


def _refuse_name(config: Any) -> None:
    """End the process for a name that is no folder's: Hydra only warns of other errors of a callback."""
    try:
        check_name(config.get("name"))
    except OmegaConfBaseException:  # Hydra says it where it makes the folder
        return
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise Refused(str(error)) from None
