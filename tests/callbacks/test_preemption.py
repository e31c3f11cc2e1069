"""What belongs to a signal beside saving: agreement of the processes, and Slurm's queue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from commands import environment

from ufo.callbacks.preemption import Agreement, Preemption, leave_quietly, requeue


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A `scontrol` that notes its arguments, and fails if told to."""
    program = tmp_path / "scontrol"
    broken = f"[ ! -f {tmp_path}/broken ] || {{ echo Invalid job id >&2; exit 1; }}"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n{broken}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "called"


def test_a_job_of_slurm_goes_back_to_its_queue(scontrol, monkeypatch, caplog):
    requeue()
    monkeypatch.setenv("SLURM_JOB_ID", "12; rm -rf x")
    requeue()
    assert not scontrol.exists()
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    requeue()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    requeue()
    assert scontrol.read_text().splitlines() == ["requeue 12", "requeue 7_3"]
    (scontrol.parent / "broken").touch()
    requeue()
    assert "the job 7_3 could not be requeued: Invalid job id; submit it again, it will go on" in caplog.text


def test_one_process_needs_no_agreement():
    agreement = Agreement()
    assert [agreement(n) for n in (0, 15, 0)] == [0, 15, 0]


def agree(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    agreement = Agreement(2)
    # process 1 gets a signal in its second batch: both act after their third
    assert [agreement(n) for n in ((0, 0, 0, 0), (0, 15, 15, 15))[rank]] == [0, 0, 15, 15]
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_agree_on_the_batch(tmp_path):
    mp.start_processes(agree, (str(tmp_path),), nprocs=2, start_method="fork")


def test_ctrl_c_is_noted_once_and_the_second_one_ends_at_once(caplog):
    callback = Preemption()
    callback._note(signal.SIGINT, None)
    assert "SIGINT: saving after this batch; once more ends at once" in caplog.text
    callback._note(signal.SIGTERM, None)  # the cluster's wish is no impatience
    callback._note(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        callback._note(signal.SIGINT, None)


@pytest.mark.slow
@pytest.mark.parametrize("at_exit", [False, True])
def test_a_further_ctrl_c_after_the_save_is_quiet(at_exit):
    """While the run leaves, and while the interpreter ends, after the former handler is back."""
    kill = "os.kill(os.getpid(), signal.SIGINT)"
    code = ["import atexit, os, signal", "from ufo.callbacks.preemption import leave_quietly"]
    code += [f"atexit.register(lambda: {kill})"] if at_exit else []
    code += ["leave_quietly()"]
    code += ["signal.signal(signal.SIGINT, signal.default_int_handler)" if at_exit else kill]
    command = [sys.executable, "-c", "\n".join(code)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT if at_exit else 0, "")


def test_only_the_main_thread_may_set_handlers():
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=leave_quietly)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
