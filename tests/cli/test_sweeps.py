"""Sweeps as a user starts them, with each launcher and sweeper, on a program whose runs take no time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import (
    CONF,
    NETWORK,
    QUICK,
    TASKS,
    Finished,
    batches,
    compose,
    digits,
    environment,
    forked,
    resolution,
)
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ufo.check import check_config

APP = Path(__file__).with_name("sweep_app.py")
SWEEPS = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))
WANDB = [CONF / "sweep" / "wandb" / "learning_rate.yaml"]
SEARCH = [
    "hydra/sweeper=optuna",
    "objective=val/digits/detection/mAP",
    "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    "optimizer.weight_decay=choice(0.0,0.1)",
]


def sweep(folder: Path, *overrides: str) -> Finished:
    """A multirun of the program in a copy of this process, which has imported everything."""
    return forked(str(APP), "-m", f"hydra.sweep.dir={folder}", *overrides, out=folder)


def started(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    """The same by a Python of its own, as a launcher with processes of its own wants it."""
    command = [sys.executable, str(APP), "-m", f"hydra.sweep.dir={folder}", *overrides]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)


def states(folder: Path) -> dict[str, str]:
    """State by the name of the run's folder."""
    found = {p.parent.name: json.loads(p.read_text()) for p in sorted(folder.glob("*/status.json"))}
    return {name: record["state"] for name, record in found.items()}


def starts(folder: Path) -> list[int]:
    """How often each run was started."""
    return [len(p.read_text().splitlines()) for p in sorted(folder.glob("*/starts"))]


