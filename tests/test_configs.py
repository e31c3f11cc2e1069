"""Every option of every config group composes, fits the code it names, and every experiment trains."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from commands import (
    CONF,
    NETWORK,
    QUICK,
    SCENES,
    TASKS,
    batches,
    compose,
    digits,
    metrics,
    options,
    resolution,
    run,
)
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object, instantiate
from official_files import write_official
from omegaconf import DictConfig, OmegaConf
from sharing import shared
from torchvision import tv_tensors

from ufo.checkpoints import recipes
from ufo.data.digits import generate
from ufo.inference.batches import network_input

# `own` has the sources that a user adds: tests/own
EXPERIMENTS = [name for name in options("experiment") if name != "own"]
UFO_VIT = [name for name in EXPERIMENTS if name.startswith("ufo_vit")]
# those that stand for published numbers; the first stage of instruction tuning has none of its own
OWN = [name for name in EXPERIMENTS if "digits" in name or "tiny" in name]
OFFICIAL = [n for n in EXPERIMENTS if n not in OWN and n != "internvl2_5_8b_instruction_448"]
DIGITS = [name for name in EXPERIMENTS if name.startswith("digits")]
GROUPS = ["backbone", "mixture", "resolution", "lora", "optimizer", "schedule", "trainer", "logger", "paths"]
COMBINATIONS = [
    *(
        (f"backbone=ufo_vit_{size}", "mixture=five_task", "resolution='1120'", "lora=none", "logger=wandb")
        for size in ("base", "large", "huge")
    ),
    ("mixture=digits_shifted", "optimizer=adamw", "schedule=cosine", "logger=[csv,tensorboard,wandb]"),
    ("experiment=digits", "callbacks=[default,ema,scores]", "logger=none"),
    ("experiment=ufo_vit_b_multi", "backbone=ufo_vit_tiny", "logger=[csv]"),
    ("callbacks=[metrics,progress]", "resolution='1120'"),
]
SHRUNK = [
    *NETWORK,
    "backbone.network.patch_size=8",
    "backbone.network.window_size=2",
    "++backbone.network.max_positions=1600",  # 150 classes letter by letter
    "++backbone.tokenizer.max_prompt_length=1600",
    "backbone.tokenizer.name_or_path=${paths.conf}/vocab/digits.txt",
    *resolution(32, 16),
]
RESIZED: set[str] = set()
# what an experiment sets itself must fit the miniature network, too
FITTED = {"digits_encoder": ["backbone.network.new_layers=0", "backbone.network.mean_layers=[0,1]"]}


@pytest.fixture(scope="session")
def official(tmp_path_factory) -> Path:
    return shared(tmp_path_factory, "official", write_official)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Overrides for tiny digit scenes as an experiment wants them; generated once."""

    def overrides(name: str) -> list[str]:
        variant = "shifted" if "shifted" in name else "standard"

        def draw(out: Path) -> None:
            generate(out, **SCENES, variant=variant, progress=False)

        return digits(shared(tmp_path_factory, f"digits_{variant}", draw))

    return overrides


@pytest.fixture(autouse=True)
def no_hydra_left():
    yield
    assert not GlobalHydra.instance().is_initialized()


