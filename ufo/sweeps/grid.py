"""A grid of runs, every combination once: Hydra's basic sweeper that does not stop at a failed run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from ufo.command_line import settable
from ufo.sweeps.record import Pruned
from ufo.sweeps.report import gather, summary, write


class Grid(BasicSweeper):
    """Starts all runs, then writes the sweep's table and exits with 1 if some failed.

    Args:
        max_batch_size: runs that the launcher gets at a time; None: all.
        params: what is swept, `{key: "a,b,c"}`; the command line's overrides win.
    """

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        folder = open_folder(self.config)
        assert self.hydra_context is not None and self.launcher is not None  # Hydra has called `setup`
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides(settable([*self._parse_config(), *arguments]))
        self.overrides = self.split_arguments(parsed, self.max_batch_size)
        returns, started = [], 0
        while not self.is_done():
            batch = self.get_job_batch()
            self.validate_batch_is_legal(batch)
            returns.append(self.launcher.launch(batch, initial_job_idx=started))
            started += len(batch)
        close_folder(folder, [result for batch in returns for result in batch])
        return returns


def open_folder(config: Any) -> Path:
    """The sweep's folder, with the config of the whole sweep in it."""
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "multirun.yaml")
    return folder


def close_folder(folder: Path, returns: Sequence[JobReturn]) -> None:
    """Write and print the table of the sweep; exit code 1 if one of its runs failed."""
    runs = gather(folder)
    write(runs, folder)
    print(summary(runs, folder))
    failed = [
        r for r in returns if r.status != JobStatus.COMPLETED and not isinstance(r._return_value, Pruned)
    ]
    if failed:
        sys.exit(1)
