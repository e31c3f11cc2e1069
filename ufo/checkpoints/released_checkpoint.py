"""What released checkpoints of all backbones share: weights, and a recipe in `conf/` for the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ufo.checkpoints import recipes

if TYPE_CHECKING:
    from omegaconf import DictConfig


class ReleasedCheckpoint(ABC):
    """A released checkpoint, recognised; its weights carry the names of `UFO.state_dict`."""

    path: Path
    backbone: dict[str, Any]  # as in a model's description
    weights: dict[str, Tensor]

    @property
    @abstractmethod
    def name(self) -> str:
        """What a reader of the paper calls it."""

    def describe(
        self,
        vocab: str | Path | None = None,
        tasks: Sequence[str] | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
        overrides: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The description (see `UFO.describe`) of the model with these weights.

        Args:
            vocab: a vocabulary (`vocab.txt` or `tokenizer.json`), a folder with one, or a name on the hub;
                default: the one beside the checkpoint, else the recipe's.
            tasks: names of tasks; default: those that the file names, else all that recipe and tensors allow.
            classes: class names by task instead of the published data sets'.
            overrides: of the config; a language model's must name the experiment that made it, a UFO-ViT's
                default is the experiment of its size and, if it is one, task.

        Raises CheckpointError or FileNotFoundError saying what does not fit or is not there.
        """
        cfg, tokenizer, settings, backbone = self._recipe(vocab, tasks, overrides)
        named = {name: (classes or {}).get(name) or recipes.class_names(name) for name in settings}
        return {
            "backbone": backbone,
            "tasks": settings,
            "classes": {name: list(names) for name, names in named.items() if names},
            **tokenizer.describe(),
            **recipes.loss_settings(cfg),
        }

    @abstractmethod
    def _recipe(
        self, vocab: str | Path | None, tasks: Sequence[str] | None, overrides: Sequence[str]
    ) -> tuple[DictConfig, Any, dict[str, dict], dict[str, Any]]:
        """Config, tokenizer, the settings of the chosen tasks by name, and the described backbone."""
