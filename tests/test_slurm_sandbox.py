"""scripts/slurm_sandbox: two nodes of a real Slurm on this machine, where it can be started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, compose

SCRIPT = ROOT / "scripts" / "slurm_sandbox" / "run.sh"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare")


def missing() -> str:
    """Why a Slurm cannot be started here; empty if it can."""
    lacking = [name for name in PROGRAMS if not shutil.which(name)]
    if lacking:
        return f"apt-get install slurm-wlm munge iproute2 (there is no {lacking[0]})"
    if os.geteuid():
        return "the Slurm sandbox needs root"
    if Path(os.environ.get("SLURM_SANDBOX_DIR", "/run/slurm_sandbox")).exists():
        return "a Slurm sandbox is up already (scripts/slurm_sandbox/cluster.sh down)"
    probe = subprocess.run(["ip", "netns", "add", "ufo_probe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", "ufo_probe"], capture_output=True)
    return f"no network namespaces here: {probe.stderr.strip()}" if probe.returncode else ""


def overrides() -> list[str]:
    """What the script calls $TINY, $TWO and $SUBMITIT, and the other settings in it."""
    text = SCRIPT.read_text()
    blocks = [re.search(rf'{name}="(.*?)"', text, re.S)[1] for name in ("TINY", "TWO", "SUBMITIT")]
    more = re.findall(r" (sources\.\$task\.\w+=\d+|resolution\.\$task=\d+)", text)
    words = [*" ".join(blocks).split(), *(m.replace("$task", "caption") for m in more)]
    return [word.replace("$RUNS", "/tmp") for word in words]


def test_the_script_s_settings_are_settings():
    found = overrides()
    assert len(found) > 25
    cfg = compose(*found)
    assert cfg.trainer.num_nodes == 2 and cfg.sources.caption.batch_size == 2
    for name in PROGRAMS[:2]:
        assert name in (SCRIPT.parent / "cluster.sh").read_text()


@pytest.mark.slow
def test_two_nodes_train_sweep_and_are_pre_empted(tmp_path):
    """(a) DDP on two nodes, (b) a sweep of four runs, (c) requeued by a signal, with the same weights."""
    if reason := missing():
        pytest.skip(reason)
    out = tmp_path / "output.md"
    env = {**os.environ, "STEPS": "24", "PYTHON": sys.executable}
    done = subprocess.run([str(SCRIPT), str(out)], cwd=ROOT, env=env, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    text = out.read_text()
    assert "node1 idle" in text and "Starting with 2 processes" in text
    assert len(re.findall(r"^sweep/\d .* model\.safetensors", text, re.M)) == 4
    assert "SIGUSR1: saved step" in text and "Slurm has the job" in text and "bit for bit the same" in text
