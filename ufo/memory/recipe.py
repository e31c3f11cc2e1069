"""The memory of a training as its config describes it, from a model without values; no data are read.

What only the data know is assumed (`Assumed`): lengths of prompts and answers, objects in an image.
Shapes: `B` images, `S` trained queries of an image, `R = B*S` answer rows, `T` tokens, `M` masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from ufo.backbones.lora import apply_lora, check_packing, in_four_bits, pack
from ufo.checkpoints.read import no_values
from ufo.checkpoints.recipes import make_tasks
from ufo.head.teacher import TeacherForcing
from ufo.memory.meta import Activations, activations
from ufo.memory.sizes import Held, Size, gathered, held, moments_of, size_of
from ufo.model import UFO
from ufo.modules.recording import check_recorded
from ufo.ops.grid import Queries
from ufo.tasks.base import Asked, Task
from ufo.tasks.dense import DenseTask, MaskTask

# tokens of published tokenizers, without those that this project adds: counted where they are not at hand
TOKENS = {
    "bert-base-uncased": 30522,
    "OpenGVLab/InternVL2_5-8B": 92553,
    "OpenGVLab/InternVL2-8B": 92553,
    "OpenGVLab/InternVL3-8B-hf": 151674,
    "OpenGVLab/InternVL3_5-4B-HF": 151681,
    "llava-hf/llava-1.5-7b-hf": 32064,
    "Qwen/Qwen2.5-VL-3B-Instruct": 151665,
    "Qwen/Qwen3-VL-4B-Instruct": 151669,
}
HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": None}


@dataclass(frozen=True)
class Assumed:
    """What only the data know."""

    objects: int = 16  # of an image
    names: int = 250  # tokens of a prompt with 80 class names
    question: int = 64  # tokens of any other prompt


class Vocabulary:
    """Stands for a tokenizer that is not at hand: it has as many tokens and knows no text."""

    start_id, end_id, pad_id, has_mask, max_prompt_length = 0, 1, 2, True, 10**6

    def __init__(self, tokens: int):
        self.tokens, self.mask_id = tokens, tokens - 1

    def __len__(self) -> int:
        return self.tokens

    def token_id(self, token: str) -> int:
        """Any token that is asked for is the same one, which no other part of a prompt is."""
        return self.tokens - 2


def vocabulary(settings: Mapping[str, Any]) -> Vocabulary:
    """As large as the tokenizer of these settings. Raises ValueError for one that is not known."""
    name = str(settings["name_or_path"])
    if Path(name).exists():
        return Vocabulary(len(instantiate(settings)))
    if name not in TOKENS:
        raise ValueError(
            f"how many tokens '{name}' has is not known without downloading it; say it with --tokens"
        )
    # UFOTokenizer appends <MASK> unless it is told not to, and its own two words
    own = 2 + bool(settings.get("mask_token", True)) if "UFOTokenizer" in settings["_target_"] else 0
    return Vocabulary(TOKENS[name] + len(settings.get("added") or ()) + own)


def meta_model(cfg: DictConfig, tokens: int | None = None) -> UFO:
    """The model that a config trains, on the meta device. Raises ValueError where that takes its weights."""
    network = cfg.backbone.network
    if network.get("pretrained"):
        raise ValueError(
            f"only the weights of backbone.network.pretrained={network.pretrained} say how large it is; "
            "give backbone.network.config, as conf/backbone has it for the published models"
        )
    words: Any = Vocabulary(tokens) if tokens else vocabulary(cfg.backbone.tokenizer)
    with no_values():
        backbone = instantiate(network, vocab_size=len(words))
        model = UFO(backbone, words, make_tasks(cfg), mask_points=cfg.mask_points)
        apply_lora(backbone, instantiate(cfg.lora))
    model.to("meta")
    if cfg.triton_attention:
        model.use_triton_attention()
    if (backbone.lora or {}).get("bits"):
        pack(backbone)
    return model.train()


# ---------------------------------------------------------------- the shapes of a step


@dataclass(frozen=True)
class Step:
    """One training batch of a source."""

    source: str
    task: str
    batch: int
    side: int


def steps_of(cfg: DictConfig, model: UFO) -> list[Step]:
    """The batches that a recipe trains with; sources of the same task, size and batch count as one."""
    found: dict[tuple[str, int, int], Step] = {}
    for source in cfg.sources.values():
        if source and source.dataset.get("train"):
            side = model.task(source.task).image_size
            size = source.task, int(source.get("batch_size", 1)), side
            found.setdefault(size, Step(source.name, *size))
    return [*found.values()]


def trained_queries(model: UFO, task: Task, side: int) -> Queries | None:
    """The first of each window's queries, as many as a training batch has."""
    grid = model.grid(task, side, side)
    if grid is None or not isinstance(task, DenseTask):
        return None
    by_window = grid.windows[0].argsort(stable=True).view(-1, task.grid_per_window**2)
    return grid.select(by_window[:, : task.samples_per_window].reshape(1, -1), by_window=True)


