"""The UFO model: backbone + tokenizer + tasks + class names. What users load, call `predict` on and export.

Plain torch (paper section 3): `loss` answers for a training batch, `predict_batch` for an evaluation batch.
Shapes: `B` images, `Q` queries, `R = B*Q` rows, `T` answer tokens, `M` masks or computed tokens,
`K` mask tokens, `C` width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ufo.backbones.base import Backbone
from ufo.backbones.context import Context
from ufo.head.casting import casting_once
from ufo.head.decoding import decode
from ufo.head.learning import Learned, Rule, learn
from ufo.head.replay import replay, replay_training
from ufo.head.said import Said
from ufo.head.strategy import check_settings
from ufo.head.teacher import TeacherForcing, encode_prompts, encode_training, say_cut
from ufo.head.training_inputs import TrainingInputs, make_training_inputs
from ufo.inference import Inference
from ufo.inference.batches import network_input
from ufo.ops.grid import Queries, query_grid
from ufo.ops.nearest import instead
from ufo.tasks.base import Answers, Asked, Task
from ufo.tasks.wording import WORDINGS
from ufo.tokenizer import Tokenizer
from ufo.types import Batch, Prediction

if TYPE_CHECKING:
    from ufo.data.pictures import Picture


def _no_lap(stage: str) -> None:
    """Nobody measures the stages."""


class TrainingPass(NamedTuple):
    """What one training batch gives."""

    losses: dict[str, Tensor]  # the weighted parts and their sum `loss`
    tokens: int  # image patches and answer tokens that were computed


class UFO(Inference, nn.Module):
    """One model for all tasks.

    `classes` maps a task's name to the class names that `predict` asks for when the caller names none.
    `loss_weights` weigh the parts of the loss: token, focal, dice. `mask_points` are sampled per mask;
    0 takes all pixels.
    """

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: Tokenizer,
        tasks: Mapping[str, Task],
        classes: Mapping[str, Sequence[str]] | None = None,
        loss_weights: Mapping[str, float] | None = None,
        mask_points: int = 12544,
    ):
        super().__init__()
        self.backbone, self.tokenizer = backbone, tokenizer
        backbone.attach(tokenizer)
        wording = WORDINGS[backbone.wording]
        self.tasks = {name: task.worded(wording) for name, task in tasks.items()}
        self.classes = {k: tuple(v) for k, v in (classes or {}).items()}
        self.loss_weights = dict(loss_weights or {})
        self.mask_points = mask_points
        self._begun: set[str] = set()  # tasks of which a batch was trained
        self._learn: Callable[[Backbone, TrainingInputs, Rule], Learned] = learn
        rows = len(backbone.output_embedding)
        if rows != len(tokenizer):
            raise ValueError(
                f"the backbone knows {rows} tokens and the tokenizer {len(tokenizer)}; "
                "set backbone.vocab_size to the tokenizer's size"
            )
        masked = [name for name, task in self.tasks.items() if task.mask_tokens]
        if masked and not tokenizer.has_mask:
            raise ValueError(f"the vocabulary has no <MASK>, which the task {masked[0]} answers with")
        for task in self.tasks.values():
            check_settings(task, len(tokenizer))

    def forward(self, batch: Batch) -> dict[str, Tensor] | list[Prediction]:
        """As the detectors of torchvision: `loss` in `train` mode, `predict_batch` in `eval` mode.

        Raises TypeError for anything but a `Batch`, such as pictures.
        """
        if not isinstance(batch, Batch):
            raise TypeError(
                f"a model is called with a Batch (ufo.types), not a {type(batch).__name__}; pictures are for "
                "model.predict(pictures)"
            )
        return self.loss(batch) if self.training else self.predict_batch(batch)

    # ---------------------------------------------------------------- training

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the training loss of one batch (weighted) and their sum `loss`.

        Raises ValueError for a batch that cannot be what was meant (`Batch.check`).
        """
        task = self.task(batch.task)
        batch.check(task.needs)
        if task.needs_text and not all(batch.texts):
            raise ValueError(
                f"the task {task.name} is asked with a text; give batch.texts one for each image"
            )
        if "labels" in task.needs and not batch.classes:
            raise ValueError(f"the task {task.name} asks for classes by name; give batch.classes the names")
        return self.training_pass(batch).losses

    def training_pass(self, batch: Batch) -> TrainingPass:
        """Ask, encode, answer: the losses of one batch, and how many tokens that took."""
        task = self.task(batch.task)
        asked = task.supervise(batch, self.grid(task, *batch.image_size))
        # a network has no place for more tokens than it has positions, if it counts them
        most = task.max_length if task.cuts_answers else self.backbone.max_positions
        if batch.task not in self._begun:
            self._begun.add(batch.task)
            say_cut(self.backbone, self.tokenizer, task, asked)
        ids, mask, forced = encode_training(self.backbone, self.tokenizer, asked, most)
        return self.forced_pass(batch.images, task, asked, (ids, mask), forced)

    def forced_pass(
        self, images: Tensor, task: Task, asked: Asked, prompt: tuple[Tensor, Tensor], forced: TeacherForcing
    ) -> TrainingPass:
        """`training_pass` from where everything is tokens: `prompt` has ids `[B or 1, n]` and their mask."""
        ids, mask = prompt
        self.backbone.check_prompt(ids, mask, images.shape[-2], images.shape[-1], task.max_length)
        device, mask_id = self.backbone.device, self.tokenizer.mask_id
        batch = make_training_inputs(images, asked, prompt, forced, mask_id, device, task.causal_image)
        rule = Rule(self.loss_weights, self.mask_points)
        losses, patches = self._learn(self.backbone, batch, rule)
        return TrainingPass(losses, patches + len(forced.packed))

    # ---------------------------------------------------------------- inference

    def predict_batch(self, batch: Batch, compare: bool = False) -> list[Prediction]:
        """A prediction for each image, in its original size (`batch.sizes`, or those of its targets).

        `compare`: with what it would be under every score that the task may have (`Prediction.under`).
        """
        with casting_once(self):
            task = self.task(batch.task)
            found = self.answer_batch(batch)
            read = task.evaluated if batch.targets else task.read
            if not compare or len(task.scores) < 2:
                return [read(answers) for answers in found]
            return [replace(read(answers), under=task.read_under(answers)) for answers in found]

    def answer_batch(self, batch: Batch, lap: Callable[[str], None] = _no_lap) -> list[Answers]:
        """What was said about each image before a task reads it; call it without gradients.

        `lap` is told the name of each stage when it has ended, for whoever measures them.
        """
        task = self.task(batch.task)
        sizes = batch.sizes or [t.size for t in batch.targets]
        if len(sizes) != len(batch):
            raise ValueError(
                f"the batch has {len(batch)} images and {len(sizes)} original sizes, in whose pixels answers "
                "are; take an evaluation batch, which has targets, or set batch.sizes"
            )
        asked = task.ask(batch, self.grid(task, *batch.image_size))
        context = self.encode(batch.images, asked.prompts, asked.queries, task)
        lap("encode")
        decoded = decode(self.backbone, context, self.tokenizer, task, batch.classes)
        said = Said.of(decoded, context, asked.queries, task, self.tokenizer)
        lap("decode")
        return [said.answers(i, size, batch.classes) for i, size in enumerate(sizes)]

    def chat(
        self,
        image: Picture,
        messages: str | Sequence[Mapping[str, Any]],
        max_length: int | None = None,
        image_size: int | None = None,
    ) -> str:
        """Answer a free question about one image, or the last one of a conversation (language models).

        Args:
            image: as in `predict`.
            messages: a question, or OpenAI's list of `{"role", "content"}`, see `ufo.chat.read_messages`.
            max_length: tokens that the answer may have; default: those of the model's own task for questions.
            image_size: pixels per side that the model sees; default: likewise, else one tile.

        Raises ValueError for a UFO-ViT, which has no free text, and for messages that are no conversation.
        """
        from ufo import chat
        from ufo.data.pictures import as_image

        task = chat.chat_task(self, max_length, image_size)
        with self.evaluating():
            return chat.answer(self, network_input(as_image(image), task), messages, task)

    @contextmanager
    def evaluating(self, again: bool = False) -> Iterator[None]:
        """In `eval` mode inside, and as before afterwards.

        `again`: a model that is in that mode already has not changed since the last time. To set the mode
        once more would make it forget the prompts that it has read.
        """
        training = self.training
        if training or not again:
            self.eval()
        try:
            yield
        finally:
            if training:
                self.train()

    # ---------------------------------------------------------------- shared

    def describe(self) -> dict[str, Any]:
        """All that builds this model again, without weights: plain values only, fit for JSON."""
        optional = {"lora": self.backbone.lora, "base": self.backbone.base, "packages": self.packages}
        return {
            "backbone": {"type": type(self.backbone).__name__, **self.backbone.config},
            **{key: value for key, value in optional.items() if value},
            "tasks": {name: task.settings for name, task in self.tasks.items()},
            "classes": {name: list(names) for name, names in self.classes.items()},
            **self.tokenizer.describe(),
            "loss_weights": self.loss_weights,
            "mask_points": self.mask_points,
        }

    @property
    def packages(self) -> list[str]:
        """The packages other than this one that its tasks and its backbone are from."""
        modules = [type(part).__module__ for part in (self.backbone, *self.tasks.values())]
        return sorted({module.partition(".")[0] for module in modules} - {"ufo"})

    def compile_backbone(self) -> None:
        """Compile the passes of training through each layer (`ufo.backbones.layer_pass`)."""
        self.backbone.compiles = True

    def use_cuda_graphs(self, training: bool = False) -> None:
        """From now on record what is predicted on a CUDA device and replay it (`ufo.head.replay`).

        A model that is elsewhere, as after `ufo.load` without a device, is recorded once it has been moved
        there, and warns until then. Raises ValueError where torch has no CUDA device.

        Args:
            training: what is learned from a batch as well, forward and backward.
        """
        if self.backbone.device.type != "cuda":
            if not torch.cuda.is_available():
                raise ValueError("use_cuda_graphs() needs a CUDA device, and torch has none; leave it out")
            warnings.warn(
                f"the model is on {self.backbone.device}, where nothing is recorded; move it to a GPU with "
                'model.to("cuda") or device="cuda"',
                stacklevel=2,
            )
        self.record_passes(training)

    def record_passes(self, training: bool = False) -> None:
        """As `use_cuda_graphs`, of a model that its trainer will move to the device."""
        replay(self.backbone)
        if training and self._learn is learn:
            self._learn = replay_training(self.backbone)

    def use_triton_attention(self, device: torch.device | None = None) -> None:
        """From now on images attend with Triton kernels, on CUDA in half precision (UFO-ViT; docs/speed.md).

        `device`: where the model will be; default: where it is. Raises ValueError where that is no CUDA
        device, Triton is missing, or for another backbone.
        """
        self.backbone.use_triton_attention(device)

    def task(self, name: str) -> Task:
        """The task of that name. Raises ValueError that lists the tasks of this model."""
        if name not in self.tasks:
            raise ValueError(f"this model has no task '{name}'; {instead(name, self.tasks, 'it has')}")
        return self.tasks[name]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.device

    @property
    def prompt_limit(self) -> int:
        """The most tokens that a prompt may have: longer ones would be cut, or have no position."""
        limit = self.tokenizer.max_prompt_length
        return min(self.backbone.max_positions or limit, limit)

    @property
    def prompt_bound(self) -> str:
        """The setting that `prompt_limit` comes from."""
        if self.prompt_limit < self.tokenizer.max_prompt_length:
            return "backbone.network.max_positions"
        return "backbone.tokenizer.max_prompt_length"

    def grid(self, task: Task, height: int, width: int) -> Queries | None:
        """The full query grid of a dense task, on the CPU; None for a task with one answer per image.

        Raises ValueError where the backbone cannot cut an image of this size into whole windows.
        """
        rows, cols = self.backbone.grid_windows(height, width)
        return query_grid(rows, cols, task.grid_per_window) if task.grid_per_window else None

    def encode(
        self, images: Tensor, prompts: Sequence[str], queries: Queries | None, task: Task | None = None
    ) -> Context:
        """Encode images `[B, 3, H, W]` with questions, put into the backbone's chat format, and queries."""
        continued = queries is None and self.backbone.answers_continue_prompt
        ids, mask = encode_prompts(self.backbone, self.tokenizer, prompts, continued)
        return self._encode(images, ids, mask, queries, task)

    def _encode(
        self, images: Tensor, ids: Tensor, mask: Tensor, queries: Queries | None, task: Task | None
    ) -> Context:
        height, width = images.shape[-2:]
        self.backbone.check_prompt(ids, mask, height, width, task.max_length if task else 0)
        moved = None if queries is None else queries.map(self._move)
        causal = bool(task and task.causal_image)
        return self.backbone.encode(images, self._move(ids), self._move(mask), moved, causal=causal)

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.backbone.device, non_blocking=True)
