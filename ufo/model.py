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
from ufo.head.losses import sampled_mask_losses, token_loss
from ufo.head.retrieval import retrieve_masks
from ufo.ops.grid import Queries, query_grid
from ufo.ops.masks import resize_mask_logits
from ufo.tasks.base import Answers, Supervision, Task
from ufo.tokenizer import UFOTokenizer
from ufo.types import Batch, Prediction


class UFO(nn.Module):
    """One model for all tasks.

    `classes` maps a task's name to the class names that `predict` asks for when the caller names none.
    `loss_weights` weigh the parts of the loss: token, focal, dice. `mask_points` are sampled per mask.
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
        self.classes = {k: tuple(v) for k, v in (classes or {}).items()}
        self.loss_weights = dict(loss_weights or {})
        self.mask_points = mask_points
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
        prompts = [task.prompt(batch.classes, text) for text in batch.texts]
        context = self.encode(batch.images, prompts, supervision.queries)
        parts = self._answer_losses(context, supervision, task.max_length)
        parts = {k: v * self.loss_weights.get(k, 1.0) for k, v in parts.items()}
        return {"loss": sum(parts.values()), **parts}

    def _answer_losses(
        self, context: Context, supervision: Supervision, max_length: int
    ) -> dict[str, Tensor]:
        """Teacher forcing: every token of an answer predicts the next; only those positions are computed."""
        texts = [a for a in supervision.answers if a is not None]
        encoded = iter(self.tokenizer.encode(texts, max_length if context.num_queries == 1 else None))
        rows = [next(encoded) if a is not None else [] for a in supervision.answers]
        ids = self.tokenizer.pad(rows)  # [R, T+1]
        inputs, targets = ids[:, :-1], ids[:, 1:]
        packed = (targets != self.tokenizer.pad_id).flatten().nonzero()[:, 0]  # [M]
        targets = targets.flatten()[packed]
        device = self.backbone.device
        hidden = self.backbone.answer(
            context,
            inputs.to(device, non_blocking=True),
            packed.to(device, non_blocking=True),
        )  # [M, C]
        embedding = self.backbone.output_embedding
        losses = {"token": token_loss(hidden, targets.to(device, non_blocking=True), embedding)}
        if supervision.masks is not None:
            emits = (targets == self.tokenizer.mask_id).nonzero()[:, 0].to(device, non_blocking=True)
            masks = supervision.masks.to(device, non_blocking=True)
            embeddings = hidden[emits].unflatten(0, (len(masks), -1)) if len(masks) else None
            losses |= self._mask_losses(embeddings, masks, context, supervision.mask_counts)
        return losses

    def _mask_losses(self, embeddings, masks, context, counts) -> dict[str, Tensor]:
        features = context.image_features
        # without a mask an empty part of the features keeps every rank's graph the same
        empty = features[:0, ..., 0]
        logits = empty if embeddings is None else retrieve_masks(embeddings, features, counts)
        return sampled_mask_losses(logits, masks, self.mask_points)

    # ---------------------------------------------------------------- inference

    @torch.no_grad()
    def predict_batch(self, batch: Batch) -> list[Prediction]:
        """A prediction for each image, in its original size (`batch.sizes`, or those of its targets)."""
        task = self.task(batch.task)
        grid = self.grid(task, *batch.images.shape[-2:])
        prompts = [task.prompt(batch.classes, text) for text in batch.texts]
        context = self.encode(batch.images, prompts, grid)
        decoded = decode(self.backbone, context, self.tokenizer, task)
        sizes = batch.sizes or [t.size for t in batch.targets]
        return [
            task.parse(self._answers(i, decoded, context, grid, size, batch.classes))
            for i, size in enumerate(sizes)
        ]

    def _answers(self, image, decoded: Decoded, context, grid, size, classes) -> Answers:
        """The decoded rows of one image as a task reads them."""
        queries = context.num_queries
        rows = slice(image * queries, (image + 1) * queries)
        ids = decoded.ids[rows]
        is_mask = ids == self.tokenizer.mask_id
        features = context.image_features[image : image + 1]

        def masks(chosen: Tensor) -> Tensor:
            if not len(chosen):
                return features.new_zeros(0, *size, dtype=torch.float32)
            embeddings = decoded.features[rows][chosen][is_mask[chosen]]
            embeddings = embeddings.unflatten(0, (len(chosen), -1))  # [M, K, C]
            logits = retrieve_masks(embeddings, features, [len(chosen)])
            return resize_mask_logits(logits, size).sigmoid()

        return Answers(
            texts=self.tokenizer.decode(ids.tolist()),
            scores=decoded.first_scores[rows],
            references=None if grid is None else grid.references[0],
            size=size,
            classes=classes,
            mask_counts=is_mask.sum(1).tolist(),
            masks=masks,
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
        return {
            "backbone": {"type": type(self.backbone).__name__, **self.backbone.config},
            "tasks": {name: task.settings for name, task in self.tasks.items()},
            "classes": {name: list(names) for name, names in self.classes.items()},
            "vocab": list(self.tokenizer.vocab),
            "mask_token": self.tokenizer.has_mask,
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

    def encode(self, images: Tensor, prompts: Sequence[str], queries: Queries | None) -> Context:
        """Encode images `[B, 3, H, W]` with their prompts and queries."""
        ids, mask = self.tokenizer.encode_prompts(prompts)
        to = partial(torch.Tensor.to, device=self.backbone.device, non_blocking=True)
        moved = None if queries is None else queries.map(to)
        return self.backbone.encode(images, to(ids), to(mask), moved)
