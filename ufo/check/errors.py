"""Which errors a user's config, files or checkpoints cause, and how an entry point says them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException

from ufo.checkpoints.errors import CheckpointError
from ufo.data.errors import DataError
from ufo.errors import sentence
from ufo.runs.finite import NonFiniteError
from ufo.sweeps.record import Refused

SETUP = (ValueError, DataError, CheckpointError, OSError, InstantiationException, OmegaConfBaseException)
"""What a user's config, files or checkpoints cause before a run begins."""
RUNNING = (DataError, CheckpointError, OSError, NonFiniteError)
"""What they cause later; a ValueError in the midst of a run is a mistake of the code."""


@contextmanager
def clear_errors(kinds: tuple[type[Exception], ...] = SETUP) -> Iterator[None]:
    """Turn an expected kind of error into one sentence; `HYDRA_FULL_ERROR=1` shows the traceback."""
    try:
        yield
    except kinds as error:
        if os.environ.get("HYDRA_FULL_ERROR"):
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        raise Refused(sentence(error)) from error
