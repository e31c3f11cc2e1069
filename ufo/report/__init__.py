"""`ufo report RUN`: one HTML file about an evaluation, which needs nothing beside itself.

`gather.py` reads what a run has left in its folder, `tallies.py` counts, `charts.py` draws curves, `html.py`
writes the page. All text is escaped, and a number that is missing is not drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from ufo.report.gather import gather, save
from ufo.report.html import write
from ufo.runs.results import Published

log = logging.getLogger(__name__)


def of_evaluation(folder: Path, measured: Mapping[str, float | None], published: Published) -> None:
    """Write the numbers of an evaluation and its report, and say where it is; a full disk ends nothing."""
    if not measured:
        return
    try:
        save(folder, measured, published)
        print(f"report: {write(gather(folder))}")
    except (OSError, ValueError) as error:
        log.warning("The report could not be written to %s: %s", folder, error)
