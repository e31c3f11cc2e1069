"""The second and third view of a server: samples of a data set, and what a run has reached.

Both show what whoever started the server has named; a request chooses by number among that.
"""

from __future__ import annotations

import csv
import logging
import threading
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ufo.data.errors import DataError
from ufo.runs import results
from ufo.serve.arose import png
from ufo.serve.limits import Refused

log = logging.getLogger(__name__)

MOST_SAMPLES = 200  # of each task
LARGEST = 32 << 20  # bytes of a sheet of pictures


@dataclass(frozen=True)
class Sample:
    """One training sample: what the model sees, is asked and learns to say."""

    picture: Image.Image
    prompt: str
    answers: list[str]


@dataclass(frozen=True)
class SamplesView:
    """Samples of a data set.

    Args:
        name: of the data set.
        counts: the tasks that it serves, and how many samples each has.
        read: the sample of a task and a number.
    """

    name: str
    counts: dict[str, int]
    read: Callable[[str, int], Sample]

    def about(self) -> dict[str, Any]:
        """The tasks, and how many samples may be looked at."""
        return {
            "name": self.name,
            "tasks": {task: min(count, MOST_SAMPLES) for task, count in self.counts.items() if count},
        }

    def sample(self, task: str, number: int) -> dict[str, Any]:
        """One sample as JSON. Raises Refused (404) where there is none."""
        if not 0 <= number < min(self.counts.get(task, 0), MOST_SAMPLES):
            raise Refused(404, f"there is no sample {number} of {task[:40]}")
        try:
            with _ONE_AT_A_TIME:  # data sets count what they leave out
                found = self.read(task, number)
        except (DataError, OSError) as error:  # it names files, which are no business of every user
            log.warning("sample %d of %s: %s", number, task, error)
            raise Refused(
                422, f"sample {number + 1} of {task} cannot be shown; the server's log says why"
            ) from error
        return {"picture": png(found.picture), "prompt": found.prompt, "answers": found.answers}


_ONE_AT_A_TIME = threading.Lock()


class RunView:
    """Metrics and worst predictions of a run, as its last validation wrote them.

    Raises ValueError where the folder holds neither.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if results.read(folder) is None and not self._sheets():
            if (folder / results.JSON).is_file():
                raise ValueError(f"{folder / results.JSON} is damaged; evaluate again, or name another run")
            raise ValueError(
                f"{folder} holds neither {results.JSON} nor worst predictions; name the folder of a run that "
                "has been validated"
            )

    def about(self) -> dict[str, Any]:
        """Metrics, published numbers, and a table of the worst images of each source."""
        found = results.read(self.folder) or {"step": None, "measured": {}, "published": {}}
        worst = [{"source": sheet.stem, "rows": _rows(sheet.with_suffix(".csv"))} for sheet in self._sheets()]
        return {"name": self.folder.resolve().name, **found, "worst": worst}

    def worst(self, number: int) -> dict[str, Any]:
        """The picture of the worst images of one source. Raises Refused (404) where there is none."""
        sheets = self._sheets()
        if number >= len(sheets):
            raise Refused(404, f"there is no sheet {number} of worst predictions")
        if sheets[number].stat().st_size > LARGEST:
            raise Refused(413, f"the sheet of {sheets[number].stem} is too large to be shown")
        content = b64encode(sheets[number].read_bytes()).decode()
        return {"picture": f"data:image/png;base64,{content}"}

    def _sheets(self) -> Sequence[Path]:
        """The pictures of the last validation, by source."""
        numbered = [(path.name[5:], path) for path in self.folder.glob("worst/step_*")]
        steps = [(int(step), path) for step, path in numbered if step.isdecimal()]
        return sorted(max(steps)[1].glob("*.png")) if steps else []


def _rows(path: Path) -> list[list[str]]:
    """A table with its head; empty where there is none."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [row for row, _ in zip(csv.reader(file), range(101), strict=False)]
    except (OSError, ValueError, csv.Error):
        return []
