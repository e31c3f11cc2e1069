"""`ufo calibrate`: scores that are probabilities, from a monotone map per task, fitted on held-out data.

An object counts as right where it is matched at IoU 0.5. The map becomes a setting of the task
(`tasks.NAME.calibration`) in a new model folder, and with it a part of every prediction.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ufo.cli import CommandError
from ufo.cli.files import require_new

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import Tensor

    from ufo.callbacks.scores import ScoreTable
    from ufo.model import UFO

LEAST = 20  # objects that are right, and that are wrong, without which there is nothing to fit
SCORES = ("first", "sequence", "quality")


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "calibrate",
        help="make a model's scores probabilities, on data that it was not trained on",
        description="Predict the validation data of sources, fit for each task that scores objects a "
        "monotone map from scores to the share that is right, and write the model with these maps. The order "
        "of scores, and with it AP, stays as --score makes it.",
        epilog="ufo calibrate runs/birds --score quality --out runs/birds_calibrated",
    )
    add = parser.add_argument
    add("ckpt", metavar="CKPT", help="run, model folder or .ckpt")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="the data: +source=NAME, experiment=NAME, ...; "
        "default: those of the run")  # fmt: skip
    add("--out", type=Path, required=True, metavar="FOLDER", help="the new model; must not exist yet")
    add("--score", choices=SCORES, help="what is calibrated (default: the score that each task has)")
    add("--base", help="where the base of a LoRA is now, if it has moved")
    add("--config-dir", type=Path, help="folder of your own with further sources")
    parser.set_defaults(run=run)


class TooFew(CommandError):
    """A task's predictions on the held-out data are not enough for a map."""


class Fitted(NamedTuple):
    """A task's map, and what it is worth on images that it was not fitted to."""

    points: list[list[float]]
    objects: int
    before: dict[str, float]
    after: dict[str, float]


def run(args: argparse.Namespace) -> int:
    """Predict, fit, write. Raises CommandError, CheckpointError or DataError where that cannot be done.

    A task with too few predictions for a map is left out; that is an error where it is so for every task.
    """
    require_new(args.out)
    overrides = _overrides(args)
    from hydra.errors import InstantiationException

    from ufo.check import check_fit
    from ufo.checkpoints.load import load, save
    from ufo.errors import sentence

    model = load(args.ckpt, base=args.base)
    try:
        cfg = _config(overrides, model, args.ckpt)
        before = {name: (task.score, task.calibration) for name, task in model.tasks.items()}
        tasks = _prepare(cfg, model, args.score)
        found = _predict(cfg, model, check_fit)
    except (ValueError, RuntimeError, InstantiationException) as error:
        raise CommandError(sentence(error)) from error
    rows: list[list[str]] = []
    left_out: list[str] = []
    for name in tasks:
        task = model.tasks[name]
        try:
            fitted = _fit(name, [columns for (of, _), columns in found.items() if of == name], task.score)
        except TooFew as error:
            task.score, task.calibration = before[name]
            left_out.append(str(error))
            continue
        settings = {name: task.settings[name] for name in task.calibrated_for}
        task.calibration = settings | {"points": fitted.points}
        worth = [numbers[key] for key in ("ECE", "Brier") for numbers in (fitted.before, fitted.after)]
        rows.append([f"{name}, score={task.score}", str(fitted.objects), *(f"{x:.4f}" for x in worth)])
    if not rows:
        raise CommandError("; ".join(left_out))
    save(model, args.out)
    from ufo.tables import table

    print(table(["calibrated", "objects", "ECE", "after", "Brier", "after"], rows))
    for reason in left_out:
        print(f"left out, and as it was before: {reason}")
    print("after: each half of the images under a map that was fitted to the other half")
    print(f"{args.out}: the model with maps fitted to all of them")
    return 0


# ---------------------------------------------------------------- data and tasks


def _overrides(args: argparse.Namespace) -> list[str]:
    """The overrides that say what to predict. Raises CommandError where nothing does."""
    from ufo.checkpoints.recipes import compose
    from ufo.command_line import searched
    from ufo.runs.evaluation import further, told

    strange = next((o for o in args.overrides if "=" not in o), None)
    if strange:
        raise CommandError(f"'{strange}' is not an override of the config, as in experiment=digits")
    own, groups = further(args.ckpt, args.overrides), told(args.overrides)
    if groups == ["source"]:
        own.append("mixture=own")  # which has no others
    if not own and not groups:
        _check_there(args.ckpt)
        compose(args.overrides)  # says which key is none
        raise CommandError(
            f"nothing says on which data '{args.ckpt}' is to be calibrated, as it is in no run's folder; add "
            "+source=... or experiment=..."
        )
    if args.config_dir:
        if not args.config_dir.is_dir():
            raise CommandError(f"--config-dir {args.config_dir} is not a folder")
        own.append(searched(args.config_dir))
    return [*own, *args.overrides]


