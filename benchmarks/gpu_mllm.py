"""Rows of InternVL2.5-8B with random bfloat16 weights: prefix, answers, all queries, a LoRA step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from decode_mllm import (
    BACKGROUND,
    END,
    FIRST_NAME,
    MASK,
    MASKS,
    MAX_LENGTH,
    PATCH,
    START,
    Scripted,
    default,
    make_backbone,
    script,
)
from gpu_rows import Bench
from gpu_vit import Rows, replayed_step, step_of
from omegaconf import OmegaConf

from ufo.backbones.context import AnswerCache
from ufo.backbones.internvl import InternVL
from ufo.backbones.lora import apply_lora, pack
from ufo.head.greedy import greedy
from ufo.head.guesses import MaskRun
from ufo.head.replay import replay
from ufo.head.strategy import Strategy
from ufo.memory.recipe import Assumed, Step, Vocabulary, written
from ufo.model import UFO
from ufo.ops.grid import query_grid
from ufo.tasks import make_task

CONF = Path(__file__).parents[1] / "conf"
VOCABULARY, PROMPT = 92554, 240
REPLAYED = ("prefix", "answer call", "decode", "one answer: calls")  # what CUDA graphs change


def backbone_of(bench: Bench) -> InternVL:
    if bench.miniature:
        return make_backbone(1, 300)
    network = OmegaConf.load(CONF / "backbone" / "internvl2_5_8b.yaml").network
    with torch.device(bench.device):
        made = InternVL(
            vocab_size=VOCABULARY, config=OmegaConf.to_container(network.config), dtype="bfloat16"
        )
    made.patch_id = PATCH
    return made.eval()


def mllm(bench: Bench) -> Rows:
    backbone = backbone_of(bench)
    sizes = [_Rows(bench, backbone, tiles) for tiles in ((1,) if bench.miniature else (1, 2, 3))]
    for rows in sizes:
        for part in (*REPLAYED, "one answer: prefix", "one answer: token by token"):
            yield f"{448 * rows.tiles} px: {part}", partial(rows, part)
    for rows in sizes if bench.cuda else []:  # behind all others: replaying stays on
        for part in REPLAYED:
            yield f"{448 * rows.tiles} px: {part}, replayed", partial(rows, part, replayed=True)


class _Rows:
    """The rows of one image size; made at the first of them."""

    def __init__(self, bench: Bench, backbone: InternVL, tiles: int):
        self.bench, self.backbone, self.tiles, self.parts = bench, backbone, tiles, None

    @torch.no_grad()
    def __call__(self, part: str, replayed: bool = False) -> dict[str, float]:
        self.parts = self.parts or self._parts()
        if not replayed:
            return self.bench.measure(self.parts[part])
        replay(self.backbone)
        first = sum(self.bench.first(self.parts[part]) for _ in range(2))
        return self.bench.measure(self.parts[part], products=False) | {"first s": first}

    def _parts(self) -> dict[str, Callable[[], object]]:
        backbone, device, sides = self.backbone, self.bench.device, 448 * self.tiles
        vocabulary = len(backbone.output_embedding)
        images = torch.randint(256, (1, 3, sides, sides), dtype=torch.uint8, device=device)
        prompt = torch.randint(
            FIRST_NAME, vocabulary, (1, 9 if self.bench.miniature else PROMPT), device=device
        )
        prompt[0, prompt.shape[1] // 2] = PATCH
        mask = torch.ones_like(prompt, dtype=torch.bool)
        queries = query_grid(self.tiles, self.tiles, 2 if self.bench.miniature else 10, device)
        encode = lambda *queries: backbone.encode(images, prompt, mask, *queries)  # noqa: E731
        dense, single = encode(queries), encode()
        said = script(dense.num_queries, 2 if self.bench.miniature else 16, vocabulary).to(device)
        scripted = Scripted(backbone, said)
        leave = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        leave[BACKGROUND] = True
        line = torch.full((1, MAX_LENGTH), END, device=device)
        answer = [FIRST_NAME, FIRST_NAME + 1, *[MASK] * MASKS, FIRST_NAME + 2]
        line[0, : len(answer)] = torch.tensor(answer, device=device)
        one = Scripted(backbone, line)
        plain = Strategy(START, END, MAX_LENGTH)
        guessing = replace(plain, guesses=(MaskRun(MASK, MASKS),))
        first = torch.full((1, 1), START, device=device)
        return {
            "prefix": lambda: encode(queries),
            "answer call": lambda: backbone.answer(single, first, cache=AnswerCache(2)),
            "decode": lambda: default(scripted, dense, leave),
            "one answer: prefix": encode,
            "one answer: calls": lambda: greedy(one, one.context(single), guessing),
            "one answer: token by token": lambda: greedy(one, one.context(single), plain),
        }


def lora(bench: Bench) -> Rows:
    row = partial(_lora, bench)
    if bench.miniature:
        yield "448 px, batch 1", partial(row, 448, 1)
        return
    yield "896 px, batch 2", partial(row, 896, 2)
    yield "896 px, batch 2, compiled", partial(row, 896, 2, compiles=True)
    yield "896 px, batch 2, no checkpointing", partial(row, 896, 2, checkpointing=False)
    if bench.cuda:
        yield "896 px, batch 2, replayed", partial(row, 896, 2, checkpointing=False, replays=True)
    if find_spec("bitsandbytes"):
        yield "896 px, batch 2, base in four bits", partial(row, 896, 2, bits=True)
    for tiles, batch in ((1, 4), (2, 1), (3, 1)):
        yield f"{448 * tiles} px, batch {batch}", partial(row, 448 * tiles, batch)


def _lora(
    bench: Bench,
    pixels: int,
    batch: int,
    bits: bool = False,
    compiles: bool = False,
    checkpointing: bool = True,
    replays: bool = False,
) -> dict[str, float]:
    backbone = backbone_of(bench)
    backbone.gradient_checkpointing, backbone.compiles = checkpointing, compiles
    name = "referring_segmentation"
    tasks = {name: make_task(name, image_size=pixels)}
    model = UFO(backbone, Vocabulary(len(backbone.output_embedding)), tasks, mask_points=0)
    settings = {k: v for k, v in OmegaConf.load(CONF / "lora" / "official.yaml").items() if k != "_target_"}
    apply_lora(backbone, settings)
    if bits:
        pack(backbone)
    model.to(bench.device).train()
    asked, prompt, forced = written(model, Step(name, name, batch, pixels), Assumed())
    asked.masks = torch.zeros(asked.masks.shape, dtype=torch.uint8, device=bench.device)
    images = torch.randint(256, (batch, 3, pixels, pixels), dtype=torch.uint8, device=bench.device)
    loss = lambda: model.forced_pass(images, model.task(name), asked, prompt, forced).losses["loss"]  # noqa: E731
    step = step_of(bench, model, loss)
    if replays:
        return replayed_step(bench, model, step, batch, repeats=2)
    more = {"first s": bench.first(step)} if compiles else {}
    return more | bench.measure(step, batch, repeats=2, products=not compiles)
