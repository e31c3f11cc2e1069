"""Work done ahead of the one who waits for it: in a thread, never more than a few items ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 0.1  # seconds until a full queue looks whether anybody still reads it


class _End:
    """The last thing in a queue: how the items ended."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


def ahead(items: Iterable[T], size: int) -> Generator[T, None, None]:
    """The same items in the same order, of which up to `size` are made before they are asked for.

    An error appears where the item would have. When the reader stops, by `close()` or an exception, so does
    the thread, and the iterator behind `items` is closed in it.
    """
    waiting: queue.Queue[T | _End] = queue.Queue(max(size, 1))
    stopped = threading.Event()

    def put(item: T | _End) -> None:
        while not stopped.is_set():
            try:
                return waiting.put(item, timeout=PATIENCE)
            except queue.Full:
                continue

    def work() -> None:
        source = iter(items)
        end = _End()
        try:
            for item in source:
                put(item)
                if stopped.is_set():
                    break
        except BaseException as error:
            end = _End(error)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
            put(end)

    thread = threading.Thread(target=work, daemon=True, name="ufo-ahead")
    thread.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join(timeout=5)
