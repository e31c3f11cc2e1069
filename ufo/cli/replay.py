"""`ufo replay BUNDLE`: the training step without a finite loss once more (ufo/callbacks/nonfinite.py)."""

from __future__ import annotations

import argparse
from pathlib import Path

from ufo.cli import CommandError

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

    from ufo.callbacks.nonfinite import describe

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
            model.zero_grad(set_to_none=True)
            with torch.autograd.set_detect_anomaly(args.anomaly):
                losses = _step(model, batch.to(args.device), precision)
            broken = [
                n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
            ]
            found |= bool(broken) or not losses["loss"].isfinite()
            print(f"{path.name}: {describe(batch)}")
            print("  " + ", ".join(f"{k} {float(v.detach()):.6g}" for k, v in losses.items()))
            print(f"  gradients not finite: {len(broken)} {', '.join(broken[:5])}")
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


def _batches(path: Path):
    """The batches of one process."""
    import torch

    from ufo.types import Batch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        batches = [Batch(**values) for values in content]
        if not all(isinstance(batch.images, torch.Tensor) for batch in batches):
            raise ValueError("a batch has no images")
        return batches
    except Exception as error:  # a strange file may fail in any way
        line = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise CommandError(f"'{path}' holds no batches of a run ({line}); copy the bundle again") from error


def _step(model, batch, precision: str):
    """Forward and backward as in training, with the step's own random numbers."""
    import torch

    types = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    torch.manual_seed(batch.seed)
    with torch.autocast(model.backbone.device.type, types.get(precision), enabled=precision in types):
        losses = model.loss(batch)
    losses["loss"].backward()
    return losses
