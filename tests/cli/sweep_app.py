"""A program with the configs of train.py whose runs take no time: their outcome follows from the config."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ufo.sweeps.record import Pruned, Refused, recorded


@hydra.main(version_base="1.3", config_path="../../conf", config_name="train")
@recorded
def main(cfg: DictConfig) -> float:
    folder = Path(HydraConfig.get().runtime.output_dir)
    with open(folder / "starts", "a") as file:
        file.write("started\n")
    lr, decay = cfg.optimizer.lr, cfg.optimizer.weight_decay
    value = -abs(lr - 0.01) - decay
    metric = {"best": value, "last": value, "step": 2}
    (folder / "metrics.json").write_text(json.dumps({"val/digits/detection/mAP": metric}))
    if cfg.seed == 13:
        raise RuntimeError("thirteen\nis not lucky")
    if cfg.seed == 14:
        raise Refused("the config is wrong")
    if cfg.seed == 15:
        raise Pruned("worse than others")
    if cfg.seed == 16 and not (marker := folder.parent / "killed").exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.seed == 17:
        time.sleep(0.5)
    return value


if __name__ == "__main__":
    main()
