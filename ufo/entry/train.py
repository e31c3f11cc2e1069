"""Training: `python train.py experiment=digits`, or `ufo train experiment=digits` from any folder."""

import hydra
from omegaconf import DictConfig

from ufo import build, extensions, places
from ufo.check import RUNNING, check_fit, check_known, check_run, clear_errors
from ufo.checkpoints.load import check_base, check_start, initialise
from ufo.command_line import clear_command_line
from ufo.own.command import own_files
from ufo.own.offered import say_offered
from ufo.runs import identity, resume
from ufo.sweeps.record import recorded
from ufo.training import finish, fit, nothing_left


@hydra.main(version_base="1.3", config_path=str(places.conf()), config_name="train")
@recorded
def main(cfg: DictConfig) -> float | None:
    with clear_errors():
        check_run(cfg, training=True)
        build.seed_everything(cfg)
        model = build.build_model(cfg)
        check_known(cfg, model, training=True)
        folder = build.output_folder()
        if cfg.init and not resume.may_go_on(cfg.resume, folder):
            check_start(model, cfg.init)
        module = build.build_module(cfg, model)
        trainer = build.build_trainer(cfg)
        data = build.build_data(cfg)
        data.prepare_data()
        data.setup("fit")
        check_fit(model, data)
        model.classes = build.class_names(data, model)
        module.identity = identity.describe(cfg, model, data)
        start = resume.find(cfg.resume, folder, module, module.identity)
        if cfg.init and (not start or model.backbone.lora):  # checkpoints lack what does not train
            initialise(model, cfg.init, cfg.strict_init)
        if start:
            check_base(model, start.path)
        build.shrink_base(cfg, model, trainer)
        build.choose_kernels(cfg, model, trainer)
    say_offered()
    extensions.say_unnamed(model.packages)

    with clear_errors(RUNNING):
        if start and start.steps >= trainer.max_steps > -1:
            return nothing_left(cfg, folder, start, module, data)
        fit(trainer, module, data, start, folder)
    with clear_errors():
        return finish(cfg, trainer, module, folder)


def train() -> None:
    """Train as the command line says."""
    with own_files(), clear_command_line("resolution"):
        main()


if __name__ == "__main__":  # the further processes of a training on several devices
    train()
