"""`ufo replay BUNDLE`: the training step without a finite loss once more (ufo/callbacks/nonfinite.py)."""

from __future__ import annotations

import argparse
from pathlib import Path

from ufo.cli import CommandError

WEIGHTS = "weights.pt"


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

    from ufo.callbacks.nonfinite import name
    from ufo.checkpoints.mmengine import read_pickle
    from ufo.checkpoints.native import build, load_weights
    from ufo.types import Batch

    paths = sorted(args.bundle.glob("batch_*.pt"))
    if not paths or not (args.bundle / WEIGHTS).is_file():
        raise CommandError(f"'{args.bundle}' is no bundle: it lacks {WEIGHTS} or a batch_N.pt")
    content = read_pickle(args.bundle / WEIGHTS)
    model = build(content["ufo"])
    load_weights(model, content["state_dict"], args.bundle)
    model.to(args.device).train()
    precision = args.precision or content["precision"]
    found = False
    for path in paths:
        for values in torch.load(path, map_location="cpu", weights_only=True):
            batch = Batch(**values)
            model.zero_grad(set_to_none=True)
            with torch.autograd.set_detect_anomaly(args.anomaly):
                losses = _step(model, batch.to(args.device), precision)
            broken = [
                n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
            ]
            found |= bool(broken) or not losses["loss"].isfinite()
            print(f"{path.name}: {name(batch)}")
            print("  " + ", ".join(f"{k} {float(v.detach()):.6g}" for k, v in losses.items()))
            print(f"  gradients not finite: {len(broken)} {', '.join(broken[:5])}")
    return 0 if found else 1


def _step(model, batch, precision: str):
    """Forward and backward as in training, with the step's own random numbers."""
    import torch

    types = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    torch.manual_seed(batch.seed)
    with torch.autocast(model.backbone.device.type, types.get(precision), enabled=precision in types):
        losses = model.loss(batch)
    losses["loss"].backward()
    return losses
