"""Choices follow from facts: more pixels for smaller objects, steps that fit the time; explicit ones win."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml
from commands import CONF

from ufo.own import choose, facts
from ufo.own.facts import Data, Machine, Prompt, data_facts

NUMBERS = yaml.safe_load((CONF / "auto.yaml").read_text(encoding="utf-8"))
SMALL = NUMBERS["small"]
BIRDS = Data("birds", "detection", 20, ("owl", "wren"), 640.0, 0.25, 40, 20, True)
LAPTOP, SERVER = Machine(2), Machine(16, 80.0)


def value(choice: choose.Choice, key: str) -> str:
    return {o.partition("=")[0]: o.partition("=")[2] for o in choice.overrides}[key]


def test_model__is_the_small_one_unless_data_and_machine_are_large():
    many = replace(BIRDS, images=NUMBERS["large"]["images"])
    for data, machine in ((BIRDS, LAPTOP), (BIRDS, SERVER), (many, LAPTOP)):
        chosen, size = choose.model([data], machine, NUMBERS)
        assert value(chosen, "backbone") == SMALL["backbone"]
        assert value(chosen, "init") == SMALL["init"]
        assert float(value(chosen, "optimizer.lr")) == SMALL["lr"]
        assert size is SMALL
    assert value(choose.model([many], SERVER, NUMBERS)[0], "backbone") == NUMBERS["large"]["backbone"]


def test_resolution__grows_as_objects_shrink_and_every_option_is_a_config():
    sides = [choose.resolution([replace(BIRDS, object_part=p)], SMALL, NUMBERS)[1] for p in (0.5, 0.1, 0.01)]
    assert sides[0] < sides[1] <= sides[2] == max(SMALL["resolutions"])
    smallest = choose.resolution([BIRDS, replace(BIRDS, object_part=0.01)], SMALL, NUMBERS)[1]
    assert smallest == sides[2]  # the source with the smallest objects decides
    for size in (SMALL, NUMBERS["large"]):
        assert (CONF / "backbone" / f"{size['backbone']}.yaml").is_file()
        for side in size["resolutions"]:
            assert (CONF / "resolution" / f"{side}.yaml").is_file()


def test_resolution__is_lowered_where_the_time_holds_too_few_steps():
    enough, small = NUMBERS["steps"]["enough"], [replace(BIRDS, object_part=0.09)]
    best = choose.resolution(small, SMALL, NUMBERS)[1]
    lower = max(side for side in SMALL["resolutions"] if side < best)

    def side(**steps: int) -> int:
        return choose.resolution(small, SMALL, NUMBERS, lambda o: steps["best" if o == best else "lower"])[1]

    assert side(best=enough, lower=4 * enough) == best
    assert side(best=enough - 1, lower=4 * enough) == lower
    assert side(best=1, lower=2) == lower  # never enough, but nearer
    chosen, _ = choose.resolution(small, SMALL, NUMBERS, lambda o: 1 if o == best else enough)
    assert f"1 steps of {best} px" in chosen.reason


def test_resolution__stays_where_objects_would_be_smaller_than_a_patch():
    tiny = [replace(BIRDS, object_part=0.9 * SMALL["image_tokens"] / max(SMALL["resolutions"]))]
    assert choose.resolution(tiny, SMALL, NUMBERS, lambda o: 1)[1] == max(SMALL["resolutions"])


def test_resolution__of_data_without_objects_is_not_above_their_images():
    chosen, side = choose.resolution([replace(BIRDS, object_part=None, side=150.0)], SMALL, NUMBERS)
    assert side <= 150 and value(chosen, "resolution") == str(side)


def test_prompt__grows_where_class_names_need_it():
    assert value(choose.prompt({"a": Prompt(90, 1.5, 128)}), "backbone.network.max_positions") == "128"
    grown = int(value(choose.prompt({"a": Prompt(322, 8.0, 128)}), "backbone.network.max_positions"))
    assert grown >= 322


@pytest.mark.parametrize("machine", [LAPTOP, SERVER])
def test_batch__holds_fewer_images_if_they_are_larger_and_never_more_than_there_are(machine):
    sizes = [choose.batch_size([BIRDS], side, machine, NUMBERS)[1] for side in (112, 448, 2240)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] >= 1
    assert choose.batch_size([replace(BIRDS, images=3)], 112, machine, NUMBERS)[1] <= 3


def test_steps__see_twenty_images_often_and_end_in_time():
    few = int(value(choose.steps([BIRDS], 112, 8, LAPTOP, NUMBERS), "trainer.max_steps"))
    assert few * 8 >= NUMBERS["steps"]["passes"] * 20
    slow = int(value(choose.steps([BIRDS], 336, 8, Machine(1), NUMBERS), "trainer.max_steps"))
    cost = NUMBERS["steps"]["seconds_per_megapixel"]["float32"] * 8 * 336**2 / 1e6
    assert slow * cost <= NUMBERS["steps"]["minutes"] * 60
    many = [replace(BIRDS, images=10**6)]
    assert value(choose.steps(many, 112, 8, SERVER, NUMBERS), "trainer.max_steps") == str(
        NUMBERS["steps"]["gpu_most"]
    )


def test_steps__say_what_they_are_limited_by():
    minutes, many = f"than {NUMBERS['steps']['minutes']:g} minutes", [replace(BIRDS, images=10**6)]
    reasons = [
        choose.steps(data, side, 8, machine, NUMBERS).reason
        for data, side, machine in (
            ([BIRDS], 112, SERVER),
            (many, 112, LAPTOP),
            (many, 8, LAPTOP),
            (many, 112, SERVER),
        )
    ]
    assert [minutes in reason for reason in reasons] == [False, True, False, False]
    assert ["for you to choose" in reason for reason in reasons] == [False, False, True, True]


def test_step_seconds__fall_with_threads_but_not_in_proportion_and_with_bfloat16():
    one, two, quick = (
        choose.step_seconds(224, 8, machine, NUMBERS)
        for machine in (Machine(1), Machine(2), Machine(1, bfloat16=True))
    )
    assert one / 2 < two < one and quick < one


def test_machine__has_the_threads_that_compute_and_not_the_cores(monkeypatch):
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert facts.machine().threads == threads


def test_left__explicit_overrides_win_one_by_one():
    chosen, _ = choose.model([BIRDS], LAPTOP, NUMBERS)
    assert choose.left(chosen, {"init"}.__contains__) == [
        f"backbone={SMALL['backbone']}",
        f"optimizer.lr={SMALL['lr']}",
    ]


def test_choices__have_reasons():
    choices = [
        choose.model([BIRDS], LAPTOP, NUMBERS)[0],
        choose.resolution([BIRDS], SMALL, NUMBERS)[0],
        choose.prompt({"birds": Prompt(90, 3.0, 128)}),
        choose.batch_size([BIRDS], 112, LAPTOP, NUMBERS)[0],
        choose.steps([BIRDS], 112, 8, LAPTOP, NUMBERS),
    ]
    assert all(choice.overrides and choice.reason for choice in choices)


class Boxes:
    """Images of 200 x 100 pixels with one box each, of the sides 10 and 40."""

    classes = ("owl",)

    def __len__(self) -> int:
        return 1000

    def target(self, i: int):
        from ufo.types import Target

        return Target(i, (100, 200), boxes=torch.tensor([[5.0, 5.0, 15.0, 45.0]]))


def test_data_facts__measure_objects_of_a_part_of_the_images():
    found = data_facts("birds", "detection", Boxes(), False, 30)
    assert (found.images, found.looked_at, found.objects, found.has_val) == (1000, 30, 30, False)
    assert found.object_part == pytest.approx(10 / 200)