def _check_there(ckpt: str) -> None:
    """Raises CommandError for a path that is none; a name of the hub may be one."""
    from ufo.checkpoints.hub_models import hub_name
    from ufo.ops.nearest import beside
    from ufo.places import shipped

    path = Path(ckpt)
    if not path.exists() and not shipped(ckpt) and not hub_name(ckpt):
        raise CommandError(f"no checkpoint at '{path}'; give a model folder, a run or a .ckpt{beside(path)}")


def _config(overrides: Sequence[str], model: UFO, ckpt: str) -> DictConfig:
    """The config at the model's resolutions, without the sources that score no objects."""
    from omegaconf import OmegaConf

    from ufo.check import check_run
    from ufo.checkpoints.recipes import compose

    # a task of one's own may take its size from another task's
    sizes = [f"++resolution.{name}={task.image_size}" for name, task in model.tasks.items()]
    fixed = ["logger=none", "name=calibrate", "trainer.default_root_dir=."]  # nothing is written there
    cfg = compose([*sizes, *overrides, *fixed])
    left_out = []
    for key, source in cfg.sources.items():
        task = model.tasks.get(source.task) if source else None
        if source and (task is None or len(task.scores) < 2 or not source.dataset.get("val")):
            left_out.append(f"{key} ({source.task})")
            cfg.sources[key] = None
    if not any(cfg.sources.values()):
        has = [name for name, task in model.tasks.items() if len(task.scores) > 1]
        raise CommandError(
            "none of the sources has validation data and a task of this model that scores objects; "
            + (f"give sources of {' or '.join(has)}" if has else "it has no such task")
        )
    if left_out:
        print(f"left out, as they hold no scored objects: {', '.join(left_out)}")
    OmegaConf.update(cfg, "ckpt", ckpt, force_add=True)  # as in an evaluation: no training scenes are drawn
    cfg.callbacks = {}  # some have a place in the folder of a run, and there is none
    check_run(cfg, training=False)
    for source in filter(None, cfg.sources.values()):  # checked before: its keys may be there for it alone
        source.dataset.train = None  # nothing of it is read
    return cfg


def _prepare(cfg: DictConfig, model: UFO, score: str | None) -> list[str]:
    """The tasks to calibrate, without an older map and with the score that is wanted."""
    from ufo import build

    build.check_sizes(cfg, model)
    tasks = list(dict.fromkeys(str(source.task) for source in cfg.sources.values() if source))
    for name in tasks:
        model.tasks[name].calibration = None
        model.tasks[name].score = score or model.tasks[name].score
    return tasks


def _predict(cfg: DictConfig, model: UFO, check_fit: Any) -> dict[tuple[str, str], Any]:
    """What each source's predictions are worth, by task and source."""
    from ufo import build
    from ufo.callbacks.scores import ScoreTable

    scores: ScoreTable = ScoreTable()
    trainer = build.build_trainer(
        cfg, evaluates=True, callbacks=[scores, build.progress_bar()], logger=False,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    data = build.build_data(cfg)
    data.prepare_data()
    data.setup("validate")
    check_fit(model, data, training=False)
    trainer.validate(build.evaluation_module(model), data, verbose=False)
    model.to("cpu")
    tasks = {source.name: source.task for source in data.evaluated}
    return {(tasks[name], name): columns for name, columns in scores.columns.items()}


# ---------------------------------------------------------------- the map


def _fit(task: str, sources: Sequence[Any], score: str) -> Fitted:
    """The map of all predictions of a task. Raises TooFew where they are not enough for one."""
    import torch

    columns = [columns[score] for columns in sources if score in columns]
    scores = torch.cat([torch.zeros(0, dtype=torch.float64), *(c.scores for c in columns)])
    right = torch.cat([torch.zeros(0, dtype=torch.bool), *(c.right for c in columns)])
    half = torch.cat([torch.zeros(0, dtype=torch.int64), *(c.images for c in columns)]) % 2 == 0
    if not len(right):
        raise TooFew(
            f"{task}: the model found no object in this held-out data, so it has no score to calibrate; "
            "train it further, or give data of what it has learned"
        )
    for what, count in (("right", int(right.sum())), ("wrong", int((~right).sum()))):
        if count < LEAST:
            raise TooFew(
                f"{task}: {count} of {len(right)} objects are {what}, and a map needs {LEAST} of them; give "
                "more held-out data"
            )
    from ufo.ops.monotone import apply_monotone, fit_monotone

    crossed = scores.clone()
    for part in (half, ~half):
        crossed[part] = apply_monotone(fit_monotone(scores[~part], right[~part]), scores[part])
    return Fitted(fit_monotone(scores, right), len(scores), _worth(scores, right), _worth(crossed, right))


def _worth(scores: Tensor, right: Tensor) -> dict[str, float]:
    from ufo.metrics.calibration import calibration, calibration_sums

    return {name: float(value) for name, value in calibration(calibration_sums(scores, right)).items()}