def nodes(value: object, at: str = "") -> Iterator[tuple[str, dict]]:
    """Every node that names a class or function, with its place."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield at, value
        for key, child in value.items():
            yield from nodes(child, f"{at}.{key}")


@functools.cache
def signature(target: str) -> inspect.Signature:
    return inspect.signature(get_object(target))


def check(cfg: DictConfig, *only: str) -> None:
    """All interpolations resolve, all targets exist and take the arguments that they are given.

    `only` names what one option can change, where many are tried.
    """
    groups = [key for key in only or cfg if key != "hydra" and OmegaConf.is_config(cfg[key])]
    content = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in groups}
    for at, node in nodes(content):
        arguments = {k: v for k, v in node.items() if not (k.startswith("_") and k.endswith("_"))}
        try:
            signature(node["_target_"]).bind_partial(**arguments)
        except TypeError as error:
            pytest.fail(f"{at}: {node['_target_']}: {error}")


@pytest.mark.parametrize("group, option", [(g, o) for g in GROUPS for o in options(g)])
def test_an_option_composes_alone(group, option):
    if {group: option} in yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]:
        pytest.skip("the default: every other composition has it")
    check(compose(f"{group}='{option}'"))


def test_the_options_of_tasks_data_sets_and_transforms_fit_their_code():
    added = [f"+{g}@probe.{g}.{o}={o}" for g in ("task", "dataset") for o in options(g)]
    cfg = compose(*added)
    assert set(cfg.probe.task) >= set(cfg.tasks)
    check(cfg)
    for option in options("transform"):
        check(compose(f"transform@sources.detection.transform={option}"), "sources")


@pytest.mark.parametrize("overrides", COMBINATIONS, ids=" ".join)
def test_groups_compose_freely(overrides):
    check(compose(*overrides))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_fits_its_code_and_says_what_it_is(name):
    cfg = compose(f"experiment={name}")
    assert cfg.name == name
    stated = [numbers for numbers in (cfg.expected, (cfg.released or {}).get("expected")) if numbers]
    assert bool(stated) == (name in OFFICIAL)  # those stand for published numbers
    evaluated = {source.name for source in cfg.sources.values() if source}
    for metric, value in (pair for numbers in stated for pair in numbers.items()):
        stage, *source, _ = metric.split("/")
        assert stage == "val" and "/".join(source) in evaluated, metric
        assert 0 < value < 2
    check(cfg)


@pytest.mark.parametrize("name", UFO_VIT)
def test_a_published_ufo_vit_starts_from_sam(name):
    """And from BERT's embeddings; for the widest there is no other BERT than the released one."""
    init = compose(f"experiment={name}").init
    wide = name == "ufo_vit_h_multi"
    assert (init.sam == "auto" and init.bert.endswith("bert_embed_huge.pt")) if wide else init == "sam"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_one_image_is_resized_as_those_of_the_evaluation(name):
    """Of an odd size, for every task of the experiment."""
    cfg = compose(f"experiment={name}")
    generator = torch.Generator().manual_seed(0)
    pixels = tv_tensors.Image(torch.randint(256, (3, 37, 53), generator=generator).byte())
    evaluated = [source for source in cfg.sources.values() if source and source.dataset.get("val")]
    assert evaluated
    resizing = recipes.resizing(cfg)
    for source in evaluated:
        task = {**recipes.resolved(cfg.tasks[source.task]), "image_size": 24, **resizing[source.task]}
        transform = {**recipes.resolved(source.transform.val), "size": 24}
        # many experiments have the same: each is tried once in a process
        if (same := json.dumps([task, transform])) in RESIZED:
            continue
        [seen] = network_input(pixels, instantiate(task))  # as `predict` gives it to the model
        expected = instantiate(transform)({"image": pixels})["image"]
        assert torch.equal(seen, expected.as_subclass(torch.Tensor)), source.name
        RESIZED.add(same)


def test_evaluation_composes():
    cfg = compose("experiment=digits", "ckpt=somewhere", config="evaluate")
    assert cfg.ckpt == "somewhere"
    check(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIGITS)
def test_a_digits_experiment_trains_and_validates(name, scenes, tmp_path):
    cfg = compose(f"experiment={name}")
    sources = [key for key, source in cfg.sources.items() if source]
    small = [*NETWORK, *QUICK, *resolution(56, 56), *scenes(name), *batches(2, *sources, evaluated=8)]
    if "shapes" in cfg.prepare:
        shapes = {"out": tmp_path / "shapes", "train": 8, "val": 4}
        small += [f"prepare.shapes.{key}={value}" for key, value in shapes.items()]
    run("train.py", f"experiment={name}", "init=null", *small, *FITTED.get(name, []), out=tmp_path)
    check_run(tmp_path, set() if name == "digits_encoder" else set(sources))


@pytest.mark.slow
@pytest.mark.parametrize("name", UFO_VIT)
def test_an_official_experiment_trains_and_validates(name, official, tmp_path):
    cfg = compose(f"experiment={name}")
    sources = [key for key, source in cfg.sources.items() if source]
    left_out = tuple(f"tasks.{task}." for task in TASKS if task not in cfg.tasks)
    quick = [override for override in QUICK if not override.startswith(left_out)]
    small = [*SHRUNK, *quick, f"paths.data={official}", *batches(2, *sources, evaluated=8)]
    run("train.py", f"experiment={name}", "init=null", *small, out=tmp_path)
    check_run(tmp_path, set(sources), set(cfg.expected))


