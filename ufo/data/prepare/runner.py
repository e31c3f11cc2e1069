"""Work on many items in many processes: in shards that are kept, so that an interrupted run goes on.

A shard's results are one file, written under another name and then renamed: it is there whole or not at
all. They belong to one job, that is to what `fingerprint` says of the input; another job starts afresh.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ufo.data.errors import DataError
from ufo.data.problems import Problems
from ufo.data.processes import process_pool
from ufo.files import writing

SHARD = 500
"""Items of one shard: some seconds of work, so little is lost with an interrupted one."""

Work = Callable[[Any], Any]
"""One item -> its result as JSON can hold it, or None; raises DataError for an unusable item."""


def run_shards(
    work: Work,
    items: Sequence[Any],
    scratch: Path,
    *,
    fingerprint: Any,
    workers: int,
    title: str,
    problems: Problems,
    shard: int = SHARD,
) -> Iterator[Any]:
    """Results of `work` on all `items`, in their order, without those that are None.

    Args:
        work: called once per item, in other processes: a function of a module or a partial of one. A
            DataError that it raises is counted in `problems` and the item has no result.
        items: what JSON or pickle can hold.
        scratch: folder for finished shards; the caller removes it when all is done.
        fingerprint: what the results depend on besides `items`, as JSON can hold it.
        workers: processes; 1 works in this one.
        title: stands before the progress bar.
    """
    parts = [list(items[i : i + shard]) for i in range(0, len(items), shard)]
    _same_job(scratch, {"fingerprint": fingerprint, "items": len(items), "shard": shard})
    paths = [scratch / f"{i:06d}.json" for i in range(len(parts))]
    left = [(part, path) for part, path in zip(parts, paths, strict=True) if not path.is_file()]
    with _bar() as bar:
        task = bar.add_task(title, total=len(parts), completed=len(parts) - len(left))
        _run_all(partial(_shard, work), left, min(workers, len(left)), lambda: bar.advance(task))
    for path in paths:
        content = json.loads(path.read_bytes())
        for kind, where in content["problems"]:
            problems.report(kind, where)
        yield from content["results"]


def _run_all(
    function: Callable[[list[Any], Path], None],
    jobs: list[tuple[list[Any], Path]],
    workers: int,
    advance: Callable[[], None],
) -> None:
    if workers <= 1:
        for job in jobs:
            function(*job)
            advance()
        return
    executor = process_pool(workers)
    try:
        futures = [executor.submit(function, *job) for job in jobs]
        for future in futures:
            future.add_done_callback(lambda done: None if done.cancelled() else advance())
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done():
                future.result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _shard(work: Work, items: list[Any], path: Path) -> None:
    results, problems = [], []
    for item in items:
        try:
            result = work(item)
        except DataError as error:
            problems.append(("unusable", str(error)))
        else:
            if result is not None:
                results.append(result)
    with writing(path) as file:
        json.dump({"results": results, "problems": problems}, file)


def save_label_map(labels: np.ndarray, path: Path) -> None:
    """Write a uint8 [H, W] array as PNG; the file is there whole or not at all."""
    with writing(path, "wb") as file:
        PIL.Image.fromarray(labels).save(file, format="PNG")


def is_done(result: Path, *sources: Path) -> bool:
    """Whether a result is there and no younger file says otherwise: then nothing needs to be done."""
    if not result.is_file():
        return False
    made = result.stat().st_mtime_ns
    return all(source.stat().st_mtime_ns <= made for source in sources if source.is_file())


def _same_job(scratch: Path, job: Any) -> None:
    """Empty `scratch` unless its shards belong to `job`."""
    job = json.loads(json.dumps(job))
    note = scratch / "job.json"
    try:
        same = json.loads(note.read_bytes()) == job
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(scratch, ignore_errors=True)
        with writing(note) as file:
            json.dump(job, file)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
