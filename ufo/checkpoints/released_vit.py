"""From a released UFO-ViT file to a model of this project.

The file brings weights only: tasks, class names and vocabulary are those of the recipe
that it was trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ufo.checkpoints import recipes
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.released_checkpoint import ReleasedCheckpoint
from ufo.tokenizer import UFOTokenizer

if TYPE_CHECKING:
    from omegaconf import DictConfig

SIZES = {768: "b", 1024: "l", 1280: "h"}  # width -> size, as in the names of experiments


@dataclass
class ReleasedViT(ReleasedCheckpoint):
    """A released UFO-ViT."""

    path: Path
    backbone: dict[str, Any]  # as in a model's description
    weights: dict[str, Tensor]  # by the names of `UFO.state_dict`, float32
    trained_tasks: list[str] | None = None  # as far as the file tells

    @property
    def name(self) -> str:
        b = self.backbone
        size = SIZES.get(b["width"])
        return (
            f"UFO-ViT{'-' + size.upper() if size else ''} ({b['depth']}+{b['new_layers']} layers of width "
            f"{b['width']}, {b['image_size']} px, {b['vocab_size']} tokens)"
        )

    def _recipe(
        self, vocab: str | Path | None, tasks: Sequence[str] | None, overrides: Sequence[str]
    ) -> tuple[DictConfig, UFOTokenizer, dict[str, dict], dict[str, Any]]:
        known = None if recipes.names_experiment(overrides) else recipes.experiment_of(self.path)
        if known:
            overrides = [f"experiment={known}", *overrides]
        cfg = recipes.compose(overrides if recipes.names_experiment(overrides) else self._multi(overrides))
        beside = (self.path if self.path.is_dir() else self.path.parent) / "vocab.txt"
        vocab = vocab or (beside if beside.is_file() else cfg.backbone.tokenizer.name_or_path)
        tokenizer = self._tokenizer(vocab)
        settings = self._choose(recipes.task_settings(cfg), tokenizer.has_mask, tasks)
        if len(settings) == 1 and not recipes.names_experiment(overrides):
            cfg = recipes.compose(self._single(next(iter(settings)), overrides))
            settings = {name: recipes.task_settings(cfg)[name] for name in settings}
        return cfg, tokenizer, settings, self.backbone

    def _multi(self, overrides: Sequence[str]) -> list[str]:
        """The overrides of the multi-task recipe of this size."""
        size = SIZES.get(self.backbone["width"])
        if size is None:
            raise CheckpointError(
                f"'{self.path}' is not a released size of UFO-ViT but {self.name}; name the experiment "
                "that has its tasks: ufo convert SRC OUT experiment=NAME"
            )
        return [f"experiment=ufo_vit_{size}_multi", *overrides]

    def _single(self, task: str, overrides: Sequence[str]) -> list[str]:
        """Those of the recipe of one task, whose settings differ a little, where it was released."""
        name = f"ufo_vit_{SIZES[self.backbone['width']]}_{task}"
        known = name in recipes.experiments()
        return [f"experiment={name}", *overrides] if known else self._multi(overrides)

    def _tokenizer(self, vocab: str | Path) -> UFOTokenizer:
        """The tokenizer with as many tokens as the embedding has rows, with `<MASK>` or without."""
        try:
            full = UFOTokenizer.from_pretrained(vocab)
            without = UFOTokenizer(full.vocab, mask_token=False)
        except ValueError as error:
            raise CheckpointError(f"'{vocab}' is not a vocabulary: {error}") from error
        for tokenizer in (full, without):
            if len(tokenizer) == self.backbone["vocab_size"]:
                return tokenizer
        raise CheckpointError(
            f"'{self.path}' knows {self.backbone['vocab_size']} tokens and the vocabulary '{vocab}' makes "
            f"{len(full)}, or {len(without)} without <MASK>; give the vocabulary it was trained with"
        )

    def _choose(
        self, recipe: dict[str, dict], has_mask: bool, wanted: Sequence[str] | None
    ) -> dict[str, dict]:
        """The tasks that this checkpoint can do, of a recipe's; `wanted` ones only where named.

        A position grid smaller than the recipe's largest image belongs to a model of one image size.
        """
        able = {name: s for name, s in recipe.items() if has_mask or "mask_tokens" not in s}
        for name in wanted or ():
            if name not in able:
                reason = "its vocabulary has no <MASK>" if name in recipe else "the recipe has no such task"
                raise CheckpointError(f"'{self.path}' cannot do '{name}': {reason}; can: {', '.join(able)}")
        own = [name for name in self.trained_tasks or () if name in able]
        if wanted or own:
            return {name: able[name] for name in able if name in (wanted or own)}
        size = self.backbone["image_size"]
        if size < max(s["image_size"] for s in recipe.values()):
            able = {name: s for name, s in able.items() if s["image_size"] == size}
        if not able:
            raise CheckpointError(
                f"'{self.path}' was trained on {size} px, which no task of the recipe uses; say with "
                "--tasks what it does: ufo convert SRC OUT --tasks ..."
            )
        return able
