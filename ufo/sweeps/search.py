"""A search with Optuna: trials are runs, the study is a database in the sweep's folder.

The same command started again continues: trials that were cut off go on from their checkpoints, under their
own numbers. (hydra-optuna-sweeper 1.3 pins an `optuna<3` whose SQLite storage fails on current SQLAlchemy.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper

from ufo.command_line import settable
from ufo.sweeps.grid import close_folder, open_folder
from ufo.sweeps.record import Pruned

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)


class Search(Sweeper):
    """Asks Optuna for parameters, launches runs with them, tells it what `objective` they reached.

    What is swept is written in Hydra's syntax, on the command line or in `params`: `a=1,2,3`, `choice(x,y)`,
    `range(1,9,2)`, `interval(0.1,0.9)`, and with a logarithmic scale `tag(log,interval(1e-5,1e-2))`.
    An interval between two integers gives integers.

    Args:
        storage: URL of a database, or the path of a journal file, which many machines can share over NFS.
        study_name: of the study in the storage.
        direction: "maximize" or "minimize".
        n_trials: of the study in all, those of earlier starts included.
        n_jobs: trials that the launcher gets at a time.
        seed: of the sampler; what is asked after n trials depends on seed, n and the results alone.
        sampler: called with `seed`; gives an Optuna sampler.
        pruner: an Optuna pruner; it needs `callbacks=[default,pruning]` to hear of a run before its end.
        params: what is swept and what is fixed; the command line wins.
    """

    def __init__(
        self,
        storage: str,
        study_name: str,
        direction: Literal["minimize", "maximize"],
        n_trials: int,
        n_jobs: int,
        seed: int,
        sampler: Callable[..., optuna.samplers.BaseSampler],
        pruner: optuna.pruners.BasePruner | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self.storage, self.study_name, self.direction = storage, study_name, direction
        self.n_trials, self.n_jobs, self.seed = n_trials, n_jobs, seed
        self.sampler, self.pruner, self.params = sampler, pruner, dict(params or {})
        self.config: Any = None
        self.hydra_context: Any = None

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        import optuna

        if not self.config.get("objective"):
            raise ValueError("a search needs a metric: objective=val/digits/detection/mAP, for example")
        folder = open_folder(self.config)
        space, fixed = self._space(arguments)
        study = optuna.create_study(
            storage=open_storage(self.storage),
            study_name=self.study_name,
            direction=self.direction,
            pruner=self.pruner,
            load_if_exists=True,
        )
        cut_off = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        if study.trials:
            ended = len(study.trials) - len(cut_off)
            log.info("%s goes on: %d trials ended, %d were cut off", self.study_name, ended, len(cut_off))
        returns: list[JobReturn] = []
        for trial in cut_off:
            returns += self._launch(study, [trial], fixed)
        while (left := self.n_trials - len(study.trials)) > 0:
            # not one sampler for all: a search that goes on would draw what it drew at first
            study.sampler = self.sampler(seed=self.seed + len(study.trials))
            batch = [study.ask(space) for _ in range(min(left, self.n_jobs))]
            returns += self._launch(study, batch, fixed)
        if study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
            best = study.best_trial
            log.info("best: run %d, %s = %s, %s", best.number, self.config.objective, best.value, best.params)
        close_folder(folder, returns)

    def _launch(
        self, study: optuna.Study, trials: Sequence[Any], fixed: Sequence[str]
    ) -> Sequence[JobReturn]:
        overrides = [settable([*fixed, *(f"{k}={v}" for k, v in trial.params.items())]) for trial in trials]
        for one in overrides:  # a config that does not compose is an error now
            self.hydra_context.config_loader.load_sweep_config(self.config, one)
        returns = self.launcher.launch(overrides, initial_job_idx=trials[0].number)
        for trial, result in zip(trials, returns, strict=True):
            tell(study, trial.number, result)
        return returns

    def _space(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Distributions by key, and the overrides that are the same for every trial."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        defaults = [f"{key}={value}" for key, value in self.params.items()]
        parsed = {_key(o): o for o in parser.parse_overrides([*defaults, *arguments])}
        space = {key: distribution(o) for key, o in parsed.items() if o.is_sweep_override()}
        if not space:
            raise ValueError("a search needs something to search: optimizer.lr=tag(log,interval(1e-4,1e-2))")
        fixed = [f"{k}={o.get_value_element_as_str()}" for k, o in parsed.items() if k not in space]
        return space, fixed


def _key(override: Override) -> str:
    """As it is typed: `settable` adds what Hydra needs besides."""
    key = override.get_key_element()
    typed = key.removeprefix("++")
    return typed if settable([f"{typed}="]) == [f"++{typed}="] else key


def open_storage(where: str) -> Any:
    """An Optuna storage: a database for a URL, else a journal file."""
    import optuna

    if "://" in where:
        return optuna.storages.get_storage(where)
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(where))


def distribution(override: Override) -> Any:
    """Optuna's distribution of a swept override."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        log_scale, low, high = "log" in value.tags, value.start, value.end
        if low is None or high is None:
            raise ValueError(f"the interval of {override.input_line} needs two ends")
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log_scale)
        return FloatDistribution(float(low), float(high), log=log_scale)
    if isinstance(value, RangeSweep) and isinstance(value.step, int):
        # Hydra takes all three for integers, or none
        numbers = list(range(cast(int, value.start), cast(int, value.stop), value.step))
        return IntDistribution(min(numbers), max(numbers), step=abs(value.step))
    return CategoricalDistribution(list(islice(override.sweep_string_iterator(), 10_000)))


def tell(study: optuna.Study, number: int, result: JobReturn) -> None:
    """Hand a run's outcome to the study; a run without a finite value has failed."""
    from optuna.trial import TrialState

    value = result._return_value
    if result.status == JobStatus.COMPLETED and isinstance(value, int | float) and math.isfinite(value):
        study.tell(number, float(value))
    elif isinstance(value, Pruned):
        study.tell(number, state=TrialState.PRUNED)
    else:
        log.warning("run %d has failed: %s", number, value)
        study.tell(number, state=TrialState.FAIL)
