"""The UFO model: backbone + tokenizer + tasks + class names. What users load, call `predict` on and export.

Plain torch (paper section 3; design section 1): `loss` answers for a training batch, `predict_batch` for an
evaluation batch. Shapes: `B` images, `Q` queries, `R = B*Q` rows, `T` answer tokens, `C` width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as TF

from ufo.backbones.base import Backbone, Context
from ufo.head.decoding import Decoded, decode
from ufo.head.losses import full_mask_losses, sampled_mask_losses, token_loss
from ufo.head.retrieval import retrieve_masks
from ufo.head.teacher import Written, continue_prompts, teacher_forcing, write_answers
from ufo.ops.grid import Queries, query_grid
from ufo.ops.masks import resize_mask_logits
from ufo.tasks.base import Answers, Supervision, Task
from ufo.tasks.wording import WORDINGS
from ufo.tokenizer import UFOTokenizer
from ufo.types import Batch, Prediction


class UFO(nn.Module):
    """One model for all tasks.

    `classes` maps a task's name to the class names that `predict` asks for when the caller names none.
    `loss_weights` weigh the parts of the loss: token, focal, dice. `mask_points` are sampled per mask;
    0 takes all pixels.
    """

    def __init__(
        self,
        backbone: Backbone,
        tokenizer: UFOTokenizer,
        tasks: Mapping[str, Task],
        classes: Mapping[str, Sequence[str]] | None = None,
        loss_weights: Mapping[str, float] | None = None,
        mask_points: int = 12544,
    ):
        super().__init__()
        self.backbone, self.tokenizer = backbone, tokenizer
        self.tasks = dict(tasks)
        backbone.attach(tokenizer)
        for task in self.tasks.values():
            task.wording = WORDINGS[backbone.wording]
        self.classes = {k: tuple(v) for k, v in (classes or {}).items()}
        self.loss_weights = dict(loss_weights or {})
        self.mask_points = mask_points
        self.last_tokens = 0  # image patches and answer tokens of the last training batch
        rows = len(backbone.output_embedding)
        if rows != len(tokenizer):
            raise ValueError(
                f"the backbone knows {rows} tokens and the tokenizer {len(tokenizer)}; "
                "set backbone.vocab_size to the tokenizer's size"
            )
        masked = [name for name, task in self.tasks.items() if hasattr(task, "mask_tokens")]
        if masked and not tokenizer.has_mask:
            raise ValueError(f"the vocabulary has no <MASK>, which the task {masked[0]} answers with")

    # ---------------------------------------------------------------- training

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the training loss of one batch (weighted) and their sum `loss`."""
        task = self.task(batch.task)
        grid = self.grid(task, *batch.images.shape[-2:])
        supervision = task.supervise(batch, grid)
        prompts = task.prompts(batch, supervision)
        answers = supervision.answers
        if self.backbone.continues and supervision.queries is None:
            ids, mask, rows = continue_prompts(
                self.backbone, self.tokenizer, prompts, answers, task.max_length
            )
        else:
            limit = task.max_length if supervision.queries is None else None
            ids, mask = self.tokenizer.encode_prompts([self.backbone.chat(p) for p in prompts])
            rows = write_answers(self.backbone, self.tokenizer, answers, limit)
        context = self._encode(batch.images, ids, mask, supervision.queries, task)
        parts = self._answer_losses(context, supervision, rows)
        parts = {k: v * self.loss_weights.get(k, 1.0) for k, v in parts.items()}
        return {"loss": sum(parts.values()), **parts}

    def _answer_losses(
        self, context: Context, supervision: Supervision, rows: Sequence[Written]
    ) -> dict[str, Tensor]:
        """Teacher forcing: every token of an answer predicts the next; only those positions are computed."""
        longest_only = self.backbone.compat.end_of_longest_only and supervision.queries is not None
        forced = teacher_forcing(self.tokenizer, rows, longest_only)
        to = partial(torch.Tensor.to, device=self.backbone.device, non_blocking=True)
        hidden = self.backbone.answer(context, to(forced.inputs), to(forced.packed))  # [M, C]
        self.last_tokens = context.image_features.shape[:-1].numel() + len(forced.packed)
        if forced.supervised is not None:  # some tokens are only there for others to see
            hidden = hidden[to(forced.supervised)]
        embedding = self.backbone.output_embedding
        losses = {"token": token_loss(hidden, to(forced.targets), embedding)}
        if supervision.masks is not None:
            emits = to((forced.targets == self.tokenizer.mask_id).nonzero()[:, 0])
            masks = to(supervision.masks)
            embeddings = hidden[emits].unflatten(0, (len(masks), -1)) if len(masks) else None
            losses |= self._mask_losses(embeddings, masks, context, supervision.mask_counts)
        return losses

    def _mask_losses(self, embeddings, masks, context, counts) -> dict[str, Tensor]:
        features = context.image_features
        # without a mask an empty part of the features keeps every rank's graph the same
        empty = features[:0, ..., 0]
        logits = empty if embeddings is None else retrieve_masks(embeddings, features, counts)
        if not self.mask_points:
            return full_mask_losses(logits, masks)
        return sampled_mask_losses(logits, masks, self.mask_points)

    # ---------------------------------------------------------------- inference

    @torch.no_grad()
    def predict_batch(self, batch: Batch) -> list[Prediction]:
        """A prediction for each image, in its original size (`batch.sizes`, or those of its targets)."""
        task = self.task(batch.task)
        grid = self.grid(task, *batch.images.shape[-2:])
        prompts = task.prompts(batch)
        context = self.encode(batch.images, prompts, grid, task)
        decoded = decode(self.backbone, context, self.tokenizer, task, batch.classes)
        sizes = batch.sizes or [t.size for t in batch.targets]
        return [
            task.parse(self._answers(i, decoded, context, grid, size, batch.classes, task))
            for i, size in enumerate(sizes)
        ]

    def _answers(self, image, decoded: Decoded, context, grid, size, classes, task: Task) -> Answers:
        """The decoded rows of one image as a task reads them."""
        per_image = len(decoded.ids) // len(context.image_features)
        rows = slice(image * per_image, (image + 1) * per_image)
        ids = decoded.ids[rows]
        is_mask = ids == self.tokenizer.mask_id
        mask_tokens = getattr(task, "mask_tokens", 0)
        features = context.image_features[image : image + 1]

        def mask_logits(chosen: Tensor) -> Tensor:
            emitted = is_mask[chosen]
            emitted = emitted & (emitted.cumsum(1) <= mask_tokens)  # the first mask of each answer
            embeddings = decoded.features[rows][chosen][emitted]
            embeddings = embeddings.unflatten(0, (len(chosen), -1))  # [M, K, C]
            return retrieve_masks(embeddings, features, [len(chosen)])

        def masks(chosen: Tensor) -> Tensor:
            if not len(chosen):
                return features.new_zeros(0, *size, dtype=torch.float32)
            return resize_mask_logits(mask_logits(chosen), size).sigmoid()

        references = None if grid is None else grid.references[0].to(ids.device)
        if references is not None and decoded.queries is not None:
            references = references[decoded.queries[rows]]
        return Answers(
            texts=self.tokenizer.decode(ids.tolist()),
            scores=decoded.first_scores[rows],
            references=references,
            size=size,
            classes=classes,
            mask_counts=is_mask.sum(1).tolist(),
            masks=masks,
            mask_logits=mask_logits,
        )

    def predict(
        self,
        image,
        task: str,
        text: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> Prediction:
        """Answer one task about one image.

        Args:
            image: path, PIL image, or uint8 RGB tensor `[3, H, W]`.
            task: name of a task that this checkpoint has.
            text: what to look for (grounding).
            classes: class names to ask for; default: those the model was trained with.

        Returns:
            a `Prediction` in the pixels of `image`.
        """
        from ufo.data.datasets.base import as_image

        chosen = self.task(task)
        if chosen.needs_text and not text:
            raise ValueError(f"task '{task}' needs a text: predict(image, '{task}', text=...)")
        pixels = as_image(image)
        size = tuple(pixels.shape[-2:])
        side = [chosen.image_size, chosen.image_size]
        resized = TF.resize(pixels, side, antialias=True)
        batch = Batch(
            task=task,
            source="predict",
            classes=tuple(classes or self.classes.get(task, ())),
            images=resized[None].as_subclass(Tensor).to(self.backbone.device),
            texts=[text or ""],
            sizes=[size],
        )
        training = self.training
        self.eval()
        try:
            return self.predict_batch(batch)[0].to("cpu")
        finally:
            self.train(training)

    # ---------------------------------------------------------------- shared

    def describe(self) -> dict:
        """All that builds this model again, without weights: plain values only, fit for JSON."""
        partial = {"lora": self.backbone.lora, "base": self.backbone.base}
        return {
            "backbone": {"type": type(self.backbone).__name__, **self.backbone.config},
            **{key: value for key, value in partial.items() if value},
            "tasks": {name: task.settings for name, task in self.tasks.items()},
            "classes": {name: list(names) for name, names in self.classes.items()},
            **self.tokenizer.describe(),
            "loss_weights": self.loss_weights,
            "mask_points": self.mask_points,
        }

    def compile_backbone(self) -> None:
        """Compile the two entry points of the backbone with `torch.compile`; names of weights stay."""
        self.backbone.encode = torch.compile(self.backbone.encode, dynamic=True)
        self.backbone.answer = torch.compile(self.backbone.answer, dynamic=True)

    def task(self, name: str) -> Task:
        """The task of that name; KeyError-free: says which tasks this model has."""
        if name not in self.tasks:
            raise ValueError(f"this model has no task '{name}'; it has: {', '.join(self.tasks)}")
        return self.tasks[name]

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
        ids, mask = self.tokenizer.encode_prompts([self.backbone.chat(p) for p in prompts])
        return self._encode(images, ids, mask, queries, task)

    def _encode(self, images, ids, mask, queries, task: Task | None) -> Context:
        self.backbone.check_prompt(ids, mask, *images.shape[-2:], task.max_length if task else 0)
        to = partial(torch.Tensor.to, device=self.backbone.device, non_blocking=True)
        moved = None if queries is None else queries.map(to)
        return self.backbone.encode(images, to(ids), to(mask), moved, causal=bool(task and task.causal_image))
