"""Numbers, references, files and classes that a run could not use, found from the config alone."""

from __future__ import annotations

import json
import os
import re
from types import SimpleNamespace

import pytest
from commands import compose
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from ufo import build
from ufo.check import check_config, check_source
from ufo.check.data import categories_of, check_files, known_classes, planned
from ufo.check.values import check_values
from ufo.checkpoints import recipes
from ufo.checkpoints.errors import CheckpointError
from ufo.data.digits import CLASSES, SEMANTIC_CLASSES
from ufo.data.errors import DataError


def config(*overrides: str):
    cfg = compose(*overrides)
    return OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])


@pytest.fixture(scope="module")
def default():
    cfg = config()
    check_values(cfg)  # nothing is wrong with it
    return cfg


@pytest.mark.parametrize(
    "key, value",
    [
        ("optimizer.lr", float("nan")),
        ("optimizer.lr", "fast"),
        ("optimizer.lr", 3e38),
        ("optimizer.weight_decay", 1e300),
        ("optimizer.weight_decay", -1),
        ("cuda_graphs", "maybe"),
        ("cuda_graphs", 1),
        ("triton_attention", "maybe"),
        ("compile", 1),
        ("deterministic", None),
        ("strict_init", "maybe"),
        ("backbone.network.gradient_checkpointing", -1),
        ("backbone.network.gradient_checkpointing", "some"),
        ("num_workers", -1),
        ("num_workers", "x"),
        ("trainer.accumulate_grad_batches", 0),
        ("trainer.val_check_interval", 0),
        ("trainer.val_check_interval", 1.5),
        ("trainer.max_steps", 1.5),
        ("trainer.devices", 10_000),
        ("trainer.devices", 0),
        ("trainer.devices", -3),
        ("trainer.precision", "16-mixt"),
        ("trainer.max_epochs", -5),
        ("trainer.num_sanity_val_steps", -5),
        ("sources.caption.batch_size", None),
        ("sources.caption.weight", float("inf")),
        ("schedule.warmup_steps", -5),
        ("schedule.warmup_start", float("nan")),
        ("schedule.max_steps", 0),
        ("trainer.max_steps", -1),
        ("trainer.max_steps", 0),
        ("trainer.check_val_every_n_epoch", -1),
        ("trainer.check_val_every_n_epoch", 1),
        ("callbacks.stall_watch.seconds", float("nan")),
        ("loss_weights.dice", "much"),
        ("backbone.network.depth", 1_000_000),
        ("backbone.network.width", 10**9),
        ("backbone.network.heads", 0),
        ("backbone.network.window_size", -3),
        ("tasks.caption.max_length", 10**8),
        ("tasks.detection.image_size", 10**6),
        ("tasks.detection.samples_per_window", 10**9),
        ("resolution.caption", 10**7),
        ("mask_points", 10**12),
        ("seed", -1),
        ("objective", "val/digits/detecton/mAP"),
        ("objective", "digits/detection/mAP"),
    ],
)
def test_a_value_that_no_run_can_use(default, key, value):
    cfg = default.copy()
    OmegaConf.update(cfg, key, value, force_add=True)
    with pytest.raises(ValueError, match=key.rpartition(".")[2]) as error:
        check_values(cfg)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "key, value",
    [
        ("trainer.val_check_interval", 0.5),
        ("schedule.max_steps", 7),
        ("cuda_graphs", True),
        ("cuda_graphs", "auto"),
        ("cuda_graphs", "all"),
        ("triton_attention", True),
        ("backbone.network.gradient_checkpointing", True),
        ("backbone.network.gradient_checkpointing", 3),
        ("trainer.devices", 1),
        ("trainer.devices", "auto"),
        ("objective", "val/digits/detection/mAP50"),
        ("mixing_temperature", 2),
    ],
)
def test_a_value_that_is_fine(default, key, value):
    cfg = default.copy()
    OmegaConf.update(cfg, key, value, force_add=True)
    check_values(cfg)


def test_a_model_beyond_all_sizes_is_refused_by_every_command():
    """`ufo data check`, `ufo memory` and others compose a config of their own."""
    for wrong in ("backbone.network.depth=1000000", "tasks.caption.max_length=1000000000"):
        with pytest.raises(CheckpointError, match=f"{wrong} is not in "):
            recipes.compose([wrong])


