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


@pytest.fixture
def machine(tmp_path):
    """Starts a script where all but some programs are stand-ins that note their arguments in a file."""

    def start(
        script: str, *arguments: str, programs: dict[str, str]
    ) -> tuple[subprocess.CompletedProcess, str]:
        folder, calls = tmp_path / "bin", tmp_path / "calls"
        folder.mkdir()
        calls.write_text("")
        for name in (
            "bash",
            "dirname",
            "mkdir",
            "chmod",
            "cat",
            "grep",
            "rm",
            "seq",
            "sleep",
            "wc",
            "dd",
            "mktemp",
        ):
            (folder / name).symlink_to(shutil.which(name))
        for name, body in programs.items():
            (folder / name).write_text(f'#!{shutil.which("bash")}\necho "{name} $*" >> {calls}\n{body}\n')
            (folder / name).chmod(0o755)
        hosts = tmp_path / "hosts"
        hosts.write_text("127.0.0.1 localhost\n")
        env = {
            "PATH": str(folder),
            "SLURM_SANDBOX_DIR": str(tmp_path / "up"),
            "SLURM_SANDBOX_HOSTS": str(hosts),
        }
        command = [str(SCRIPT.parent / script), *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert hosts.read_text() == "127.0.0.1 localhost\n" and not (tmp_path / "up").exists()
        return done, calls.read_text()

    return start


NETWORK = {"ip": '[ "$1 $2" != "link show" ]', "unshare": "", "id": "echo 0", "python": "", "hostname": ""}


def test_without_slurm_one_sentence_names_the_packages(machine):
    done, calls = machine("run.sh", programs=NETWORK)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "no slurmctld slurmd sbatch munged" in done.stderr and "slurm-wlm munge iproute2" in done.stderr
    assert calls == ""  # nothing was changed


def test_a_cluster_that_is_half_up_comes_down(machine):
    """The controller does not start: the bridge, which was there already, must not stay."""
    slurm = {"slurmctld": "exit 1", "slurmd": "", "sbatch": "", "munged": ""}
    done, calls = machine("cluster.sh", "up", programs={**NETWORK, **slurm})
    assert done.returncode == 1
    made, _, after = calls.partition("slurmctld ")
    assert "ip link add br-slurm" in made and "ip link del br-slurm" in after


def test_a_cluster_that_was_left_behind_is_named(machine):
    programs = {**NETWORK, "ip": "", **{name: "" for name in PROGRAMS[:4]}}
    done, calls = machine("cluster.sh", "up", programs=programs)
    assert done.returncode == 2 and "cluster.sh down" in done.stderr and "add" not in calls
