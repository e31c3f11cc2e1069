"""`ufo memory`: how much memory a training needs per device, before it begins; no data are read."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ufo.cli import CommandError

if TYPE_CHECKING:
    from ufo.memory.recipe import Assumed, Estimate

GB = 1e9
LEFT_OUT = "left out: what CUDA and its libraries take, and gaps between blocks; leave 1 to 2 GB"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `ufo memory`."""
    parser = subparsers.add_parser(
        "memory",
        help="estimate the memory of a training per device, before it begins",
        description="Builds the model that train.py would train with these overrides without values, follows "
        "a training step of each source, and prints what a device holds at most. No data are read.",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py: experiment=NAME")
    parser.add_argument("--objects", type=int, default=16, help="of an image (default: 16)")
    parser.add_argument(
        "--prompt", type=int, help="tokens of a prompt (default: 250 with class names, else 64)"
    )
    parser.add_argument("--tokens", type=int, help="of the vocabulary, where its tokenizer is not at hand")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the estimate."""
    for name in ("objects", "prompt", "tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise CommandError(f"--{name} must be 1 or more, not {value}")
    from hydra.errors import InstantiationException

    from ufo.check import check_config
    from ufo.check.values import check_graphs
    from ufo.checkpoints.recipes import compose
    from ufo.errors import sentence
    from ufo.memory.recipe import Assumed, estimate

    prompts = {} if args.prompt is None else {"names": args.prompt, "question": args.prompt}
    assumed = Assumed(objects=args.objects, **prompts)
    cfg = compose(args.overrides)
    try:
        check_config(cfg)
        check_graphs(cfg.cuda_graphs)
        found = estimate(cfg, assumed, args.tokens)
    except (ValueError, InstantiationException) as error:
        raise CommandError(sentence(error)) from error
    print("\n".join(report(found, assumed)))
    return 0


def report(found: Estimate, assumed: Assumed) -> list[str]:
    """The lines to print."""
    size, kept = found.size, found.held
    devices = "one device" if found.devices == 1 else f"{found.devices} devices"
    lines = [
        f"{size.total / 1e6:.1f} M weights, {size.trained / 1e6:.1f} M of them train; "
        f"{found.strategy} on {devices}, {found.precision}",
        f"kept on each device, GB: weights {kept.weights / GB:.2f}, gradients {kept.gradients / GB:.2f}, "
        f"optimizer {kept.optimizer / GB:.2f}"
        + (f"; gathered in a step {found.gathered / GB:.2f}" if found.gathered else "")
        + (f"; by recorded steps (cuda_graphs=all) {found.recorded / GB:.2f}" if found.recorded else ""),
        "",
        f"{'training step, GB':44}{'px':>6}{'batch':>7}{'saved':>8}{'peak':>8}{'total':>8}",
    ]
    switched = f"with gradient_checkpointing={str(not found.checkpointing).lower()}"
    for step, activations in found.steps.items():
        rows = [(step.source, activations)]
        rows += [(f"  {switched}", found.others[step])] if step in found.others else []
        lines += [
            f"{name[:43]:44}{step.side:6}{step.batch:7}{a.saved / GB:8.2f}{a.peak / GB:8.2f}"
            f"{found.total(a) / GB:8.2f}"
            for name, a in rows
        ]
    lines += [
        "",
        "saved: between forward and backward pass; peak: activations at most; total: with what is kept",
        f"assumed: {assumed.objects} objects in an image, each answered by as many queries as the task "
        f"repeats it, in answers of the task's max_length; prompts of {assumed.names} tokens with class "
        f"names and {assumed.question} without",
        LEFT_OUT,
    ]
    return lines