@pytest.mark.parametrize(
    "objective, hint",
    [
        (
            "val/digits/detection/mAP_50",
            "no metric gives digits/detection a number 'mAP_50'; did you mean 'mAP",
        ),
        ("val/digits/caption/mAP", "there are: BLEU-1, .*ROUGE-L"),
        ("val/digits/grounding/acc@0.5", "did you mean 'Acc@0.5'"),
    ],
)
def test_an_objective_that_no_metric_gives(default, objective, hint):
    """Said with the callbacks, before the data are generated or read."""
    cfg = default.copy()
    cfg.objective = objective
    check_values(cfg)
    callbacks = build.metric_callbacks(cfg)
    with pytest.raises(ValueError, match=hint) as error:
        build.check_objective(cfg, callbacks)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(ValueError, match="no metric scores"):
        build.check_objective(cfg, [])


def test_objectives_that_metrics_give(default):
    cfg = default.copy()
    callbacks = build.metric_callbacks(cfg)
    for source, number in [("detection", "mAP_small"), ("caption", "CIDEr"), ("detection", "mAP/seven")]:
        cfg.objective = f"val/digits/{source}/{number}"
        build.check_objective(cfg, callbacks)


def test_a_reference_to_nothing(default):
    cfg = default.copy()
    cfg.mask_points = "${nowhere}"
    with pytest.raises(InterpolationKeyError, match="nowhere"):
        check_values(cfg)


@pytest.mark.parametrize("name", ["sources.captoin.weight=2", "callbacks.picturs.num_images=2"])
def test_settings_of_something_that_is_not_there(name):
    group, wrong, _ = name.split(".")
    with pytest.raises(ValueError, match=f"no {group}.{wrong} .*did you mean"):
        check_config(config(name))


# ---------------------------------------------------------------- files and classes


def test_a_missing_folder_of_the_last_source_is_found_first(tmp_path):
    """Before the others are read; scenes that will be generated are not missing."""
    digits = config(f"paths.data={tmp_path}")
    check_files(digits, training=True)
    digits.sources.grounding.dataset.val.images = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match="nowhere does not exist"):
        check_files(digits, training=True)
    assert not os.listdir(tmp_path)


def test_scenes_that_exist_may_lack_what_their_generator_adds(tmp_path):
    """Scenes drawn by an earlier version have no generalised expressions yet."""
    cfg = config("experiment=digits_generalised", f"prepare.digits.out={tmp_path}")
    (tmp_path / "train").mkdir()
    check_files(cfg, training=True)


def test_classes_of_scenes_that_are_not_there(tmp_path):
    cfg = config(f"paths.data={tmp_path}")
    known = {(data.task, data.split): known_classes(data.options) for data in planned(cfg, training=True)}
    assert known["detection", "train"] == known["instance_segmentation", "val"] == tuple(CLASSES)
    assert known["semantic_segmentation", "train"] == tuple(SEMANTIC_CLASSES)
    assert known["caption", "train"] is None


def test_categories_wherever_they_stand(tmp_path):
    path = tmp_path / "boxes.json"
    names = ("owl", 'the "categories": [1]', "Eule ä")
    listed = [{"id": i, "name": name} for i, name in enumerate(names)]
    note = {"text": '"categories": [{"id": 1, "name": "no"}]', "categories": [3]}
    for content in (
        {"categories": listed, "images": []},
        {"info": note, "images": [{"id": k} for k in range(5000)], "categories": listed},
    ):
        for ascii_only in (True, False):
            path.write_text(json.dumps(content, ensure_ascii=ascii_only), encoding="utf-8")
            assert categories_of(path) == names
    path.write_text('{"images": [], "categories": [{"id": 1, "name": "ow')
    assert categories_of(path) is None


def test_classes_that_are_the_same_tokens(make_model):
    model = make_model()
    check_source(model, "birds", "detection", ("owl", "dog"))
    with pytest.raises(ValueError, match="'owl' and 'Owl' are the same tokens"):
        check_source(model, "birds", "detection", ("owl", "Owl"))
    with pytest.raises(ValueError, match="no pieces for the class '鳥'"):
        check_source(model, "birds", "detection", ("owl", "鳥"))


def test_all_classes_without_pieces_are_named_with_the_cure(make_model):
    names = ["鳥", "owl", *(f"日本 {i}" for i in range(6))]
    with pytest.raises(ValueError, match=r"classes '鳥', '日本 0', .*'日本 3' and 2 more; `ufo data vocab "):
        check_source(make_model(), "birds", "detection", names)


# ---------------------------------------------------------------- tasks at evaluation


