"""What `train.py` makes of a config, for a Trainer or a loop of one's own, without a command line or a run.

cfg = compose("experiment=digits", "init=weights/ufo_vit_tiny_digits")
model, module, data = build_parts(cfg)
lightning.Trainer(max_steps=100, max_epochs=1).fit(module, data)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ufo import build, places
from ufo.check import check_fit, check_known, check_run
from ufo.checkpoints.load import check_start, initialise
from ufo.command_line import groups, readable, searched, settable
from ufo.data.module import UFODataModule
from ufo.errors import sentence
from ufo.model import UFO
from ufo.modules.base import UFOModule


class Parts(NamedTuple):
    """A training before its Trainer."""

    model: UFO
    module: UFOModule
    data: UFODataModule


def compose(*overrides: str, config: str = "train", folders: Sequence[str | Path] = ()) -> DictConfig:
    """The config of a training for overrides as `train.py` takes them, such as "experiment=digits".

    Hydra's own `compose` does not know what the command line does: arguments of the code without a "+"
    ("trainer.limit_val_batches=2"), paths and `resolution=112` without quotes, the folder of the run. All
    values are resolved: change one that others follow from here, not in the config. Hydra stays as it was.

    Args:
        config: "train" or "evaluate".
        folders: with configs of one's own, as of `--config-dir`: `folders=["mine"]` for "+source=birds".

    Raises ValueError for an override of what there is not.
    """
    running = ["hydra.runtime.cwd=.", "hydra.runtime.output_dir=${hydra.run.dir}"]
    own = [searched(*map(Path, folders))] if folders else []
    written = settable(readable(override, ("resolution",)) for override in overrides)
    try:
        with _own_hydra(), hydra.initialize_config_dir(str(places.conf()), version_base="1.3"):
            cfg = hydra.compose(config, [*running, *own, *written], return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            plain = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
            return cast(DictConfig, OmegaConf.create(OmegaConf.to_container(plain, resolve=True)))
    except HydraException as error:
        raise ValueError(sentence(error, groups())) from error


@contextmanager
def _own_hydra() -> Iterator[None]:
    """A notebook or a program may have a Hydra open, which refuses a second; it is there again afterwards."""
    before, job = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = before, job


def build_parts(cfg: DictConfig) -> Parts:
    """Model, LightningModule and data of a training, ready for `trainer.fit(module, data)`.

    The model starts from `init=`, or from random weights that follow from `seed`, and knows the class names
    of its data. These are generated where they are not there, read, and checked against the model. What
    belongs to a run is the caller's: Trainer, callbacks, loggers, resuming (`fit(..., ckpt_path=)`); so
    `trainer=`, `callbacks=`, `logger=`, `resume=` of the config change nothing. The four bits of
    `lora=qlora` need `ufo.build.shrink_base` with the Trainer.

    Raises ValueError, DataError or CheckpointError where `train.py` ends with that sentence.
    """
    check_run(cfg, training=True)
    build.seed_everything(cfg)
    model = build.build_model(cfg)
    check_known(cfg, model, training=True)
    if cfg.init:
        check_start(model, cfg.init)
    module = build.build_module(cfg, model)
    data = build.build_data(cfg)
    data.prepare_data()
    data.setup("fit")
    check_fit(model, data)
    model.classes = build.class_names(data, model)
    if cfg.init:
        initialise(model, cfg.init, cfg.strict_init)
    return Parts(model, module, data)
