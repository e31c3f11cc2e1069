"""`ufo replay BUNDLE`: the training step without a finite loss once more (ufo/callbacks/nonfinite.py)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ufo.cli import CommandError

if TYPE_CHECKING:
    from ufo.model import UFO
    from ufo.types import Batch

WEIGHTS = "weights.pt"
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("replay", help="repeat a training step that had no finite loss")
    parser.add_argument("bundle", type=Path, help="the folder that the run left: RUN/non_finite/step_...")
    parser.add_argument("--device", default="cpu", help="where to compute; cpu")
    parser.add_argument("--precision", help="32-true, bf16-mixed or 16-mixed; default: the run's")
    parser.add_argument("--anomaly", action="store_true", help="let autograd say which operation it was")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print each batch's losses and the weights whose gradient is not finite; 1 if all is finite here."""
    import torch

    from ufo.checkpoints.model_folder import first_line

    paths = sorted(args.bundle.glob("batch_*.pt"))
    if not paths or not (args.bundle / WEIGHTS).is_file():
        raise CommandError(f"'{args.bundle}' is not a bundle: it lacks {WEIGHTS} or a batch_N.pt")
    model, precision = _model(args.bundle)
    precision = args.precision or precision
    if precision not in PRECISIONS:
        raise CommandError(f"--precision must be one of {', '.join(PRECISIONS)}, not '{precision}'")
    try:
        model.to(args.device).train()
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"--device {args.device}: {str(error).splitlines()[0]}") from error
    found = False
    for path in paths:
        for batch in _batches(path):
            try:
                found |= _repeat(model, batch.to(args.device), precision, path.name, args.anomaly)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # a strange batch may fail anywhere
                raise CommandError(
                    f"the batch in '{path}' is none that this model can train ({first_line(error)}); copy "
                    "the bundle again"
                ) from error
    return 0 if found else 1


def _model(bundle: Path):
    """The model of a bundle, and the precision it was trained in."""
    from ufo.checkpoints.load import load_weights
    from ufo.checkpoints.read import build_for
    from ufo.checkpoints.safe_pickle import read_pickle

    content = read_pickle(bundle / WEIGHTS)
    description, state = content.get("ufo"), content.get("state_dict")
    if not isinstance(description, dict) or not isinstance(state, dict):
        raise CommandError(f"'{bundle / WEIGHTS}' is not what a run leaves: it lacks the model's description")
    model = build_for(description, bundle)
    load_weights(model, state, bundle)
    return model, str(content.get("precision", "32-true"))


def _batches(path: Path) -> list[Batch]:
    """The batches of one process."""
    from ufo.checkpoints.model_folder import first_line
    from ufo.checkpoints.safe_pickle import read_values
    from ufo.types import Batch

    content = read_values(path)
    try:
        return [Batch(**values) for values in content]
    except (TypeError, ValueError) as error:
        raise CommandError(
            f"'{path}' holds no batches of a run ({first_line(error)}); copy the bundle again"
        ) from error


def _repeat(model: UFO, batch: Batch, precision: str, name: str, anomaly: bool) -> bool:
    """Print a batch's losses and gradients; whether some are not finite."""
    import torch

    from ufo.callbacks.nonfinite import describe
    from ufo.checkpoints.model_folder import first_line

    print(f"{name}: {describe(batch)}")
    model.zero_grad(set_to_none=True)
    try:
        with torch.autograd.set_detect_anomaly(anomaly):
            losses = _step(model, batch, precision)
    except RuntimeError as error:
        if not anomaly or "returned nan values" not in str(error):
            raise
        print(f"  autograd: {first_line(error)}")  # where in the forward pass is in the warning before it
        return True
    broken = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    print("  " + ", ".join(f"{k} {float(v.detach()):.6g}" for k, v in losses.items()))
    print(f"  gradients not finite: {len(broken)} {', '.join(broken[:5])}")
    return bool(broken) or not losses["loss"].isfinite()


def _step(model, batch, precision: str):
    """Forward and backward as in training, with the step's own random numbers."""
    import torch

    types = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    torch.manual_seed(batch.seed)
    with torch.autocast(model.backbone.device.type, types.get(precision), enabled=precision in types):
        losses = model.loss(batch)
    losses["loss"].backward()
    return losses