@pytest.fixture
def evaluated(monkeypatch, make_model):
    """A model after the tasks' settings of an evaluation were applied."""

    def apply(*overrides: str):
        model = make_model()
        whole = compose(*overrides, "ckpt=x", config="evaluate")
        cfg = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
        found = SimpleNamespace(**{"config_sources": whole.hydra.runtime.config_sources})
        import hydra
        from commands import CONF
        from hydra.core.hydra_config import HydraConfig

        job = SimpleNamespace(
            job=SimpleNamespace(config_name="evaluate"),
            overrides=SimpleNamespace(hydra=[], task=[*overrides, "ckpt=x"]),
            runtime=found,
        )
        monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: job))
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            build.apply_tasks(cfg, model)
        return model.tasks

    return apply


def test_an_experiments_settings_win_over_the_checkpoints(evaluated):
    tasks = evaluated("experiment=ufo_vit_b_multi", "++tasks.caption.num_beams=5")
    assert tasks["detection"].num_beams == 3 and tasks["detection"].length_penalty == 10.0
    assert tasks["caption"].num_beams == 5 and tasks["caption"].length_penalty == 0.7


def test_without_an_experiment_settings_are_the_checkpoints(evaluated):
    tasks = evaluated("mixture=instruction")
    assert tasks["detection"].grid_per_window == 2 and tasks["detection"].num_beams == 1


def test_what_a_model_has_learned_is_refused(evaluated):
    with pytest.raises(ValueError, match=r"has learned tasks\.detection\.num_bins=48, .* to 99"):
        evaluated("++tasks.detection.num_bins=99")
    with pytest.raises(ValueError, match=r"num_bins=48, .* to 28; leave it out \(command line\)"):
        evaluated("resolution.bins.detection=28")
    with pytest.raises(ValueError, match=r"num_bins=48, .* to 56; leave it out \(conf/resolution/112.yaml:"):
        evaluated("resolution='112'")


def test_a_training_without_an_end_needs_a_schedule_of_its_own(default):
    cfg = default.copy()
    cfg.trainer.max_steps = -1
    with pytest.raises(ValueError, match=r"schedule\.max_steps must be .* as trainer\.max_steps=-1 names"):
        check_values(cfg)
    cfg.schedule.max_steps = 100
    check_values(cfg)


@pytest.mark.parametrize(
    ("key", "value", "takes"),
    [
        ("limit_val_batches", "silly", "a whole number of batches, or a share"),
        ("limit_train_batches", 1.5, "a share of all of them from 0.0 to 1.0"),
        ("overfit_batches", True, "a share"),
        ("fast_dev_run", "silly", "a whole number or true or false"),
        ("enable_progress_bar", "silly", "true or false or null"),
        ("num_sanity_val_steps", 0.5, "a whole number of at least -1 or null"),
        ("accelerator", 3, "a text"),
        ("devices", "silly", "or auto"),
        ("deterministic", "silly", "true or false or warn"),
        ("max_epochs", [1], "a whole number"),
        ("val_check_interval", "silly", "a whole number of batches"),
    ],
)
def test_an_option_of_the_trainer_of_a_wrong_type(default, key, value, takes):
    cfg = default.copy()
    OmegaConf.update(cfg, f"trainer.{key}", value, force_add=True)
    with pytest.raises(ValueError, match=rf"^trainer\.{key} must be .*{takes}.*{re.escape(repr(value))}"):
        check_values(cfg)


def test_options_of_the_trainer_that_are_right(default):
    cfg = default.copy()
    settings = {
        **{"limit_val_batches": 0.5, "limit_train_batches": 7, "fast_dev_run": True, "devices": "auto"},
        **{"accelerator": "cpu", "max_time": {"hours": 1}, "deterministic": "warn", "gradient_clip_val": 1},
        **{"strategy": {"_target_": "ufo.modules.strategies.FSDP"}, "num_sanity_val_steps": -1},
        **{"val_check_interval": "00:01:00:00", "precision": "auto", "profiler": "simple"},
    }
    for key, value in settings.items():
        OmegaConf.update(cfg, f"trainer.{key}", value, force_add=True)
    check_values(cfg)


@pytest.mark.parametrize("key", ["trainer.accumulate_grad_batches", "sources.caption.batch_size"])
def test_what_references_compute_with_is_checked_before_they_do(default, key):
    cfg = default.copy()
    OmegaConf.update(cfg, key, "silly")
    with pytest.raises(ValueError, match=f"{key} must be a whole number"):
        check_values(cfg)
