"""Train a UFO model: `python train.py experiment=digits`, or any combination of the groups in conf/."""

import hydra
from omegaconf import DictConfig

from ufo import build
from ufo.check import check_config, check_fit, clear_errors
from ufo.checkpoints.native import check_resumable, initialise, load, save
from ufo.command_line import clear_command_line
from ufo.sweeps.record import recorded


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@recorded
def main(cfg: DictConfig) -> float | None:
    with clear_errors():
        check_config(cfg)
        build.seed_everything(cfg)
        model = build.build_model(cfg)
        folder = build.output_folder()
        resume = build.last_checkpoint(cfg, folder)
        if cfg.init and (not resume or model.backbone.lora):  # checkpoints lack what does not train
            initialise(model, cfg.init)
        if resume:
            check_resumable(model, resume)
        data = build.build_data(cfg)
        data.prepare_data()
        data.setup("fit")
        check_fit(model, data)
        model.classes = build.class_names(data)
        module = build.build_module(cfg, model)
        trainer = build.build_trainer(cfg)

    trainer.fit(module, data, ckpt_path=resume, weights_only=True)

    # `every_n_train_steps` need not divide `max_steps`: the run's last checkpoint is that of its last step
    last = folder / "checkpoints" / "last.ckpt"
    trainer.save_checkpoint(last)
    if trainer.is_global_zero:
        with clear_errors():
            build.check_written(trainer)
            # not from memory: no process holds all weights where a strategy shards them
            print(f"model: {save(load(last), folder / 'model')}")
    return build.objective(cfg, trainer)


if __name__ == "__main__":
    with clear_command_line("resolution"):
        main()
