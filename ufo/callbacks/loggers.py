"""Loggers that a full disk does not turn against their training: one line in the log, and it goes on.

`forgiving(logger)` is the same logger, whose methods report an `OSError` once instead of raising it. When
there is room again, it logs again; a CSV file loses no row.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from ufo.files import scratch_for

log = logging.getLogger(__name__)

METHODS = (
    *("log_metrics", "log_hyperparams", "log_graph", "log_image", "log_table", "log_text"),
    *("save", "finalize", "after_save_checkpoint"),
)
_WRITER_THREAD = "_AsyncWriterThread"  # TensorBoard's, which prints a traceback when it cannot write


def forgiving(logger: Logger) -> Logger:
    """Let `logger` survive a full disk, in place; isinstance still tells what it is."""
    kind = type(logger)
    methods: dict[str, Any] = {name: _guarded(getattr(kind, name)) for name in METHODS if hasattr(kind, name)}
    if isinstance(logger, CSVLogger):
        methods["save"] = _guarded(_save_all_rows)
    if isinstance(logger, TensorBoardLogger):
        methods["experiment"] = property(lambda self: _Writer(self, kind))
        _silence_writer_threads()
    logger.__class__ = type(kind.__name__, (kind,), {**methods, "__module__": kind.__module__})
    return logger


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Logger, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            _failed(self, error)
            return None

    return call


def _failed(logger: Logger, error: OSError) -> None:
    """Say it once; TensorBoard's writer is of no use afterwards, so the next call opens another file."""
    if not getattr(logger, "_said", False):
        where = getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None)
        log.error(
            "%s could not write to %s (%s); the training goes on without what it logs meanwhile",
            *(type(logger).__name__, where, error.strerror or error),
        )
        logger._said = True  # type: ignore[attr-defined]  # our own mark
    if isinstance(logger, TensorBoardLogger):
        logger._experiment = None


@rank_zero_only
def _save_all_rows(logger: CSVLogger) -> None:
    """`save`, of which a write that fails leaves the file as it was and the rows for the next one.

    Where a column is new Lightning rewrites the file, here a copy of it: a full disk has no room to mend it.
    """
    experiment = logger.experiment
    path = Path(experiment.metrics_file_path)
    size = path.stat().st_size if path.is_file() else None
    columns = list(experiment.metrics_keys)
    rewrites = size is not None and any(key not in columns for row in experiment.metrics for key in row)
    try:
        with scratch_for(path, alone=True) if rewrites else nullcontext(path) as target:
            if rewrites:
                shutil.copyfile(path, target)
            experiment.metrics_file_path = str(target)
            CSVLogger.save(logger)
    except OSError:
        experiment.metrics_keys = columns
        if size is None:
            path.unlink(missing_ok=True)
        else:
            os.truncate(path, size)  # without the part of a row
        raise
    finally:
        experiment.metrics_file_path = str(path)


class _Writer:
    """TensorBoard's writer, each of whose methods may fail."""

    def __init__(self, logger: TensorBoardLogger, kind: Any) -> None:
        self._logger, self._kind = logger, kind

    def __getattr__(self, name: str) -> Any:
        try:
            value = getattr(self._kind.experiment.fget(self._logger), name)
        except OSError as error:
            _failed(self._logger, error)
            return _Nowhere()
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return value(*args, **kwargs)
            except OSError as error:
                _failed(self._logger, error)
                return _Nowhere()

        return call


class _Nowhere:
    """Stands for what could not be opened: whatever is written to it is lost."""

    def __getattr__(self, name: str) -> _Nowhere:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Nowhere:
        return self


def _silence_writer_threads() -> None:
    """The failure of TensorBoard's own thread comes back with the next call; its traceback helps nobody."""
    before = threading.excepthook
    if getattr(before, "_silences", False):
        return

    def hook(what: threading.ExceptHookArgs) -> None:
        expected = issubclass(what.exc_type, OSError) and type(what.thread).__name__ == _WRITER_THREAD
        if not expected:
            before(what)

    hook._silences = True  # type: ignore[attr-defined]  # our own mark
    threading.excepthook = hook
