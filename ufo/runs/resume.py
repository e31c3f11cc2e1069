"""Where a run goes on: `resume=auto|never|PATH`.

The newest checkpoint that is whole and of this very run is taken. A damaged one is left out with a sentence;
one of another run is refused (`ufo.runs.identity`), since going on from it would be neither run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.latest import Damaged, check_fits, contents, newest_first
from ufo.checkpoints.load import check_same_model
from ufo.ops.nearest import beside
from ufo.runs import identity
from ufo.runs.finite import left_out

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A checkpoint to go on from."""

    path: Path
    steps: int  # optimizer steps that it has behind it
    left_out: str = ""  # what is to be said if the last of them moved no weight


def find(resume: str, folder: Path, module: nn.Module, run: Mapping[str, Any]) -> Start | None:
    """The checkpoint from which the run with the identity `run` goes on; None: from its beginning.

    Args:
        resume: `auto` (of `folder`, if there is one), `never`, a `.ckpt`, or the folder of a run.
        folder: of this run.
        module: the LightningModule that goes on.

    Raises CheckpointError where the only way on is that of another run, or where PATH is of no use.
    """
    if resume == "never":
        return None
    place = folder if resume == "auto" else Path(resume)
    recorded = identity.read(_run_of(place))
    for path in _candidates(place, resume):
        try:
            content = contents(path)
            _check_same(content, recorded, path, module, run)
            check_fits(content, module)
        except Damaged as error:
            if path == place:
                raise CheckpointError(f"no training can go on from '{path}': {error}") from error
            log.warning("%s is skipped, it is not a whole checkpoint: %s", path, error)
            continue
        return Start(path, content["global_step"], left_out(content))
    if resume != "auto":
        raise CheckpointError(
            f"'{place}' has no checkpoint from which a training can go on; init={place} takes weights alone"
        )
    if (folder / "model").is_dir() and recorded is not None:  # its checkpoints were removed, its result not
        identity.check_same(run, recorded, folder)
    if newest_first(folder / "checkpoints"):
        log.warning("%s has no checkpoint that is whole: the run starts from its beginning", folder)
    return None


def may_go_on(resume: str, folder: Path) -> bool:
    """Whether there is something to go on from, so that the start of the training is behind it."""
    return resume != "never" and (resume != "auto" or bool(newest_first(folder / "checkpoints")))


def _candidates(place: Path, resume: str) -> list[Path]:
    if resume == "auto" or (place / "checkpoints").is_dir():
        return newest_first(place / "checkpoints")
    if place.is_dir() or place.suffix == ".pth":
        raise CheckpointError(f"'{place}' holds weights, not the state of a training; use init={place}")
    if not place.is_file():
        raise CheckpointError(
            f"no checkpoint at '{place}'; resume= takes a .ckpt, the folder of a run, auto or never"
            f"{beside(place)}"
        )
    return [place]


def _run_of(place: Path) -> Path:
    """The folder of the run that a checkpoint belongs to."""
    return place.parent.parent if place.suffix == ".ckpt" else place


def _check_same(
    content: Mapping[str, Any],
    recorded: Mapping[str, Any] | None,
    path: Path,
    module: nn.Module,
    run: Mapping[str, Any],
) -> None:
    """Raises CheckpointError where the checkpoint is of another run, as far as it tells."""
    try:
        model: Any = module.model
        check_same_model(model, content["ufo"], path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"its description cannot be read: {type(error).__name__} {error}") from error
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; this run would go on from there: take another name=..., or start afresh with "
            "resume=never"
        ) from error
    then = content.get(identity.KEY)
    if not isinstance(then, dict):  # of an earlier version
        then = recorded or {"classes": content["ufo"]["classes"]}
    identity.check_same(run, then, path)
