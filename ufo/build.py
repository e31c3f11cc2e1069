"""From a composed Hydra config to objects: model, data, callbacks, loggers, trainer.

The only place that knows both the config's names and the code's; the entry points call these in turn.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import get_class, instantiate
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor, ProgressBar
from lightning.pytorch.strategies import DeepSpeedStrategy
from omegaconf import DictConfig, OmegaConf

from ufo.backbones import lora
from ufo.callbacks.final_validation import FinalValidation
from ufo.callbacks.loggers import forgiving
from ufo.callbacks.nonfinite import NonFinite
from ufo.callbacks.progress import Progress
from ufo.callbacks.run_info import RunInfo
from ufo.checkpoints.load import prepare_training
from ufo.checkpoints.recipes import make_tasks
from ufo.command_line import as_written
from ufo.data.module import UFODataModule
from ufo.head.strategy import check_settings
from ufo.metrics.base import MetricCallback, metrics_of, scoring
from ufo.model import UFO
from ufo.modules.base import UFOModule
from ufo.modules.precision import chosen_precision
from ufo.modules.recording import Graphs, check_recorded, check_recording
from ufo.modules.strategies import FSDP, for_evaluation
from ufo.ops.nearest import instead
from ufo.provenance import settings_of, trace
from ufo.runs.quiet import quieten

log = logging.getLogger(__name__)


def build_model(cfg: DictConfig) -> UFO:
    """A model with random weights, or those of `backbone.network.pretrained`."""
    tokenizer = instantiate(cfg.backbone.tokenizer)
    backbone = instantiate(cfg.backbone.network, vocab_size=len(tokenizer))
    model = UFO(
        backbone,
        tokenizer,
        make_tasks(cfg),
        loss_weights=dict(cfg.loss_weights),
        mask_points=cfg.mask_points,
    )
    prepare_training(model, instantiate(cfg.lora), cfg.backbone.network.get("pretrained"))
    return model


def class_names(data: UFODataModule, model: UFO) -> dict[str, tuple[str, ...]]:
    """The class names of each task: what `predict` asks for if the caller names none.

    Those of all training sources of the task, in their order. If one prompt cannot hold them all, those of
    the source with the greatest weight, and the log says so.
    """
    names: dict[str, tuple[str, ...]] = {}
    sources = [source for source in data.sources if source.has("train")]
    for task in dict.fromkeys(source.task for source in sources):
        own = {s.name: (s.weight, s.data("train").classes) for s in sources if s.task == task}
        names[task] = _distinct(model, [name for _, classes in own.values() for name in classes])
        prompt = model.task(task).prompt(names[task], "")
        if len(own) > 1 and len(model.tokenizer.encode([prompt])[0]) > model.prompt_limit:
            kept = max(own, key=lambda name: own[name][0])
            names[task] = own[kept][1]
            log.warning(
                "%s: one prompt cannot hold the classes of %s; without --classes the model is asked for "
                "the %d of %s", task, " and ".join(own), len(names[task]), kept
            )  # fmt: skip
    return names


def _distinct(model: UFO, names: Sequence[str]) -> tuple[str, ...]:
    """Names that differ for the tokenizer: of those that are the same text the first."""
    written = model.tokenizer.encode(list(names)) if names else []
    first: dict[tuple[int, ...], str] = {}
    for name, tokens in zip(names, written, strict=True):
        first.setdefault(tuple(tokens), name)
    return tuple(first.values())


def build_sources(cfg: DictConfig) -> dict[str, Any]:
    """The sources of the mixture; data sets are read only when first used."""
    sources = {}
    for key, source in cfg.sources.items():
        if source is None:
            continue
        values = {k: v for k, v in source.items() if k not in ("dataset", "transform")}
        sources[key] = instantiate(
            {"_target_": "ufo.data.source.Source", **values},
            train=instantiate(source.dataset.get("train")),
            val=instantiate(source.dataset.get("val")),
            train_transform=instantiate(source.transform.train),
            val_transform=instantiate(source.transform.val),
        )
    return sources


def build_data(cfg: DictConfig) -> UFODataModule:
    """The data module of the mixture."""
    return UFODataModule(
        build_sources(cfg),
        seed=cfg.seed,
        num_workers=cfg.num_workers,
        temperature=cfg.mixing_temperature,
        prepare=[instantiate(p) for p in cfg.prepare.values() if p],
    )


def build_module(cfg: DictConfig, model: UFO) -> UFOModule:
    """The LightningModule that trains `model` as the config says."""
    return instantiate(cfg.module)(
        model=model,
        optimizer=instantiate(cfg.optimizer, _convert_="all"),  # it is saved: plain lists, no ListConfig
        schedule=instantiate(cfg.schedule) if cfg.schedule else None,
        ramp=instantiate(cfg.backbone.ramp),
        compile=cfg.compile,
        cuda_graphs=cfg.cuda_graphs,
    )


def evaluation_module(model: UFO, cuda_graphs: Graphs = "auto") -> UFOModule:
    """A LightningModule that only evaluates: it has no optimizer, whatever strategy trained the model."""
    return UFOModule(model, cuda_graphs=cuda_graphs)


FIXED = ("image_size", "num_bins", "mask_tokens")
"""What a model has learned to be: settings of tasks that an evaluation cannot change."""


def check_sizes(cfg: DictConfig, model: UFO) -> None:
    """Raises ValueError where the config resizes images to another size than the model was trained at."""
    for name, task in cfg.tasks.items():
        if task and name in model.tasks and task.image_size != model.tasks[name].image_size:
            trained = model.tasks[name].image_size
            raise ValueError(
                f"the checkpoint does {name} at {trained} px and the config gives {task.image_size}; "
                f"choose the resolution= that has {trained}"
            )


def apply_tasks(cfg: DictConfig, model: UFO) -> None:
    """Let what the experiment, a sweep and the command line say of tasks win over the checkpoint's settings.

    What conf/task and the mixtures say does not: another experiment may have trained the checkpoint.
    Raises ValueError for a setting that the model has learned and that cannot be another one, and where the
    settings cannot be decoded together.
    """
    from hydra.core.hydra_config import HydraConfig

    job = HydraConfig.get()
    overrides = as_written(job.overrides.hydra) + as_written(job.overrides.task)
    setters = trace(job.job.config_name or "", overrides, job.runtime.config_sources)
    told = settings_of(setters, "tasks", "experiment", "sweep", "")
    chosen = any(override.lstrip("+").startswith("resolution=") for override in overrides)
    kinds = ("experiment", "sweep", "", *(["resolution"] if chosen else []))
    bins = settings_of(setters, "resolution", *kinds)  # resolution.bins.TASK
    told |= {f"tasks.{key.rpartition('.')[2]}.num_bins": setter for key, setter in bins.items()}
    for key, setter in told.items():
        _, name, setting = key.split(".", 2)
        task, settings = model.tasks.get(name), cfg.tasks.get(name)
        if task is None or not settings or setting not in task.settings:
            continue
        value, learned = settings[setting], task.settings[setting]
        if setting in FIXED and value != learned:
            raise ValueError(
                f"the checkpoint has learned {key}={learned}, which an evaluation cannot change to {value}; "
                f"leave it out ({setter.place})"
            )
        setattr(task, setting, value)
    for task in model.tasks.values():
        grid = model.grid(task, task.image_size, task.image_size)
        check_settings(task, len(model.tokenizer), None if grid is None else grid.references.shape[1])


def build_trainer(cfg: DictConfig, evaluates: bool = False, **overrides: Any) -> L.Trainer:
    """The trainer, with the config's callbacks and loggers unless `overrides` names others.

    One that only `evaluates` spreads as its strategy can without an optimizer. Raises ValueError for
    `cuda_graphs=true` or `all` where nothing can be recorded.
    """
    quieten()
    arguments = {"callbacks": None, "logger": None, **overrides}
    if evaluates:
        cfg = copy.deepcopy(cfg)
        strategy = for_evaluation(cfg.trainer.get("strategy", "auto"))
        OmegaConf.update(cfg, "trainer.strategy", strategy, force_add=True)
    if arguments["logger"] is None:
        arguments["logger"] = [forgiving(instantiate(c)) for c in cfg.logger.values() if c] or False
    if arguments["callbacks"] is None:
        arguments["callbacks"] = build_callbacks(cfg, with_loggers=bool(arguments["logger"]))
    if not evaluates:
        arguments["callbacks"] = [*arguments["callbacks"], FinalValidation()]
    settings = cfg.trainer
    if not any(isinstance(callback, Checkpoint) for callback in arguments["callbacks"]):
        # else Lightning adds a callback of its own
        arguments["enable_checkpointing"] = settings.get("enable_checkpointing", False)
    arguments["precision"] = chosen_precision(settings.get("precision"), settings.get("accelerator", "auto"))
    # what is wrong with the data is found later, and is then the only line that a user sees
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    lightning.setLevel(logging.WARNING)
    try:
        trainer: L.Trainer = instantiate(cfg.trainer, **arguments)
    finally:
        lightning.setLevel(level)
    graphs = cfg.get("cuda_graphs", False)
    check_recording(graphs, trainer)
    if graphs == "all" and not evaluates:
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        check_recorded(cfg.compile, cfg.backbone.network.get("gradient_checkpointing", False), scaled)
    return trainer


def shrink_base(cfg: DictConfig, model: UFO, trainer: L.Trainer) -> None:
    """Put the base of a LoRA into four bits where `lora.bits` says so, on the trainer's device.

    Raises ValueError where that does not go together with the rest of the config.
    """
    if not (model.backbone.lora or {}).get("bits"):
        return
    lora.check_packing(cfg.compile, isinstance(trainer.strategy, (FSDP, DeepSpeedStrategy)))
    lora.shrink_base(model.backbone, trainer.strategy.root_device)


def choose_kernels(cfg: DictConfig, model: UFO, trainer: L.Trainer) -> None:
    """Take the kernels that the config asks for. Raises ValueError where device or precision have none."""
    if not cfg.get("triton_attention", False):
        return
    model.use_triton_attention(trainer.strategy.root_device)
    if (precision := str(trainer.precision)).startswith(("32", "64")):
        raise ValueError(
            f"triton_attention=true computes in half precision, not in trainer.precision={precision}; set "
            "trainer.precision=bf16-mixed, or leave it out"
        )


SWITCHES = {"enable_progress_bar": ProgressBar, "enable_checkpointing": Checkpoint}
"""Lightning refuses the callbacks that these settings of its trainer switch off."""


def build_callbacks(cfg: DictConfig, with_loggers: bool = True) -> list[L.Callback]:
    """All callbacks; without loggers those that refuse to run without one are left out."""
    off = tuple(kind for name, kind in SWITCHES.items() if cfg.trainer.get(name) is False)
    callbacks = [c for c in map(instantiate, filter(None, cfg.callbacks.values())) if not isinstance(c, off)]
    for callback in callbacks:
        if isinstance(callback, RunInfo):
            config: Any = OmegaConf.to_container(cfg, resolve=True)
            callback.config = config
    for metric in metrics_of(callbacks):
        metric.check()
    _name_unscored(cfg, callbacks)
    check_objective(cfg, callbacks)
    return [c for c in callbacks if with_loggers or not isinstance(c, LearningRateMonitor)]


def _name_unscored(cfg: DictConfig, callbacks: list[L.Callback]) -> None:
    """Say once, before training, which sources are evaluated and scored by no metric."""
    evaluated = [source for source in cfg.sources.values() if source and source.dataset.get("val")]
    unscored = [source.name for source in evaluated if not scoring(source.task, callbacks)]
    if unscored:
        log.warning(
            "No metric scores %s: it will have no number; add a metric of conf/metric/ or one of your own.",
            ", ".join(unscored),
        )


def check_objective(cfg: DictConfig, callbacks: list[L.Callback]) -> None:
    """Raises ValueError where no metric of its source gives the number that a sweep compares."""
    objective = str(cfg.objective or "")
    source = next((s for s in cfg.sources.values() if s and objective.startswith(f"val/{s.name}/")), None)
    if source is None:
        return
    number = objective.removeprefix(f"val/{source.name}/").removesuffix(".max")
    metrics = scoring(source.task, callbacks, beside=True)
    given = [metric.given(("a class",)) for metric in metrics]
    names = sorted({name for numbers in given for name in numbers if "/" not in name})
    if "/" in number or number in names or not all(given):  # of one class, or only the data can tell
        return
    if not metrics:
        raise ValueError(f"objective={objective}: no metric scores {source.name}; choose another source")
    raise ValueError(
        f"objective={objective}: no metric gives {source.name} a number '{number}'; "
        f"{instead(number, names, 'there are')}"
    )


def metric_callbacks(cfg: DictConfig) -> list[MetricCallback]:
    """The metrics among the config's callbacks; the others may need a Hydra job around them."""
    chosen = [c for c in cfg.callbacks.values() if c and issubclass(get_class(c._target_), MetricCallback)]
    return [instantiate(c) for c in chosen]


