"""Train a UFO model: `python train.py experiment=digits`, or any combination of the groups in conf/."""

import hydra
from omegaconf import DictConfig

from ufo import build
from ufo.check import check_config, check_fit, clear_errors, quote_numbers
from ufo.checkpoints.native import check_resumable, initialise, save


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    with clear_errors():
        check_config(cfg)
        build.seed_everything(cfg)
        model = build.build_model(cfg)
        folder = build.output_folder()
        resume = build.last_checkpoint(cfg, folder)
        if resume:
            check_resumable(model, resume)
        elif cfg.init:
            initialise(model, cfg.init)
        data = build.build_data(cfg)
        data.prepare_data()
        data.setup("fit")
        check_fit(model, data)
        model.classes = build.class_names(data)
        module = build.build_module(cfg, model)
        trainer = build.build_trainer(cfg)

    trainer.fit(module, data, ckpt_path=resume, weights_only=True)

    # `every_n_train_steps` need not divide `max_steps`: the run's last checkpoint is that of its last step
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    if trainer.is_global_zero:
        with clear_errors():
            print(f"model: {save(model, folder / 'model')}")


if __name__ == "__main__":
    quote_numbers("resolution")
    main()