def check_run(folder: Path, validated: set[str], expected: set[str] = frozenset()) -> None:
    """Two steps were logged, every source was validated, the model was saved."""
    assert (folder / "model" / "model.safetensors").is_file()
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    found = metrics(folder)
    assert all(math.isfinite(value) for value in found.values())
    assert expected <= found.keys()
    assert len({name.rsplit("/", 1)[0] for name in found}) == len(validated)
    losses = metrics(folder, "train/")
    assert losses and all(math.isfinite(value) for value in losses.values())


def test_yaml_files_fit_on_a_screen():
    long = {
        str(path.relative_to(CONF)): lines
        for path in sorted(CONF.rglob("*.yaml"))
        if (lines := len(path.read_text().splitlines())) > 40
    }
    assert {Path(name).parent.name for name in long} <= {"mixture"}, long


# ---------------------------------------------------------------- nothing is said twice


def settings(value: object, at: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a yaml with its key."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from settings(child, f"{at}.{key}")
    elif value != {}:
        yield at, str(value)


def test_few_settings_stand_in_more_than_one_experiment():
    """Group choices count; names and published numbers are each experiment's own."""
    where: dict[tuple[str, str], set[Path]] = {}
    for path in (CONF / "experiment").rglob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        chosen = [entry for entry in content.pop("defaults", []) if isinstance(entry, dict)]
        own = {key: value for key, value in content.items() if key not in ("name", "expected", "released")}
        for setting in (*settings(own), *(pair for entry in chosen for pair in settings(entry))):
            where.setdefault(setting, set()).add(path)
    repeated = {setting: len(paths) for setting, paths in where.items() if len(paths) > 1}
    assert sum(repeated.values()) < 150, sorted(repeated, key=repeated.get)


def test_no_yaml_repeats_a_default_of_the_code():
    repeated = []
    for path in sorted(CONF.rglob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        found = list(nodes(content))
        if path.parent.name == "source":
            found.append(("", {**content, "_target_": "ufo.data.source.Source"}))
        for at, node in found:
            if not node["_target_"].startswith(("ufo.", "lightning.", "torch.", "optuna.")):
                continue
            parameters = inspect.signature(get_object(node["_target_"])).parameters
            for key, value in node.items():
                default = parameters[key].default if key in parameters else inspect.Parameter.empty
                default = list(default) if isinstance(default, tuple) else default
                if default is not inspect.Parameter.empty and default == value:
                    repeated.append(f"{path.relative_to(CONF)}{at}.{key}={value}")
    assert not repeated


def test_every_source_is_added_as_a_users_own():
    """`+source=[...]` beside the built-in ones, of which each keeps its key."""
    names = options("source")
    lacking = set(options("task")) - set(compose("mixture=digits_mllm").tasks)
    tasks = [f"+task@tasks.{task}={task}" for task in sorted(lacking)]
    cfg = compose("mixture=digits_mllm", *tasks, f"+source=[{','.join(names)}]")
    assert set(names) < set(cfg.sources) and "detection" in cfg.sources
    assert len({cfg.sources[name].name for name in names}) == len(names)
    for name in names:
        source = cfg.sources[name]
        assert source.transform.val.size == cfg.tasks[source.task].image_size, name
    check(cfg)


def test_one_source_of_a_mixture_is_exchanged():
    cfg = compose("mixture=coco_detection", "source@sources.detection=lvis_detection")
    assert cfg.sources.detection.name == "lvis/detection" and cfg.sources.detection.batch_size == 3


def test_former_names_of_transforms_still_compose():
    for former, now in (("plain_detection", "plain"), ("square_caption", "square"), ("vqa", "square")):
        old, new = (compose(f"transform@sources.detection.transform={name}") for name in (former, now))
        assert old.sources.detection.transform == new.sources.detection.transform


def test_arguments_that_no_yaml_sets_are_keys():
    cfg = compose("tasks.detection.top_tokens=3", "trainer.limit_val_batches=2", "lora.train_vision=false")
    assert cfg.tasks.detection.top_tokens == 3 and cfg.trainer.limit_val_batches == 2
    assert cfg.lora.train_vision is False
    with pytest.raises(Exception, match="sede"):  # no argument of any code: Hydra refuses it
        compose("sede=3")
