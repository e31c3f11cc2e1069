"""What a run is called follows from what it trains."""

from __future__ import annotations

import pytest
from commands import compose, run

from ufo.runs.naming import LONGEST, check_name, evaluation_folder, own_sources, part_of, run_name

ON, OFF = {"weight": 1.0}, None


@pytest.mark.parametrize(
    ("mixture", "sources", "own", "name"),
    [
        ("digits", {"a": ON, "b": ON}, [], "digits_net"),
        ("own", {"owls": ON}, ["owls"], "owls_net"),
        ("own", {"owls": ON, "land": ON}, ["owls", "land"], "owls_land_net"),
        ("digits", {"a": ON, "owls": ON}, ["owls"], "digits_owls_net"),
        ("digits", {"a": ON, "b": OFF}, [], "digits_a_net"),
        ("digits", {"a": ON, "b": {"weight": 0}}, [], "digits_a_net"),
        ("own", {"owls": ON}, [], "owls_net"),
        ("own", {}, [], "own_net"),
    ],
)
def test_a_name(mixture, sources, own, name):
    assert run_name(mixture, "net", sources, own) == name


def test_a_long_or_strange_name_is_a_folder_all_the_same():
    many = {f"source_number_{i}": ON for i in range(40)}
    names = {run_name("own", "net", many, list(many)[:n]) for n in (39, 40)}
    assert len(names) == 2 and all(len(name) <= LONGEST for name in names)
    assert run_name("own", "net", {"a b/../c": ON}) == "a-b-..-c_net"


@pytest.mark.parametrize("name", ["a/../../x", "..", ".", "", None, "/", "./."])
def test_a_name_that_leads_out_of_the_folder_of_all_runs_is_refused(name):
    with pytest.raises(ValueError, match="is no name of a run") as error:
        check_name(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["birds", "group/birds", "a..b", "...", 5, "/birds"])
def test_a_name_of_a_folder_inside_is_one(name):
    check_name(name)


@pytest.mark.parametrize("many", [(), ("--multirun", "seed=1,2")])
def test_nothing_is_written_under_a_refused_name(tmp_path, capfd, many):
    """The run was made two folders above, wherever that was."""
    runs = (f"paths.runs={tmp_path / 'deep' / 'runs'}", "hydra.run.dir='${paths.runs}/${name}'")
    with pytest.raises(SystemExit) as ended:
        run("train.py", *many, *runs, "name=a/../../x", out=tmp_path / "unused")
    error = capfd.readouterr().err.strip()
    assert ended.value.code == 1 and "name=a/../../x is no name of a run" in error
    assert len(error.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_own_sources_are_read_from_the_command_line():
    given = ["+source=[owls,land]", "seed=1", "++source=more/fish", "source='x'", "+sources.y.weight=2"]
    assert own_sources(given) == ["owls", "land", "fish", "x"]


def test_the_config_has_it():
    assert compose().name == "digits_ufo_vit_tiny"
    assert "caption" not in compose("sources.caption=null").name
    assert "grounding" in compose("sources.caption=null").name
    assert compose("experiment=digits").name == "digits"
    assert compose("name=mine").name == "mine"


@pytest.mark.parametrize(
    ("trainer", "part"),
    [
        ({}, None),
        ({"limit_val_batches": None}, None),
        ({"limit_val_batches": 1.0}, None),
        ({"limit_val_batches": 1}, "trainer.limit_val_batches=1"),
        ({"limit_val_batches": 0.5}, "trainer.limit_val_batches=0.5"),
        ({"fast_dev_run": True}, "trainer.fast_dev_run=True"),
        ({"overfit_batches": 2}, "trainer.overfit_batches=2"),
    ],
)
def test_an_evaluation_of_a_part_has_its_own_folder(trainer, part):
    """It overwrote the numbers of all data."""
    assert part_of(trainer) == part
    assert evaluation_folder(trainer) == ("evaluate" if part is None else "evaluate_part")
    words = [f"trainer.{key}={'null' if value is None else value}" for key, value in trainer.items()]
    cfg = compose("experiment=digits", "ckpt=x", "name=run", "paths.runs=runs", *words, config="evaluate")
    assert cfg.hydra.run.dir == f"runs/run/{evaluation_folder(trainer)}"
