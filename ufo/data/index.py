"""A data set's tables on disk: read once from a large annotation file, memory-mapped by every process after.

One Arrow file holds all arrays of an index and, as JSON, what else is known of it. It belongs to one
annotation file (name, size, time of change) and to the options that it was read with.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ufo.files import scratch_for

log = logging.getLogger(__name__)

VERSION = 5
"""Of the tables' meaning: an index of another version is built again."""
SMALL = 32 << 20
"""Annotation files of fewer bytes are read every time, in memory."""
FOLDER = ".ufo_index"
BESIDE = "beside"
"""Key in meta: files that could not be used (`times_of`); once one has changed, the index is made again."""
CACHE = "UFO_CACHE"
"""Environment variable: folder for the indexes of annotation files whose own folder is read-only."""

Arrays = dict[str, np.ndarray]
Build = Callable[[], tuple[Arrays, dict[str, Any]]]


class Index(Mapping[str, np.ndarray]):
    """Named arrays and `meta`, which JSON can hold. From a file they are views of it, read-only.

    A process that gets a pickled index of a file opens that file, so nothing large is copied.
    """

    def __init__(self, arrays: Arrays, meta: dict[str, Any], path: Path | None = None) -> None:
        self._arrays, self.meta, self.path = arrays, meta, path

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Index, (self._arrays, self.meta)) if self.path is None else (Index.open, (self.path,))

    def save(self, path: Path) -> None:
        """Write to `path`, which has either all of it or nothing. Raises OSError."""
        import pyarrow as pa

        columns = {name: _column(pa, array) for name, array in self._arrays.items()}
        shapes = {name: list(array.shape) for name, array in self._arrays.items()}
        about = json.dumps({"meta": self.meta, "shapes": shapes}).encode()
        schema = pa.schema([(name, c.type) for name, c in columns.items()], metadata={b"ufo": about})
        batch = pa.record_batch(list(columns.values()), schema=schema)
        with (
            scratch_for(path) as scratch,
            pa.OSFile(str(scratch), "wb") as file,
            pa.ipc.new_file(file, schema) as writer,
        ):
            writer.write_batch(batch)

    @classmethod
    def open(cls, path: Path) -> Index:
        """The index in a file, memory-mapped. Raises OSError or ValueError if it is none."""
        import pyarrow as pa

        # pyarrow's errors are subclasses of ValueError and OSError
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        about = json.loads(reader.schema.metadata[b"ufo"])
        batch = reader.get_batch(0)
        arrays = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            values = column.values.to_numpy(zero_copy_only=True)
            dtype = bool if column.values.type == pa.uint8() and name in about["meta"]["bools"] else None
            arrays[name] = (values.view(dtype) if dtype else values).reshape(about["shapes"][name])
        return cls(arrays, about["meta"], Path(path))


def _column(pa: Any, array: np.ndarray) -> Any:
    """An array of any shape as one cell: Arrow wants columns of equal length."""
    flat = np.ascontiguousarray(array).reshape(-1)
    flat = flat.view(np.uint8) if flat.dtype == bool else flat
    return pa.LargeListArray.from_arrays(pa.array([0, len(flat)], pa.int64()), pa.array(flat))


def cached(source: Path, options: Mapping[str, Any], build: Build) -> Index:
    """The index of an annotation file, read with `build` unless it is on disk already.

    Args:
        source: the annotation file.
        options: everything else that the tables depend on, in values that JSON can hold.
        build: gives arrays and meta data.

    One process builds, others wait for it. If nothing can be written the index stays in memory. Raises
    what `build` raises.
    """
    if source.stat().st_size < SMALL:
        return Index(*build())
    key = _key(source, options)
    for folder in _folders(source):
        path = folder / f"{source.name}.{_digest(key['options'])}.arrow"
        if found := _fresh(path, key):
            return found
        if _writable(folder):
            with _alone(path, source):
                return _fresh(path, key) or _build(path, source, key, build)
    log.warning("%s: no folder for its index can be written (set %s); it stays in memory", source, CACHE)
    return Index(*build())


def _build(path: Path, source: Path, key: dict[str, Any], build: Build) -> Index:
    log.info("%s: reading %s once, for an index on disk", source, size_text(source.stat().st_size))
    began = time.monotonic()
    arrays, meta = build()
    bools = [name for name, array in arrays.items() if array.dtype == bool]
    index = Index(arrays, {**meta, "bools": bools, "key": key})
    try:
        index.save(path)
    except OSError as error:
        log.warning("%s: its index can't be written (%s); it stays in memory", source, error)
        return index
    size, seconds = size_text(path.stat().st_size), time.monotonic() - began
    log.info("%s: index of %s written to %s in %.0f s", source, size, path, seconds)
    return Index.open(path)


def _key(source: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """What an index must have been made from to be used."""
    stat = source.stat()
    # as JSON gives it back: lists instead of tuples
    return json.loads(
        json.dumps(
            {"version": VERSION, "size": stat.st_size, "changed": stat.st_mtime_ns, "options": dict(options)}
        )
    )


def times_of(paths: Iterable[Path], most: int = 1000) -> list[list[Any]]:
    """The first of some files, each with the time of its last change, None where it is not there."""
    return [[str(path), _time_of(path)] for path in islice(paths, most)]


def _time_of(path: str | Path) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except (OSError, ValueError):  # also a name that no file can have
        return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def _folders(source: Path) -> list[Path]:
    """Where the index of an annotation file may be, in order of preference."""
    absolute = source.resolve()
    root = Path(os.environ.get(CACHE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ufo")
    return [absolute.parent / FOLDER, root.expanduser() / "index" / _digest(str(absolute.parent))]


def _fresh(path: Path, key: dict[str, Any]) -> Index | None:
    """The index in `path` if it is there, whole and made from `key`."""
    if not path.is_file():
        return None
    try:
        index = Index.open(path)
        settled = all(_time_of(name) == time for name, time in index.meta.get(BESIDE, ()))
        return index if settled and index.meta["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is not a usable index (%s); it is built again", path, error)
        return None


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@contextmanager
def _alone(path: Path, source: Path) -> Iterator[None]:
    """Only one process at a time; the lock of one that dies is free again."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        log.info("%s: waiting for the process that builds its index", source)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove(source: Path) -> int:
    """Delete the indexes of an annotation file; returns how many there were."""
    found = [p for folder in _folders(source) for p in folder.glob(f"{_escaped(source.name)}.*.arrow")]
    for path in found:
        path.unlink()
    return len(found)


def _escaped(name: str) -> str:
    import glob

    return glob.escape(name)


def size_text(size: float) -> str:
    """A number of bytes for people: "1.2 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
