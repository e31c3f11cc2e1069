"""Rows of UFO-ViT: training steps, and inference part by part, beside a plain ViT and lock-step decoding."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import torch
from common import SIDES, Scripted, class_names, make_model, script, side
from decode_vit import lock_step, plain_vit
from gpu_rows import Bench
from torch._dynamo.utils import counters
from train_step_vit import make_batch

from ufo.head.decoding import decode
from ufo.model import UFO
from ufo.types import Batch

Rows = Iterator[tuple[str, Callable[[], dict[str, float]]]]
BATCHES = {"caption": 24, "grounding": 24}  # of a training step; 3 of the others
DENSE = ("detection", "instance_segmentation")
PARTS = ("prefix", "plain ViT", "decode", "lock-step", "parse", "whole")
REPLAYED = ("prefix", "decode", "whole")  # what CUDA graphs change; behind all others: they stay on


def model_of(bench: Bench, task: str) -> tuple[UFO, int]:
    """The base model, tiny in miniature, for one task, and the side of its images."""
    scale, network = (0.2, "tiny") if bench.miniature else (1.0, "base")
    arguments = Namespace(threads=torch.get_num_threads(), tasks=[task], scale=scale, network=network)
    with torch.device(bench.device):  # drawing weights on a CPU takes longer than a row
        return make_model(arguments).to(bench.device), side(task, scale)


def tasks_of(bench: Bench) -> list[str]:
    return ["detection", "caption"] if bench.miniature else list(SIDES)


def batch_of(bench: Bench, task: str, pixels: int, count: int) -> Batch:
    one = make_batch(task, pixels, 3 if bench.miniature else 16)
    lists = {k: getattr(one, k) * count for k in ("texts", "boxes", "labels", "masks")}
    images, semantic = (x.expand(count, *x.shape[1:]).contiguous() for x in (one.images, one.semantic))
    sizes = [(pixels, pixels)] * count
    return replace(one, images=images, semantic=semantic, sizes=sizes, **lists).to(bench.device)


def step_of(
    bench: Bench, model: UFO, loss: Callable[[], torch.Tensor], full: bool = False
) -> Callable[[], None]:
    """A training step as the experiments take it: clipped gradients, AdamW in its fused form on a GPU.

    `full`: in float32.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=bench.cuda or None)

    def step() -> None:
        with nullcontext() if full else bench.half():
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 0.1)
        optimizer.step()
        optimizer.zero_grad()

    return step


def train(bench: Bench) -> Rows:
    tasks = tasks_of(bench)
    first = [(task, option) for task in tasks for option in (("", "replayed") if bench.cuda else ("",))]
    if bench.cuda:
        first += [("detection", "kernels"), ("detection", "replayed, kernels")]
    for task, option in [*first, *((task, "checkpointing") for task in tasks)]:
        count = 1 if bench.miniature else BATCHES.get(task, 3)
        name = f"{task}, batch {count}" + (option and f", {option}")
        yield name, partial(_train, bench, task, count, option)


def _train(bench: Bench, task: str, count: int, option: str) -> dict[str, float]:
    model, pixels = model_of(bench, task)
    model.train().backbone.gradient_checkpointing = option == "checkpointing"
    batch = batch_of(bench, task, pixels, count)
    step = step_of(bench, model, lambda: model.loss(batch)["loss"])
    if "kernels" in option:
        model.use_triton_attention()
    if "replayed" in option:
        return replayed_step(bench, model, step, count)
    return bench.measure(step, count)


def replayed_step(
    bench: Bench, model: UFO, step: Callable[[], None], images: int, repeats: int = 3
) -> dict[str, float]:
    """A step that is recorded when it comes a second time; `first s` are both."""
    model.use_cuda_graphs(training=True)
    first = sum(bench.first(step) for _ in range(2))
    return {"first s": first} | bench.measure(step, images, repeats, products=False)


def compiled(bench: Bench) -> Rows:
    """Steps of one model with compiled layers, task by task: later ones find graphs of earlier ones."""
    scale, network = (0.2, "tiny") if bench.miniature else (1.0, "base")
    tasks = tasks_of(bench)
    arguments = Namespace(threads=torch.get_num_threads(), tasks=tasks, scale=scale, network=network)
    with torch.device(bench.device):
        model = make_model(arguments).to(bench.device).train()
    model.compile_backbone()
    for task in tasks:
        count = 1 if bench.miniature else BATCHES.get(task, 3)
        yield f"{task}, batch {count}", partial(_compiled, bench, model, task, side(task, scale), count)