def written(model: UFO, step: Step, assumed: Assumed) -> tuple[Asked, tuple[Tensor, Tensor], TeacherForcing]:
    """As of `encode_training`: an object is answered by `repeat` queries, in `max_length` tokens."""
    task, words = model.task(step.task), model.tokenizer
    queries = trained_queries(model, task, step.side)
    rows, say, silent = 1, 1, 0
    if isinstance(task, DenseTask) and queries is not None:
        rows = queries.references.shape[1]
        say, silent = min(assumed.objects * task.repeat, rows), 2 * task.answers_background
    asked = Asked([], queries)
    with_masks = isinstance(task, MaskTask) or task.mask_tokens > 0
    if with_masks:
        asked.mask_counts = [say] * step.batch
        asked.masks = torch.empty(say * step.batch, step.side, step.side, dtype=torch.uint8, device="meta")
    lengths = ([task.max_length] * say + [silent] * (rows - say)) * step.batch
    prompt = min(assumed.names if queries is not None else assumed.question, model.prompt_limit)
    ids = torch.full((1 if queries is not None else step.batch, prompt), words.start_id)
    ids[:, prompt // 2] = words.token_id("the image")
    return asked, (ids, torch.ones_like(ids, dtype=torch.bool)), _forced(lengths, task, words, with_masks)


def _forced(lengths: list[int], task: Task, words: Any, with_masks: bool) -> TeacherForcing:
    length = max(lengths)
    inputs = torch.full((len(lengths), length), words.start_id)
    packed = (torch.arange(length) < torch.tensor(lengths)[:, None]).flatten().nonzero()[:, 0]
    targets = torch.full((len(packed),), words.end_id)
    if with_masks:
        place, long = packed % length, torch.tensor(lengths)[packed // length] == length
        targets[(place < task.mask_tokens) & long] = words.mask_id
    return TeacherForcing(inputs, packed, targets, None)


# ---------------------------------------------------------------- the estimate


@dataclass(frozen=True)
class Estimate:
    """Bytes per device of a training."""

    size: Size
    strategy: str
    devices: int
    precision: str
    held: Held
    gathered: float
    recorded: float  # by the recordings of steps, which keep the memory of the largest one and gradients
    steps: dict[Step, Activations]
    others: dict[Step, Activations]  # of the largest step, with checkpointing switched
    checkpointing: bool

    def total(self, step: Activations) -> float:
        """At most, within such a step; steps with checkpointing are not recorded."""
        recorded = 0.0 if step in self.others.values() else self.recorded
        return self.held.total + self.gathered + recorded + step.peak


def estimate(cfg: DictConfig, assumed: Assumed, tokens: int | None = None) -> Estimate:
    """Of the training that a config describes. Raises ValueError where it cannot be told."""
    model = meta_model(cfg, tokens)
    strategy, devices = strategy_of(cfg), devices_of(cfg)
    precision, all_recorded = precision_of(cfg), cfg.cuda_graphs == "all"
    if in_four_bits(model):
        check_packing(cfg.compile, strategy != "ddp")
    if all_recorded:
        checkpointing = cfg.backbone.network.get("gradient_checkpointing", False)
        check_recorded(cfg.compile, checkpointing, precision == "16-mixed")
        if strategy != "ddp":
            raise ValueError(f"cuda_graphs=all does not go with {strategy}; leave it out, or use trainer=ddp")
    half, size = HALF[precision], size_of(model)
    kept = held(strategy, size, devices, half is not None, moments_of(instantiate(cfg.optimizer)))
    if strategy.startswith("deepspeed") and half is not None:
        model.to(half)
    network: Any = model.backbone
    switch = bool(network.gradient_checkpointing)
    steps = {step: step_activations(model, step, half, assumed) for step in steps_of(cfg, model)}
    if not steps:
        raise ValueError("no source has training data, so nothing would be trained")
    largest = max(steps, key=lambda step: steps[step].peak)
    network.gradient_checkpointing = not switch
    others = {largest: step_activations(model, largest, half, assumed)}
    more = gathered(strategy, size, devices)
    recorded = steps[largest].peak + kept.gradients if all_recorded else 0.0
    return Estimate(size, strategy, devices, precision, kept, more, recorded, steps, others, switch)


def step_activations(model: UFO, step: Step, half: torch.dtype | None, assumed: Assumed) -> Activations:
    """Of one batch of a source."""
    images = torch.empty(step.batch, 3, step.side, step.side, dtype=torch.uint8, device="meta")
    asked, prompt, forced = written(model, step, assumed)
    task = model.task(step.task)
    return activations(
        model, lambda: model.forced_pass(images, task, asked, prompt, forced).losses["loss"], half
    )


def strategy_of(cfg: DictConfig) -> str:
    """The strategy's name in `ufo.memory.sizes`; one device needs none."""
    strategy = cfg.trainer.get("strategy")
    target = strategy if isinstance(strategy, str) else (strategy or {}).get("_target_", "ddp")
    if "DeepSpeed" in target:
        return f"deepspeed_stage{strategy.stage}"
    return "fsdp" if "fsdp" in target.lower() else "ddp"


def devices_of(cfg: DictConfig) -> int:
    """How many devices train; `auto` counts as one."""
    devices = cfg.trainer.get("devices", 1)
    count = len(devices) if not isinstance(devices, (int, str)) else int(devices) if devices != "auto" else 1
    return max(count, 1) * int(cfg.trainer.get("num_nodes", 1))


def precision_of(cfg: DictConfig) -> str:
    """The precision on a GPU of today. Raises ValueError for one whose memory is not estimated."""
    precision = str(cfg.trainer.get("precision", "32-true"))
    precision = "bf16-mixed" if precision == "auto" else precision
    if precision not in HALF:
        known = ", ".join(["auto", *HALF])
        raise ValueError(f"memory is estimated for trainer.precision={known}, not {precision}")
    return precision
