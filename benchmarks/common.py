"""What the benchmarks share: the published network with random weights, clocks, peak memory, a table.

Random weights answer with endless babble, so answers are scripted: a vector that points at the scripted
token is added to each hidden state, at the same price for every decoder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ufo.backbones.context import Context
from ufo.backbones.ufo_vit import UFOViT
from ufo.model import UFO
from ufo.tasks import make_task
from ufo.tokenizer import UFOTokenizer, build_vocab

VOCABULARY = 30522  # BERT's, before the three tokens of UFO
SIDES = {
    "detection": 1120,
    "instance_segmentation": 1120,
    "semantic_segmentation": 672,
    "caption": 224,
    "grounding": 224,
}
NETWORKS = {
    "base": {"width": 768, "depth": 12, "heads": 12, "global_layers": [2, 5, 8, 11]},
    # as many operations as the base model, each of which costs next to nothing
    "narrow": {"width": 48, "depth": 12, "heads": 12, "global_layers": [2, 5, 8, 11]},
    "tiny": {"width": 64, "depth": 2, "heads": 2, "global_layers": [1], "new_layers": 2},
}
WORDS = """
task : ; , . class description bin to give a caption for this image detection instance _ segmentation semantic
grounding background man in red shirt on the left two dogs play with ball near old bench grass
"""
FULL_GRID = 625  # queries of an image at 1120 px
PUSH = 1000.0  # times a token's embedding: outweighs any hidden state of random weights


def parser(description: str, tasks: Sequence[str] = tuple(SIDES)) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--scale", type=float, default=1.0, help="times the official image sides")
    made.add_argument("--network", choices=NETWORKS, default="base")
    made.add_argument("--tasks", nargs="+", choices=tasks, default=list(tasks))
    made.add_argument("--objects", type=int, default=16, help="objects per 625 queries")
    common_arguments(made)
    return made


def common_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("--threads", type=int, default=2)
    made.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine, with --threads 1"
    )


class Clock:
    """Seconds that a call took, by the wall or of the processor."""

    def __init__(self, kind: str):
        self.now = time.perf_counter if kind == "wall" else time.process_time

    def __call__(self, function: Callable, *arguments, **options):
        start = self.now()
        result = function(*arguments, **options)
        return result, self.now() - start


def with_peak(clock: Clock, function: Callable, *arguments):
    """Result, seconds and the process's largest memory in GB meanwhile (0 where the system keeps none)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    except OSError:
        return *clock(function, *arguments), 0.0
    result, seconds = clock(function, *arguments)
    status = Path("/proc/self/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
    return result, seconds, int(line.split()[1]) / 2**20


def side(task: str, scale: float) -> int:
    """The official image side times `scale`, in whole windows of 224 pixels."""
    return max(round(SIDES[task] * scale / 224), 1) * 224


def class_names() -> tuple[str, ...]:
    path = Path(__file__).parents[1] / "conf" / "vocab" / "coco_classes.txt"
    return tuple(path.read_text(encoding="utf-8").split("\n")[:80])


def make_tokenizer() -> UFOTokenizer:
    """As large as BERT's and with answers as long as its: a bin is at most two pieces."""
    pairs = [f"##{i:02}" for i in range(100)]
    words = [*WORDS.split(), *" ".join(class_names()).split(), *pairs]
    vocab = build_vocab(words, 199)
    return UFOTokenizer([*vocab, *(f"[unused{i}]" for i in range(VOCABULARY - len(vocab)))])


def make_model(arguments: argparse.Namespace) -> UFO:
    """UFO-ViT with random weights and the tasks that were asked for, at their scaled sizes."""
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    tokenizer = make_tokenizer()
    tasks = {}
    for name in arguments.tasks:
        size = side(name, arguments.scale)
        bins = {"num_bins": 2 * size} if name in ("detection", "grounding") else {}
        tasks[name] = make_task(name, image_size=size, **bins)
    backbone = UFOViT(
        vocab_size=len(tokenizer),
        image_size=side("detection", arguments.scale),
        **NETWORKS[arguments.network],
    )
    with torch.no_grad():  # initialised with 0: trained ones are not
        for layer in backbone.layers:
            layer.rel_pos_h.normal_(std=0.02)
            layer.rel_pos_w.normal_(std=0.02)
    return UFO(backbone, tokenizer, tasks).eval()


@dataclass(kw_only=True)
class ScriptedContext(Context):
    """A context that knows which row of the script each of its rows speaks."""

    spoken: Tensor  # int64 [R']

    def select(self, rows: Tensor) -> ScriptedContext:
        return replace(super().select(rows), spoken=self.spoken[rows])


class Scripted:
    """A backbone whose likeliest tokens are those of `script [R, T]`; costs what the backbone costs."""

    def __init__(self, backbone: UFOViT, script: Tensor):
        self.backbone, self.script, self.fed = backbone, script, 0
        self.output_embedding = backbone.output_embedding

    def __getattr__(self, name: str):
        return getattr(self.backbone, name)

    def context(self, context: Context) -> ScriptedContext:
        own = {f.name: getattr(context, f.name) for f in fields(context)}
        return ScriptedContext(**own, spoken=torch.arange(context.num_rows, device=self.device))

    def answer(self, context: ScriptedContext, ids: Tensor, packed=None, cache=None) -> Tensor:
        self.fed += ids.numel()
        at = torch.arange(ids.shape[1], device=ids.device) + cache.length
        hidden = self.backbone.answer(context, ids, packed, cache)
        told = self.script[context.spoken][:, at.clamp(max=self.script.shape[1] - 1)]  # [R', t]
        return hidden + PUSH * self.output_embedding[told]


def script(model: UFO, task_name: str, rows: int, objects: int, seed: int = 0) -> Tensor:
    """Answers shaped like those of a trained model: token ids `[R, T]`, `[SEP]` after the end.

    Of a dense task's queries one to three answer for each object, the others say `background`.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high, n: torch.randint(high, (n,), generator=generator).tolist()  # noqa: E731
    task, names = model.task(task_name), class_names()
    texts = ["background"] * rows
    if task_name == "caption":
        texts = ["two dogs play with a red ball near the old bench in the grass"] * rows
    elif task_name == "grounding":
        texts = [",".join(map(str, draw(task.num_bins, 4))) for _ in range(rows)]
    else:
        here = max(round(objects * rows / FULL_GRID), 1)  # a smaller image has as many per query
        repeats = sum(1 + n for n in draw(3, here))
        for row in torch.randperm(rows, generator=generator)[:repeats].tolist():
            fields = [",".join(map(str, draw(task.num_bins, 4)))] if task_name == "detection" else []
            fields += ["<MASK>" * task.mask_tokens] if task.mask_tokens else []
            texts[row] = ",".join([names[draw(len(names), 1)[0]], *fields])
    ids = torch.full((rows, task.max_length), model.tokenizer.end_id)
    for out, row in zip(ids, model.tokenizer.encode(texts, task.max_length + 1), strict=True):
        out[: len(row) - 1] = torch.tensor(row[1:])
    return ids


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)
