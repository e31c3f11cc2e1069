"""Share of a training step that is spent outside the transformer, per task (float32, one image).

    python benchmarks/train_step_vit.py [--scale 0.4] [--tasks detection] [--objects 16] [--threads 2]

Outside: matching, sampling and writing answers, tokenising, token and mask losses with their gradients.
The graph is cut at the transformer's outputs, so that the two backward passes are timed one by one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from common import Clock, class_names, make_model, parser, show
from torch import Tensor

from ufo.types import Batch


class Cut:
    """Times the two entry points of a backbone and ends the losses' graph at their outputs."""

    def __init__(self, backbone, clock: Clock):
        self.backbone, self.clock, self.seconds = backbone, clock, 0.0
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.methods = backbone.encode, backbone.answer
        backbone.encode, backbone.answer = self.encode, self.answer

    def _cut(self, x: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        self.pairs.append((x, leaf))
        return leaf

    def encode(self, *arguments, **options):
        context, seconds = self.clock(self.methods[0], *arguments, **options)
        self.seconds += seconds
        return replace(context, image_features=self._cut(context.image_features))

    def answer(self, *arguments):
        hidden, seconds = self.clock(self.methods[1], *arguments)
        self.seconds += seconds
        return self._cut(hidden)

    def backward(self) -> None:
        reached = [(x, leaf.grad) for x, leaf in self.pairs if leaf.grad is not None]
        _, seconds = self.clock(torch.autograd.backward, *map(list, zip(*reached, strict=True)))
        self.seconds += seconds

    def undo(self) -> None:
        del self.backbone.encode, self.backbone.answer


def make_batch(task: str, side: int, objects: int) -> Batch:
    """An image of noise with ellipses on it."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(objects, 2, generator=generator) * side
    radius = (0.03 + 0.15 * torch.rand(objects, 2, generator=generator)) * side
    boxes = torch.cat([centre - radius, centre + radius], 1).clamp(0, side)
    axis = torch.arange(side) + 0.5
    x, y = (((axis - centre[:, i, None]) / radius[:, i, None]) ** 2 for i in (0, 1))
    masks = (x[:, None] + y[:, :, None] < 1).to(torch.uint8)
    labels = torch.arange(objects) % len(class_names())
    semantic = torch.zeros(side, side, dtype=torch.uint8)
    for mask, label in zip(masks, labels, strict=True):
        semantic[mask.bool()] = label.to(torch.uint8)
    text = "two dogs play with a red ball near the old bench" if task == "caption" else "the man on the left"
    return Batch(
        task=task,
        source=f"noise/{task}",
        classes=class_names(),
        images=torch.randint(256, (1, 3, side, side), generator=generator).to(torch.uint8),
        texts=[text if task in ("caption", "grounding") else ""],
        boxes=[boxes],
        labels=[labels],
        masks=[masks],
        semantic=semantic[None],
    )


def measure(model, name: str, objects: int, clock: Clock) -> list[str]:
    side = model.task(name).image_size
    batch = make_batch(name, side, objects)
    grid = model.grid(model.task(name), side, side)
    model.task(name).supervise(batch, grid)  # the first one imports SciPy
    _, targets = clock(model.task(name).supervise, batch, grid)
    cut = Cut(model.backbone, clock)
    try:
        start = clock.now()
        losses = model.loss(batch)
        losses["loss"].backward()
        cut.backward()
        total = clock.now() - start
    finally:
        cut.undo()
    model.zero_grad()
    outside = total - cut.seconds
    row = [name, str(side), f"{total:.2f}", f"{cut.seconds:.2f}", f"{targets:.3f}"]
    return [*row, f"{outside - targets:.2f}", f"{100 * outside / total:.1f} %"]


def main() -> None:
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    model, clock = make_model(arguments).train(), Clock(arguments.clock)
    rows = [measure(model, name, arguments.objects, clock) for name in arguments.tasks]
    columns = ["training step", "side", "total", "transformer", "targets", "text and losses", "outside"]
    show(f"Training step, batch 1 ({arguments.clock} s, {arguments.threads} threads)", columns, rows)


if __name__ == "__main__":
    main()