def _compiled(bench: Bench, model: UFO, task: str, pixels: int, count: int) -> dict[str, float]:
    batch, known = batch_of(bench, task, pixels, count), counters["stats"]["unique_graphs"]
    step = step_of(bench, model, lambda: model.loss(batch)["loss"])
    first = bench.first(step)
    found = bench.measure(step, count, products=False)
    return found | {"first s": first, "graphs": counters["stats"]["unique_graphs"] - known}


def infer(bench: Bench) -> Rows:
    for task in tasks_of(bench):
        for count in (1, 2 if bench.miniature else 8) if task in DENSE else (1,):
            parts = _Inference(bench, task, count)
            for part in PARTS:
                yield f"{task}, batch {count}: {part}", partial(parts, part)
            for part in REPLAYED if bench.cuda else ():
                yield f"{task}, batch {count}: {part}, replayed", partial(parts, part, replayed=True)
    for count in (1, 8) if bench.cuda else ():
        kernels = _Inference(bench, "detection", count, kernels=True)
        for part in ("prefix", "whole"):
            yield (
                f"detection, batch {count}: {part}, replayed, kernels",
                partial(kernels, part, replayed=True),
            )
    full = _Inference(bench, "detection", 1, full=True)
    for part in PARTS if bench.cuda else ():  # a CPU's other rows are in float32, too
        yield f"detection, batch 1, float32: {part}", partial(full, part)


class _Inference:
    """The parts of a prediction with scripted answers; the first one makes the model.

    `full`: in float32; `kernels`: images attend with Triton kernels.
    """

    def __init__(self, bench: Bench, task: str, count: int, full: bool = False, kernels: bool = False):
        self.bench, self.name, self.count, self.full, self.kernels = bench, task, count, full, kernels
        self.parts: dict[str, Callable[[], object]] | None = None

    @torch.no_grad()
    def __call__(self, part: str, replayed: bool = False) -> dict[str, float]:
        with nullcontext() if self.full else self.bench.half():
            self.parts = self.parts or self._parts()
            more = {}
            if replayed:
                self.model.use_cuda_graphs()
                more["first s"] = sum(self.bench.first(self.parts[part]) for _ in range(2))
            found = more | self.bench.measure(
                self.parts[part], self.count if part == "whole" else 0, products=not replayed
            )
            if part == "whole" and self.name == "detection":
                boxes = sum(len(p.boxes) for p in self.parts[part]())
                found["boxes/s"] = 1e3 * boxes / found["ms"]
        return found

    def _parts(self) -> dict[str, Callable[[], object]]:
        self.model, pixels = model_of(self.bench, self.name)
        model = self.model
        if self.kernels:
            model.use_triton_attention()
        task, batch = model.task(self.name), batch_of(self.bench, self.name, pixels, self.count)
        asked = task.ask(batch, model.grid(task, pixels, pixels))
        encode = partial(model.encode, batch.images, asked.prompts, asked.queries, task)
        context = encode()
        scripted = Scripted(
            model.backbone, script(model, self.name, context.num_rows, 16).to(batch.images.device)
        )
        here = scripted.context(context)
        decoded = decode(scripted, here, model.tokenizer, task, class_names())

        def said(backbone, found, *rest):
            return decode(scripted, scripted.context(found), *rest)

        def parse():
            with (
                patch.object(model, "encode", lambda *_: context),
                patch("ufo.model.decode", lambda *_: decoded),
            ):
                return model.predict_batch(batch)

        def whole():
            with patch("ufo.model.decode", said):
                return model.predict_batch(batch)

        return {
            "prefix": encode,
            "plain ViT": partial(plain_vit, model.backbone, batch.images),
            "decode": lambda: decode(scripted, here, model.tokenizer, task, class_names()),
            "lock-step": lambda: lock_step(scripted, here, model.tokenizer, task),
            "parse": parse,
            "whole": whole,
        }