def progress_bar() -> L.Callback:
    """The bar of a command that prints its own results."""
    return Progress(refresh_rate=5)


def check_trained(trainer: L.Trainer) -> None:
    """Raises ValueError if no step was made, OSError if the run's last checkpoint could not be written."""
    if not trainer.global_step:
        raise ValueError(
            "no step was trained, so there is no model; look at trainer.max_steps, "
            "trainer.limit_train_batches and trainer.accumulate_grad_batches"
        )
    if failed := getattr(trainer.strategy.checkpoint_io, "failed", None):
        raise OSError(f"{failed} could not be written; free space and start the same command again")


def check_last_step(trainer: L.Trainer) -> None:
    """Raises NonFiniteError if the last step of a training had no finite gradient and was left out."""
    callbacks: list[L.Callback] = getattr(trainer, "callbacks", [])  # Lightning adds them when it is built
    for callback in callbacks:
        if isinstance(callback, NonFinite):
            callback.check_end(trainer)


def objective(cfg: DictConfig, measured: Mapping[str, float | None]) -> float | None:
    """The last value of the metric `objective`, which a sweep compares; None if the config names none."""
    if cfg.objective is None:
        return None
    known = {name: value for name, value in measured.items() if value is not None}
    if cfg.objective not in known:
        raise ValueError(
            f"no metric is called objective={cfg.objective}; there are: {', '.join(sorted(known))}"
        )
    return float(known[cfg.objective])


def output_folder() -> Path:
    """Where Hydra put this run."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def seed_everything(cfg: DictConfig) -> None:
    """Seed initial weights and drop-out; data follow from the mixer's own generator."""
    L.seed_everything(cfg.seed, workers=False, verbose=False)
    torch.use_deterministic_algorithms(cfg.deterministic, warn_only=True)
