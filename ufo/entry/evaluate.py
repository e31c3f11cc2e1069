"""Evaluation: `python evaluate.py ckpt=runs/digits`, or `ufo evaluate ckpt=runs/digits` from any folder."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ufo import build, places, report
from ufo.check import RUNNING, check_fit, check_known, check_run, clear_errors
from ufo.checkpoints.load import load
from ufo.command_line import chosen_experiment, clear_command_line
from ufo.runs import results
from ufo.runs.evaluation import check_there, check_told, of_the_run
from ufo.runs.naming import part_of
from ufo.sweeps.record import recorded


@hydra.main(version_base="1.3", config_path=str(places.conf()), config_name="evaluate")
@recorded
def main(cfg: DictConfig) -> float | None:
    with clear_errors():
        check_run(cfg, training=False)
        build.seed_everything(cfg)
        model = load(cfg.ckpt, base=cfg.base, experiment=chosen_experiment())
        check_told(cfg)
        build.check_sizes(cfg, model)
        build.apply_tasks(cfg, model)
        check_known(cfg, model, training=False)
        module = build.evaluation_module(model, cfg.cuda_graphs)
        trainer = build.build_trainer(cfg, evaluates=True)
        build.choose_kernels(cfg, model, trainer)
        data = build.build_data(cfg)
        data.prepare_data()
        data.setup("validate")
        check_fit(model, data, training=False)

    with clear_errors(RUNNING):
        trainer.validate(module, data, verbose=False)

    measured = results.measured(trainer)
    if trainer.is_global_zero:
        print(results.text(measured, results.published(cfg)))
        if part := part_of(cfg.trainer):
            print(f"a part of the data: {part} was set; numbers of all of them need an evaluation without it")
        report.of_evaluation(Path(HydraConfig.get().runtime.output_dir), measured, results.published(cfg))
    with clear_errors():
        return build.objective(cfg, measured)


def evaluate() -> None:
    """Evaluate as the command line says."""
    with clear_errors():
        check_there(sys.argv[1:])
    with of_the_run(), clear_command_line("resolution"):  # which puts options before overrides
        main()


if __name__ == "__main__":  # the further processes of an evaluation on several devices
    evaluate()
