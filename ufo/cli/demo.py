"""`ufo demo`: the shipped digits model before and after a few minutes of fine-tuning on shifted scenes.

Runs the same experiment as `python train.py experiment=digits_shifted`, with as many steps as fit the time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ufo.cli import positive

if TYPE_CHECKING:
    from omegaconf import DictConfig


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("demo", help="fine-tune the shipped digits model for a few minutes")
    parser.add_argument("--minutes", type=float, default=5.0, help="time to fine-tune (default 5)")
    parser.add_argument("--batches", type=positive, default=5, help="evaluation batches per task")
    parser.add_argument("--out", default="runs/demo", help="folder for pictures and the new model")
    parser.add_argument("overrides", nargs="*", help="config overrides, for example prepare.digits.train=100")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, fine-tune, evaluate; print one table and where the pictures are."""
    from ufo import build
    from ufo.baselines import TrivialPredictor
    from ufo.check import check_fit, clear_errors
    from ufo.checkpoints.load import initialise, save

    quiet()
    began = time.monotonic()
    out = Path(args.out)
    with clear_errors():
        cfg = compose(out, args)
        print("Shifted digit scenes: other backgrounds, colours and sizes than the model has seen.")
        data = build.build_data(cfg)
        data.prepare_data()
        data.setup("fit")
        build.seed_everything(cfg)
        model = build.build_model(cfg)
        check_fit(model, data)
        model.classes = build.class_names(data, model)
    columns = {}
    print("\nEvaluating: untrained, trivial predictor, the shipped model")
    columns["untrained"] = evaluate(cfg, model, data)
    columns["trivial"] = evaluate(cfg, TrivialPredictor(data.sources), data)
    with clear_errors():
        initialise(model, cfg.init, cfg.strict_init)
    columns["before"] = evaluate(cfg, model, data, out / "pictures" / "before")

    module = build.build_module(cfg, model)
    cfg.trainer.max_steps = steps_within(args.minutes * 60, module, data)
    print(f"\nFine-tuning: {cfg.trainer.max_steps} steps, about {args.minutes:g} minutes")
    module = build.build_module(cfg, model)
    trainer = build.build_trainer(cfg, callbacks=[build.progress_bar()], logger=False, limit_val_batches=0)
    trainer.fit(module, data)
    columns["after"] = evaluate(cfg, model, data, out / "pictures" / "after")
    save(model, out / "model")

    print("\n" + summary(columns, data, build.metric_callbacks(cfg)))
    print(f"\npictures (ground truth | prediction): {out / 'pictures'}")
    print(f"the fine-tuned model: {out / 'model'}   ({(time.monotonic() - began) / 60:.1f} minutes)")
    return 0


def compose(out: Path, args: argparse.Namespace) -> DictConfig:
    """The experiment's config without a Hydra job around it."""
    from ufo.checkpoints import recipes

    fixed = [
        "experiment=digits_shifted",
        "logger=none",
        "name=demo",
        f"trainer.default_root_dir={out}",
        "+trainer.enable_checkpointing=false",
        f"+trainer.limit_val_batches={args.batches}",
        "+trainer.enable_model_summary=false",
    ]
    return recipes.compose([*fixed, *args.overrides])


def evaluate(cfg: DictConfig, model: Any, data: Any, pictures: Path | None = None) -> dict[str, float]:
    """Metrics of a model on the first validation batches; optionally with pictures."""
    from ufo import build
    from ufo.callbacks.pictures import Pictures

    callbacks = [*build.metric_callbacks(cfg), build.progress_bar()]
    if pictures:
        callbacks.append(Pictures(folder=pictures, num_images=8))
    trainer = build.build_trainer(cfg, callbacks=callbacks, logger=False)
    results = trainer.validate(build.evaluation_module(model), data, verbose=False)
    return {name: value for part in results for name, value in part.items()}


def steps_within(seconds: float, module: Any, data: Any, probe: int = 6) -> int:
    """How many optimizer steps fit the time, from timing a few batches of the mixture."""
    from itertools import islice

    data.trainer = None
    model = module.model.train()
    times = []
    for batch in islice(iter(data.train_dataloader()), probe):
        start = time.monotonic()
        model.loss(batch)["loss"].backward()
        times.append(time.monotonic() - start)
    model.zero_grad(set_to_none=True)
    usual = sum(sorted(times)[: probe - 1]) / (probe - 1)  # without the first one's warm-up
    return max(int(seconds / (1.1 * usual)), 10)


def summary(columns: dict[str, dict[str, float]], data: Any, metrics: list[Any]) -> str:
    """One row per source and metric that scores it, with its headline; one column per model."""
    from ufo.metrics.base import scoring
    from ufo.tables import table

    rows = []
    for source in data.evaluated:
        for metric in scoring(source.task, metrics):
            values = [c.get(f"val/{source.name}/{metric.headline}", 0.0) for c in columns.values()]
            rows.append([f"{source.task} {metric.headline}", *(f"{value:.3f}" for value in values)])
    return table(["shifted scenes", *columns], rows)


def quiet() -> None:
    """Only what a first-time user should read."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
