"""Processes beside this one: pools for work on many files, and the workers of a loader."""

from __future__ import annotations

import os
import signal
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


def outlive_signals(worker: int) -> None:
    """Let a worker live on when a cluster signals every process of a job, until the run has saved.

    Its own run ends it by SIGTERM, as Python does at its exit, and waits. A worker never outlives its run.
    """
    if hasattr(signal, "sigwaitinfo"):  # all but macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # in the threads that begin now, too
        threading.Thread(target=_end_for, args=(os.getppid(),), daemon=True).start()
    else:  # the first SIGTERM is taken for the cluster's
        signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    die_with_parent()
    for signum in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):  # Ctrl-C reaches all of a terminal's
        signal.signal(signum, signal.SIG_IGN)


def _end_for(parent: int) -> None:
    """End this process at the first SIGTERM that its parent sends."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
