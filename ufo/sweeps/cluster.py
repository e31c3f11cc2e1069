"""Runs of a sweep as jobs of submitit: on Slurm, or in processes of this machine.

hydra-submitit-launcher's launcher, but a job that ends without a result (out of memory, cancelled, a node
lost) is a failed run instead of the end of the sweep.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher, SlurmLauncher

from ufo.sweeps.record import FAILED, RUNNING, Record, RunFailed, read

log = logging.getLogger(__name__)

# settings that every executor of submitit has; all others get the executor's name as a prefix
COMMON = {
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "mem_gb",
    "nodes",
    "name",
    "stderr_to_stdout",
}


class Patient:
    """Waits for all jobs, whatever becomes of each: mixed into a launcher of the plugin, which has these."""

    config: Any
    params: dict[str, Any]
    _EXECUTOR: str

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        for number, overrides in zip(numbers, job_overrides, strict=True):
            log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        jobs = self._executor().map_array(
            self,
            [list(overrides) for overrides in job_overrides],
            ["hydra.sweep.dir"] * len(numbers),
            list(numbers),
            [f"{number}" for number in numbers],
            [Singleton.get_state()] * len(numbers),
        )
        log.info("%d jobs of %s: %s", len(jobs), self._EXECUTOR, ", ".join(job.job_id for job in jobs))
        given = zip(jobs, numbers, job_overrides, strict=True)
        return [self._result(job, folder / str(number), overrides) for job, number, overrides in given]

    def _executor(self) -> Any:
        import submitit

        settings = dict(self.params)
        folder, retries = settings.pop("submitit_folder"), settings.pop("max_num_timeout", None)
        limits = {} if retries is None else {f"{self._EXECUTOR}_max_num_timeout": retries}
        executor = submitit.AutoExecutor(folder, cluster=self._EXECUTOR, **limits)
        named = {k if k in COMMON else f"{self._EXECUTOR}_{k}": v for k, v in settings.items()}
        executor.update_parameters(**{k: v for k, v in named.items() if v is not None})
        return executor

    def _result(self, job: Any, folder: Path, overrides: Sequence[str]) -> JobReturn:
        """Of the job's first task; a job that left no result is a failure with its state as the reason."""
        try:
            return job.results()[0]
        except Exception:  # submitit's own, or whatever the job's process raised
            why = f"job {job.job_id} ended without a result ({job.state}); its output: {job.paths.stdout}"
            log.error("%s: %s", folder, why)
            record = read(folder) or Record(overrides=list(filter_overrides(overrides)))
            if record.state == RUNNING:
                record.state, record.why = FAILED, why
                folder.mkdir(parents=True, exist_ok=True)
                record.write(folder)
            return JobReturn(status=JobStatus.FAILED, _return_value=RunFailed(record.why))


class Slurm(Patient, SlurmLauncher):
    """One job of an array per run."""


class Local(Patient, LocalLauncher):
    """One process per run, all at once."""
