"""What became of a run: `status.json` in its folder, written by the run itself.

So it is there whoever started the run: a shell, a Hydra launcher, Slurm, a W&B agent. A sweep that is started
again reads it: finished runs are skipped, all others go on from their last checkpoint.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ufo.command_line import as_written, job_begins
from ufo.files import write_json
from ufo.runs.owner import FolderInUse, is_first_process, owned

log = logging.getLogger(__name__)

FILE, TRACEBACK = "status.json", "traceback.txt"
LARGEST = 16 << 20  # bytes of a file that is read
RUNNING, FINISHED, FAILED, PRUNED, INTERRUPTED = "running", "finished", "failed", "pruned", "interrupted"


class Refused(SystemExit):
    """An expected error, which has been printed: exit code 1, and `why` in one sentence."""

    def __init__(self, why: str) -> None:
        super().__init__(1)
        self.why = why


class RunFailed(Exception):
    """One run of a sweep failed; the others go on."""


class Pruned(Exception):
    """A search has given up a run that does worse than others did."""


@dataclass
class Record:
    """The content of `status.json`; times are UTC."""

    state: str = RUNNING
    why: str = ""  # one line, of a run that did not finish
    overrides: list[str] = field(default_factory=list)
    objective: float | None = None  # what a search compares
    started: str = ""
    ended: str = ""
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)

    def write(self, folder: Path) -> None:
        """Whole or not at all."""
        write_json(folder / FILE, asdict(self), indent=2)


def read_json(path: Path) -> Any:
    """The content of a run's small JSON file; None if there is none that can be read."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:  # no pipe, and nothing that fills the memory
            return None
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def read(folder: Path) -> Record | None:
    """The record of the run in `folder`; None if there is none, or not one of ours."""
    known = read_json(folder / FILE)
    if not isinstance(known, dict):
        return None
    names = {f.name for f in fields(Record)}
    record = Record(**{key: value for key, value in known.items() if key in names})
    texts = (record.state, record.why, record.started, record.ended, record.host)
    lines = record.overrides if isinstance(record.overrides, list) else [None]
    sound = all(isinstance(text, str) for text in (*texts, *lines))
    record.objective = number(record.objective)
    return record if sound and isinstance(record.pid, int) and 0 < record.pid < 1 << 31 else None


def number(value: Any) -> float | None:
    """A number as JSON may hold it; None for anything else, and for one that no float can hold."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        return None


def is_alive(record: Record) -> bool:
    """Whether a run that says "running" may be: on another machine it is believed."""
    if record.host != socket.gethostname():
        return True
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def recorded(main: Callable[[Any], float | None]) -> Callable[[Any], float | None]:
    """Decorate what `hydra.main` starts, so that each run leaves a record.

    In a multirun a finished run is not repeated, and one that fails raises `RunFailed`, leaving the traceback
    in its folder: an exception with its frames would keep the model's memory through the rest of the sweep.
    """

    @functools.wraps(main)
    def run(cfg: Any) -> float | None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        job_begins()
        _forgive_log_files()
        hydra = HydraConfig.get()
        folder, sweeping = Path(hydra.runtime.output_dir), hydra.mode == RunMode.MULTIRUN
        try:
            with owned(folder):
                return _run(main, cfg, hydra, folder, sweeping)
        except FolderInUse as error:
            if sweeping:
                log.error("%s", error)
                raise RunFailed(str(error)) from None
            print(f"error: {error}", file=sys.stderr)
            raise Refused(str(error)) from None

    return run


def _run(main: Callable[[Any], float | None], cfg: Any, hydra: Any, folder: Path, sweeping: bool) -> Any:
    record = Record(overrides=as_written(hydra.overrides.task), started=_now())
    before = read(folder)
    if sweeping and before:
        _check_same(before, record, folder)
        if before.state == FINISHED:
            log.info("%s is finished already: skipped", folder)
            return before.objective
    _write(record, folder)
    try:
        with _as_single_run(hydra, folder, sweeping):
            record.objective = main(cfg)
        record.state = FINISHED
    except BaseException as error:
        record.state, record.why = _outcome(error)
        if not sweeping and isinstance(error, Refused) and before and before.state != FAILED:
            record = before  # nothing of the refused command has been used
        if not sweeping or record.state == INTERRUPTED:
            raise
        if record.state == FAILED and not isinstance(error, Refused):
            (folder / TRACEBACK).write_text(traceback.format_exc(), encoding="utf-8")
    finally:
        record.ended = record.ended or _now()
        _write(record, folder)
        _close_loggers(record.state)
    if record.state == PRUNED:
        raise Pruned(record.why)
    if record.state == FAILED:
        log.error("%s failed: %s", folder, record.why)
        raise RunFailed(record.why)
    return record.objective


def _outcome(error: BaseException) -> tuple[str, str]:
    """State and reason in one line."""
    if isinstance(error, Refused):
        return FAILED, error.why
    line = " ".join(str(error).split())[:300]
    if isinstance(error, Pruned):
        return PRUNED, line
    if not isinstance(error, Exception):  # Ctrl-C, SIGTERM
        return INTERRUPTED, f"{type(error).__name__} {line}".strip()
    return FAILED, f"{type(error).__name__}: {line}"


def _check_same(before: Record, now: Record, folder: Path) -> None:
    """Raises RunFailed where the folder's checkpoint would continue another run."""
    if before.overrides == now.overrides:
        return
    others = [o for o in before.overrides if o not in now.overrides] or before.overrides
    why = f"{folder} holds another run ({' '.join(others)}); choose another hydra.sweep.dir"
    log.error(why)
    raise RunFailed(why)


@contextmanager
def _as_single_run(hydra: Any, folder: Path, sweeping: bool) -> Iterator[None]:
    """Lightning starts further processes with this one's command line: in a sweep, that of all its runs."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import read_write

    if not sweeping:
        yield
        return
    before = list(sys.argv)
    cfg: Any = HydraConfig.instance().cfg  # a sweep's run has one, and `hydra` in it
    settings = cfg.hydra
    with read_write(settings):
        settings.run.dir = str(folder)
    name = f"--config-name={hydra.job.config_name}"
    sys.argv[1:] = [name, *as_written(hydra.overrides.task), "hydra.mode=RUN"]
    try:
        yield
    finally:
        sys.argv[:] = before


def _close_loggers(state: str) -> None:
    """W&B's run of this process: the next run of the sweep would go on writing into it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.finish(exit_code=0 if state in (FINISHED, PRUNED) else 1)


def _forgive_log_files() -> None:
    """A full disk under Hydra's log file: lines stay on the screen, and a traceback for each is no help."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = lambda record: None  # type: ignore[method-assign]  # for this handler alone


def _write(record: Record, folder: Path) -> None:
    """By the first process alone; a full disk is not a reason to stop."""
    if not is_first_process():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record.write(folder)
    except OSError as error:
        log.warning("The run's state could not be written to %s: %s", folder, error)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
