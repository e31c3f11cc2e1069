"""The published MLLM recipes: their shares, schedules and settings are those of the released configs."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import pytest
from commands import QUICK, compose, options, run
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

from ufo.check import check_config

RECIPES = [name for name in options("experiment") if name.startswith(("internvl2_", "llava1_5"))]
GPUS = 8
# recipe -> iterations per GPU, images per update on eight GPUs, peak learning rate
SCHEDULES = {
    "internvl2_5_8b_multi_448": (300_000, 24, 2e-4),
    "internvl2_5_8b_multi_896": (60_000, 24, 2e-4),
    "internvl2_5_8b_multi_1344": (39_999, 24, 2e-4),
    "internvl2_5_8b_instruction_448": (120_000, 512, 2e-4),
    "internvl2_5_8b_instruction_896": (40_000, 384, 2e-4),
    "internvl2_5_8b_grounding": (20_000, 512, 2e-5),
    "internvl2_5_8b_referring": (20_000, 512, 2e-4),
    "internvl2_5_8b_reasoning": (10_000, 512, 2e-4),
    "llava1_5_7b_instruction": (120_000, 512, 2e-4),
    "llava1_5_7b_grounding": (20_000, 512, 2e-4),
    "llava1_5_7b_referring": (20_000, 512, 2e-4),
    "llava1_5_7b_reasoning": (10_000, 512, 2e-4),
    "internvl2_8b_multi_448": (300_000, 24, 2e-4),
    "internvl2_8b_multi_896": (60_000, 24, 2e-4),
    "internvl2_8b_multi_1344": (39_999, 24, 2e-4),
    "internvl2_8b_instruction": (120_000, 512, 2e-4),
    "internvl2_8b_grounding": (20_000, 512, 2e-4),
    "internvl2_8b_referring": (20_000, 1024, 2e-4),
    "internvl2_8b_reasoning": (10_000, 512, 2e-4),
}
# iterations between validations, as released
INTERVALS = {
    "instruction": 10_000,
    "instruction_448": 10_000,
    "instruction_896": 20_000,
    "multi_448": 20_000,
    "multi_896": 60_000,
    "multi_1344": 39_999,
    "reasoning": 5_000,
    "internvl2_5_8b_grounding": 20_000,
    "internvl2_8b_grounding": 5_000,
    "llava1_5_7b_grounding": 5_000,
    "internvl2_5_8b_referring": 20_000,
    "internvl2_8b_referring": 20_000,
    "llava1_5_7b_referring": 5_000,
}
DET, INS, SEM = "detection", "instance_segmentation", "semantic_segmentation"
RES, REC, REASON = "referring_segmentation", "grounding", "reasoning_segmentation"
FAMILIES = ("internvl2_5_8b", "internvl2_8b", "llava1_5_7b")
SIXTH = dict.fromkeys((DET, INS, SEM, RES, "vqa", REC), "1/6")
SHARES = {
    "internvl2_5_8b_multi_448": {DET: "3/10", INS: "3/10", SEM: "4/30", REC: "4/30", "caption": "4/30"},
    "internvl2_5_8b_multi_896": dict.fromkeys((DET, INS, SEM), "1/3"),
    "internvl2_5_8b_multi_1344": dict.fromkeys((DET, INS), "1/2"),
    "internvl2_5_8b_instruction_448": SIXTH,
    "llava1_5_7b_instruction": SIXTH,
    "internvl2_5_8b_instruction_896": {RES: "3/8", "vqa": "1/4", REC: "3/8"},
    "internvl2_5_8b_reasoning": {SEM: "1/3", RES: "7/24", "vqa": "1/3", REASON: "1/24"},
    "llava1_5_7b_reasoning": {INS: "1/4", SEM: "1/4", RES: "5/24", "vqa": "1/4", REASON: "1/24"},
    **{f"{family}_grounding": {REC: "1"} for family in FAMILIES},
    **{f"{family}_referring": {RES: "1"} for family in FAMILIES},
}
# the same mixtures under another backbone
SHARES |= {
    name.replace("2_5_8b_multi", "2_8b_multi"): s for name, s in SHARES.items() if "2_5_8b_multi" in name
}
SHARES |= {f"internvl2_8b_{name}": SHARES[f"llava1_5_7b_{name}"] for name in ("instruction", "reasoning")}


@cache
def recipe(name: str) -> DictConfig:
    cfg = compose(f"experiment={name}")
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def trained(cfg: DictConfig) -> dict[str, DictConfig]:
    return {key: source for key, source in cfg.sources.items() if source and source.get("weight", 1)}


def test_every_recipe_is_here():
    assert sorted(SCHEDULES) == sorted(SHARES) == RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_intervals_of_validation(name):
    own = INTERVALS.get(name) or INTERVALS[name.split("8b_")[-1].split("7b_")[-1]]
    assert recipe(name).trainer.val_check_interval == own


@pytest.mark.parametrize("name", RECIPES)
def test_all_weights_are_spread_and_a_lora_is_not(name):
    """8 B trained weights in float32 with gradients and moments take 129 GB on every GPU of plain DDP."""
    strategy = recipe(name).trainer.get("strategy")
    if "multi" not in name:
        assert strategy is None
        return
    assert strategy._target_ == "ufo.modules.zero.DeepSpeed" and strategy.stage == (
        3 if "1344" in name else 2
    )


@pytest.mark.parametrize("name", RECIPES)
def test_language_models_say_thirty_tokens(name):
    for task, settings in recipe(name).tasks.items():
        if settings and task != "vqa":
            assert instantiate(settings).max_length == 30, task


@pytest.mark.parametrize("name", RECIPES)
def test_llava_keeps_five_parts_of_a_mask(name):
    settings = recipe(name).tasks.get("reasoning_segmentation")
    if settings:
        assert settings.get("largest_parts", 0) == (5 if name.startswith("llava") else 0)


@pytest.mark.parametrize("name", RECIPES)
def test_schedule_and_batch(name):
    cfg = recipe(name)
    iterations, images, rate = SCHEDULES[name]
    every = cfg.trainer.get("accumulate_grad_batches", 1)
    assert cfg.trainer.max_steps * every == iterations and cfg.optimizer.lr == rate
    assert {every * GPUS * source.batch_size for source in trained(cfg).values()} == {images}
    assert cfg.schedule.warmup_steps == 1000 // every and cfg.optimizer.weight_decay == 0.01
    assert cfg.trainer.val_check_interval <= iterations  # else it would never be evaluated
    check_config(cfg)


@pytest.mark.parametrize("name", RECIPES)
def test_shares_of_the_tasks(name):
    sources = trained(recipe(name)).values()
    total = sum(Fraction(str(source.get("weight", 1))) for source in sources)
    shares: dict[str, Fraction] = {}
    for source in sources:
        shares[source.task] = shares.get(source.task, 0) + Fraction(str(source.get("weight", 1))) / total
    assert shares == {task: Fraction(share) for task, share in SHARES[name].items()}


def test_instruction_tuning_has_24_data_sets():
    cfg = recipe("internvl2_5_8b_instruction_448")
    assert len(trained(cfg)) - 1 + len(cfg.sources.referring.dataset.train.parts) == 24
    assert all(cfg.tasks[task].class_sampling == 1.0 for task in (DET, INS, SEM))


@pytest.mark.parametrize("name", RECIPES)
def test_sizes_and_bins(name):
    cfg = recipe(name)
    side = 336 if name.startswith("llava") else 448
    for settings in cfg.tasks.values():
        if settings:
            assert settings.image_size % side == 0
    if cfg.tasks.get(DET):
        assert cfg.tasks[DET].num_bins == 2 * cfg.tasks[DET].image_size
    if cfg.tasks.get(REC):
        assert cfg.tasks[REC].num_bins == 2 * side


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["internvl2_5_8b_reasoning", "llava1_5_7b_grounding"])
def test_what_is_missing_is_said_in_one_sentence(name, tmp_path, capfd):
    cfg = recipe(name)
    tiny = f"backbone={'internvl' if name.startswith('internvl') else 'llava'}_tiny"
    left_out = tuple(f"tasks.{task}." for task in cfg.resolution if not cfg.tasks.get(task))
    quick = [override for override in QUICK if not override.startswith(left_out)]
    sizes = [f"resolution.{task}=112" for task in cfg.resolution if task != "bins"]
    with pytest.raises(SystemExit):
        settings = [*quick, *sizes, "init=null", "logger=none", f"paths.data={tmp_path / 'data'}"]
        run("train.py", f"experiment={name}", tiny, *settings, out=tmp_path / "run")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and "does not exist: set" in line and str(tmp_path / "data") in line
