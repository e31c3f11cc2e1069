"""One process at a time owns the folder of a run: `.owner.json` in it says which host and process.

On the same machine a dead owner is known at once: its process is gone, or another one has its number. From
another machine (a shared file system) nobody can see that: there the owner writes a sign of life every few
seconds, and who finds none for a minute takes over. A Slurm job that was requeued takes over from itself. The
further processes of a distributed run belong to its first one.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

log = logging.getLogger(__name__)

FILE, LOCK = ".owner.json", ".owner.lock"
BEAT = 5.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one after which an owner on another machine is taken for dead
RANKS = (
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "SLURM_PROCID",
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "SUBMITIT_LOCAL_GLOBALID",
)
"""Variables of the environment in which a launcher numbers its processes."""


class FolderInUse(Exception):
    """Another process works in the folder of this run."""


def is_first_process() -> bool:
    """Whether this is the process of a (distributed) run that writes its records."""
    return all(os.environ.get(rank, "0") in ("", "0") for rank in RANKS)


@dataclass
class Owner:
    """The content of `.owner.json`."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    machine: str = field(default_factory=lambda: _machine())
    born: str = field(default_factory=lambda: _born(os.getpid()) or "")
    job: str = field(default_factory=lambda: os.environ.get("SLURM_JOB_ID", ""))
    restarts: int = field(default_factory=lambda: _number(os.environ.get("SLURM_RESTART_COUNT")))
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    beats: int = 0

    @property
    def is_here(self) -> bool:
        """Whether its process number means something to this process."""
        return self.host == socket.gethostname() and self.machine == _machine()

    @property
    def is_alive(self) -> bool:
        """Of an owner that is here: whether that very process exists."""
        born = _born(self.pid)
        return born is not None and (not self.born or not born or born == self.born)

    @property
    def was_requeued(self) -> bool:
        """Whether Slurm has ended this owner's job and started it again as this one."""
        now = Owner(token="")
        return bool(self.job) and self.job == now.job and self.restarts < now.restarts


@contextmanager
def owned(folder: Path, silence: float = SILENCE, beat: float = BEAT) -> Iterator[None]:
    """Own `folder` inside; raises FolderInUse where another process does.

    Args:
        silence: how long an owner on another machine is watched before it is taken for dead.
        beat: seconds between the signs of life of this process.
    """
    ended = threading.Event()
    if not is_first_process():
        if _is_child_of_first():
            threading.Thread(target=_end_with, args=(os.getppid(), ended), daemon=True).start()
        try:
            yield
        finally:
            ended.set()
        return
    mine = Owner()
    try:
        took = _take(folder, mine, silence)
    except OSError as error:  # a full disk, or a folder that others write: said, and no reason to stop
        log.warning("Who works in %s could not be noted (%s)", folder, error.strerror or error)
        took = False
    if not took:
        yield
        return
    threading.Thread(target=_beat, args=(folder, mine, beat, ended), daemon=True, name="owner").start()
    try:
        yield
    finally:
        ended.set()
        if _same(read(folder), mine):
            (folder / FILE).unlink(missing_ok=True)


def read(folder: Path) -> Owner | None:
    """Who owns `folder`; None if nobody does or the file is not one of ours."""
    try:
        known = json.loads((folder / FILE).read_bytes())
        values = {f.name: known[f.name] for f in fields(Owner) if f.name in known}
        if not {"host", "pid", "token"} <= values.keys():  # else it would be this process
            return None
        owner = Owner(**values)
        sound = isinstance(owner.pid, int) and isinstance(owner.restarts, int) and 0 < owner.pid < 1 << 31
        return owner if sound and isinstance(owner.host, str) else None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _take(folder: Path, mine: Owner, silence: float) -> bool:
    """Put `mine` in place; True once it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    part = _write(folder, mine)
    try:
        for _ in range(10):
            if _placed(part, folder / FILE):
                return True
            dead = _check_gone(folder, mine, silence)
            _remove(folder, dead)
    finally:
        part.unlink(missing_ok=True)
    raise FolderInUse(f"other processes start in {folder} all the time; give each run a name= of its own")


def _placed(part: Path, place: Path) -> bool:
    """Whether `part` could be put at a place where nothing was."""
    try:
        os.link(part, place)  # fails if something is there, also over NFS
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if place.exists():
            return False
        os.replace(part, place)
    return True


def _check_gone(folder: Path, mine: Owner, silence: float) -> Owner | None:
    """The folder's dead owner, None for a file that names nobody; waits where only time can tell.

    Raises FolderInUse where the owner is alive.
    """
    owner = read(folder)
    if owner is None or (owner.is_here and not owner.is_alive) or owner.was_requeued:
        return owner
    if owner.is_here and owner.pid == mine.pid:  # an earlier run of this process that could not tidy up
        return owner
    if not owner.is_here:
        log.warning("%s belongs to process %d on %s: is it alive?", folder, owner.pid, owner.host)
        end = time.monotonic() + silence
        while time.monotonic() < end:
            time.sleep(min(1.0, silence / 10))
            now = read(folder)
            if now is None:
                return None
            if now.beats != owner.beats or now.token != owner.token:
                owner = now
                break
        else:
            log.warning("No sign of life of it for %.0f s: this run takes over", silence)
            return owner
    raise FolderInUse(
        f"process {owner.pid} on {owner.host} is working in {folder}; wait for its end, or give this run "
        "another name="
    )


def _remove(folder: Path, dead: Owner | None) -> None:
    """Take the file of a dead owner away, unless another process has just put its own in the place.

    Nobody else removes between looking and removing: of several that found the same dead owner, the second
    would take away the file of the first.
    """
    from filelock import FileLock

    with FileLock(folder / LOCK):
        now = read(folder)
        if (now and now.token) == (dead and dead.token):
            (folder / FILE).unlink(missing_ok=True)


def _beat(folder: Path, mine: Owner, beat: float, ended: threading.Event) -> None:
    while not ended.wait(beat):
        try:
            if not _same(now := read(folder), mine):
                if now is not None:
                    log.error(
                        "process %d on %s has taken %s over from this run, which was silent for too long: "
                        "one of the two must be ended",
                        *(now.pid, now.host, folder),
                    )
                return
            mine.beats += 1
            part = _write(folder, mine)
            if ended.is_set():
                part.unlink(missing_ok=True)
                return
            os.replace(part, folder / FILE)
        except OSError:  # a full disk: the next one may be written
            pass


def _is_child_of_first() -> bool:
    """Whether Lightning has started this process from the first one; torchrun and Slurm look after theirs."""
    return os.environ.get("LOCAL_RANK", "0") not in ("", "0") and not {"RANK", "SLURM_PROCID"} & set(
        os.environ
    )


def _end_with(parent: int, ended: threading.Event) -> None:
    """A process of a distributed run does not outlive what started it, waiting for the others in vain."""
    while not ended.wait(2):
        if os.getppid() != parent:
            os._exit(1)


def _write(folder: Path, owner: Owner) -> Path:
    part = folder / f"{FILE}.{owner.token}.part"
    try:
        part.write_text(json.dumps(asdict(owner)) + "\n", encoding="utf-8")
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return part


def _same(one: Owner | None, other: Owner) -> bool:
    return one is not None and one.token == other.token


def _machine() -> str:
    """What tells machines and containers apart that share a name: boot, and space of process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _born(pid: int) -> str | None:
    """When the process `pid` of this machine began, as its system counts; None if it does not exist."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except (OSError, OverflowError):
        pass
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if state[0] in "ZX" else state[19]  # what is left of a dead process until its parent looks


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
