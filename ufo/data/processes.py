"""Pools of processes for work on many files."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess


def process_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of `workers` processes that end when this process does, however it ends."""
    # spawn: forking a process in which torch has started threads can dead-lock
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=die_with_parent)


def die_with_parent() -> None:
    """End this worker as soon as the process that started it has ended, however it ended."""
    parent = parent_process()

    def watch(process: BaseProcess) -> None:
        process.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()