@pytest.mark.slow
def test_a_failed_run_does_not_stop_the_sweep_and_finished_ones_are_not_repeated(tmp_path):
    done = sweep(tmp_path, "seed=1,13,14,15,2")
    assert done.codes == [1], done.text
    expected = ["finished", "failed", "failed", "pruned", "finished"]
    assert list(states(tmp_path).values()) == expected
    assert "1: failed, RuntimeError: thirteen is not lucky" in done.text
    assert "2: failed, the config is wrong" in done.text
    assert "thirteen" in (tmp_path / "1" / "traceback.txt").read_text()
    table = (tmp_path / "report" / "report.md").read_text()
    assert "2 finished, 2 failed, 1 pruned" in table
    again = sweep(tmp_path, "seed=1,13,14,15,2,3")
    assert again.codes == [1], again.text
    assert starts(tmp_path) == [1, 2, 2, 2, 1, 1]
    other = sweep(tmp_path, "seed=7")
    assert other.codes == [1], other.text
    assert "holds another run (seed=1); choose another hydra.sweep.dir" in other.text
    assert starts(tmp_path)[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launcher_runs_all(launcher, tmp_path):
    """Two at a time or all at once; on submitit, where each run has a process, one is killed."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    last = 16 if launcher == "submitit_local" else 13
    done = started(tmp_path, f"seed=1,14,{last}", f"hydra/launcher={launcher}")
    assert done.returncode == 1, done.stderr
    assert states(tmp_path) == {"0": "finished", "1": "failed", "2": "failed"}
    if last == 16:
        assert re.search(r"2: failed, job \d+ ended without a result", done.stdout)
        again = started(tmp_path, f"seed=1,14,{last}", f"hydra/launcher={launcher}")
        assert states(tmp_path)["2"] == "finished", again.stderr
        assert starts(tmp_path)[0] == 1


@pytest.mark.slow
def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(tmp_path):
    pytest.importorskip("optuna")
    straight = sweep(tmp_path / "straight", *SEARCH, "hydra.sweeper.n_trials=4")
    assert straight.codes == [0], straight.text
    broken = sweep(tmp_path / "broken", *SEARCH, "hydra.sweeper.n_trials=2", "seed=16")
    assert broken.codes == [-9]  # in its first trial
    for trials in (2, 4):
        again = sweep(tmp_path / "broken", *SEARCH, f"hydra.sweeper.n_trials={trials}", "seed=16")
        assert again.codes == [0], again.text
    asked = {
        name: [
            json.loads(p.read_text())["objective"] for p in sorted((tmp_path / name).glob("*/status.json"))
        ]
        for name in ("straight", "broken")
    }
    assert asked["straight"] == asked["broken"]
    assert len(set(asked["straight"])) == 4
    assert starts(tmp_path / "broken") == [2, 1, 1, 1]


@pytest.mark.slow
def test_a_search_needs_an_objective_and_something_to_search(tmp_path):
    pytest.importorskip("optuna")
    assert "objective=" in sweep(tmp_path, *SEARCH[:1], "seed=1,2").text
    assert "something to search" in sweep(tmp_path, *SEARCH[:2]).text


def expected_experiment(name: str) -> list[str]:
    """The experiment that the sweep's own comment starts it with."""
    text = (CONF / "sweep" / f"{name}.yaml").read_text()
    (line,) = re.findall(r"^# +python (.*)$", text, re.M)
    words = [w for w in line.split()[1:] if not w.startswith(("init", "sweep="))]
    return [line.split()[0].removesuffix(".py"), *words]


@pytest.mark.heavy
@pytest.mark.parametrize("name", SWEEPS)
def test_every_run_of_a_ready_sweep_composes(name):
    config, *overrides = expected_experiment(name)
    cfg = compose(*overrides, f"sweep={name}", config=config)
    params = OmegaConf.to_container(cfg.hydra.sweeper.params, resolve=True)
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    swept = [o for o in parsed if o.is_sweep_override()]
    assert swept and cfg.hydra.mode.name == "MULTIRUN"
    if cfg.objective and "digits" not in cfg.objective:
        assert cfg.objective in cfg.expected
    fixed = [
        ("++" if o.is_force_add() else "") + f"{o.key_or_group}={o.get_value_element_as_str()}"
        for o in parsed
        if o not in swept
    ]
    for o in swept:
        values = [*o.sweep_string_iterator()] if o.is_discrete_sweep() else [str(o.value().start)]
        prefix = "++" if o.is_force_add() else ""
        for number, value in enumerate(values):
            if number == 0 or "." not in o.key_or_group:  # another option of a group is another composition
                run = compose(*overrides, *fixed, f"{prefix}{o.key_or_group}={value}", config=config)
            else:
                OmegaConf.update(run, o.key_or_group, yaml.safe_load(value))
            job = OmegaConf.masked_copy(run, [k for k in run if k != "hydra"])
            OmegaConf.resolve(job)
            check_config(job)


@pytest.mark.parametrize("path", WANDB, ids=[path.stem for path in WANDB])
def test_an_agent_of_wandb_starts_a_run_that_composes(path, monkeypatch):
    """The arguments as wandb's own agent makes them."""
    agent = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    content = yaml.safe_load(path.read_text())
    assert (CONF.parent / content["program"]).is_file()
    chosen = {}
    for key, parameter in content["parameters"].items():
        chosen[key] = {"value": parameter.get("value", parameter.get("values", [parameter.get("min")])[0])}
    flags = agent.create_sweep_command_args({"args": chosen})
    assert "${args_no_hyphens}" in content["command"]
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    folder = [a for a in flags["args_no_hyphens"] if a.startswith("hydra.run.dir=")]
    assert folder == ["hydra.run.dir=runs/wandb_sweep/${oc.env:WANDB_RUN_ID}"]
    cfg = compose(*flags["args_no_hyphens"])
    assert cfg.hydra.run.dir == "runs/wandb_sweep/abc"
    assert cfg.logger.wandb.mode == "online"
    metric = content["metric"]["name"].removesuffix(".max")
    assert any(metric.startswith(f"val/{source.name}/") for source in cfg.sources.values() if source)


@pytest.mark.slow
def test_train_is_searched_and_pruned(tmp_path):
    """train.py itself: a pruner that gives up every trial at its second validation."""
    pytest.importorskip("optuna")
    left_out = [f"sources.{task}=null" for task in TASKS if task != "semantic_segmentation"]
    metric = "val/digits/semantic_segmentation/mIoU"
    search = [
        "hydra/sweeper=optuna",
        "callbacks=[default,pruning]",
        f"objective={metric}",
        "optimizer.lr=tag(log,interval(1e-4,1e-2))",
        "hydra.sweeper.n_trials=3",
        "~hydra.sweeper.pruner",
        "+hydra.sweeper.pruner={_target_:optuna.pruners.ThresholdPruner,lower:0.9,n_warmup_steps:3}",
    ]
    steps = ["trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.accumulate_grad_batches=1"]
    quick = [o for o in QUICK if not o.startswith(("trainer.max_steps", "trainer.val_check"))]
    small = [*NETWORK, *quick, *resolution(56, 56), *batches(2, "semantic_segmentation"), *left_out]
    folders = [f"hydra.sweep.dir={tmp_path}", *digits(tmp_path / "scenes")]
    done = forked("train.py", "-m", *folders, *small, *search, *steps, out=tmp_path)
    assert done.codes == [0], done.text[-3000:]
    assert list(states(tmp_path).values()) == ["pruned"] * 3
    import optuna

    (study,) = optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/optuna.db")
    trials = optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{tmp_path}/optuna.db").trials
    assert [sorted(t.intermediate_values) for t in trials] == [[2, 4]] * 3
    assert [t.value for t in trials] == [t.intermediate_values[4] for t in trials]
    assert metric in (tmp_path / "report" / "report.csv").read_text()
