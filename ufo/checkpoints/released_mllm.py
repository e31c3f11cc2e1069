"""From a released UFO-InternVL or UFO-LLaVA file to a model of this project.

The file brings weights only: tasks, class names, tokenizer and what tensors do not tell
are those of the recipe that it was trained with. A LoRA is merged into its weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ufo.checkpoints import recipes
from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.mllm_base import with_base
from ufo.checkpoints.mllm_weights import merge, read_released_mllm
from ufo.checkpoints.model_folder import NET
from ufo.checkpoints.released_checkpoint import ReleasedCheckpoint
from ufo.hf_tokenizer import HFTokenizer
from ufo.tokenizer_files import JSON, MODEL

if TYPE_CHECKING:
    from omegaconf import DictConfig

BACKBONES = {"internvl": "InternVL", "llava": "Llava"}  # family -> class of ufo.backbones


class ReleasedMLLM(ReleasedCheckpoint):
    """A released checkpoint of a language-model backbone: `path`, and the released names in `state`.

    `base` is the model under a LoRA, for a file that holds only what was trained.
    """

    def __init__(self, path: Path, state: Mapping[str, Tensor], base: str | Path | None = None):
        self.path, self.state, self.base = path, with_base(state, path, base), base
        self._config: Mapping[str, Any] = {}  # of a recipe: what tensors do not tell

    @cached_property
    def _read(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        try:
            return read_released_mllm(self.state, self._config)
        except ValueError as error:
            raise CheckpointError(f"'{self.path}': {error}") from error

    @property
    def backbone(self) -> dict[str, Any]:  # type: ignore[override]  # it is worked out, nobody sets it
        """As in a model's description."""
        native, _, found = self._read
        types = Counter(str(v.dtype).removeprefix("torch.") for v in native.values())
        return {
            "type": BACKBONES[found["family"]],
            "vocab_size": found["config"]["text_config"]["vocab_size"],
            "config": found["config"],
            "dtype": types.most_common(1)[0][0],
        }

    @property
    def weights(self) -> dict[str, Tensor]:  # type: ignore[override]  # it is worked out, nobody sets it
        """By the names of `UFO.state_dict`, with the LoRA in them."""
        native, lora, _ = self._read
        return {NET + k: v for k, v in merge(native, lora).items()}

    @property
    def name(self) -> str:
        found = self._read[2]
        text, lora = found["config"]["text_config"], found["lora"]
        form = f"LoRA of rank {lora['rank']}, merged" if lora else "full"
        return (
            f"UFO-{BACKBONES[found['family']]} ({text['num_hidden_layers']} layers of width "
            f"{text['hidden_size']}, {text['vocab_size']} tokens, {form})"
        )

    def _recipe(
        self, vocab: str | Path | None, tasks: Sequence[str] | None, overrides: Sequence[str]
    ) -> tuple[DictConfig, HFTokenizer, dict[str, dict], dict[str, Any]]:
        known = None if recipes.names_experiment(overrides) else recipes.experiment_of(self.path)
        if known:
            overrides = [f"experiment={known}", *overrides]
        if not recipes.names_experiment(overrides):
            raise CheckpointError(
                f"'{self.path}' is a language model that does not tell its recipe, and its name is none that "
                "was released; add experiment=NAME (ufo convert, evaluate.py; --experiment NAME of ufo "
                "predict)"
            )
        cfg = recipes.compose(overrides)
        network = recipes.resolved(cfg.backbone.network)
        kind = str(network.pop("_target_")).rpartition(".")[2]
        self._config = network.pop("config", None) or {}
        self.__dict__.pop("_read", None)  # again, now that more is known
        if kind != self.backbone["type"]:
            raise CheckpointError(
                f"'{self.path}' is a {self.name}; the experiment is for another backbone, {kind}"
            )
        for key in ("vocab_size", "pretrained", "dtype"):
            network.pop(key, None)
        tokenizer = self._tokenizer(vocab, recipes.resolved(cfg.backbone.tokenizer))
        settings = recipes.task_settings(cfg)
        strange = [name for name in tasks or () if name not in settings]
        if strange:
            raise CheckpointError(f"the experiment has no task '{strange[0]}'; it has: {', '.join(settings)}")
        settings = {name: s for name, s in settings.items() if name in (tasks or settings)}
        return cfg, tokenizer, settings, {**network, **self.backbone}

    def _tokenizer(self, vocab: str | Path | None, recipe: dict[str, Any]) -> HFTokenizer:
        """The tokenizer, with UFO's tokens, that has as many tokens as the embedding has rows."""
        recipe.pop("_target_", None)
        default = recipe.pop("name_or_path", None)
        folders = [self.path if self.path.is_dir() else self.path.parent, Path(self.base or self.path)]
        beside = [folder for folder in folders if any((folder / name).is_file() for name in (JSON, MODEL))]
        vocab = vocab or (beside[0] if beside else default)
        if vocab is None:
            raise CheckpointError(f"'{self.path}' has no tokenizer beside it; name it with --vocab")
        try:
            tokenizer = HFTokenizer.from_pretrained(vocab, **recipe)
        except FileNotFoundError:
            raise
        except Exception as error:  # tokenizers raises bare exceptions for damaged files
            raise CheckpointError(f"'{vocab}' is not a tokenizer for this model: {error}") from error
        if len(tokenizer) != self.backbone["vocab_size"]:
            raise CheckpointError(
                f"'{self.path}' knows {self.backbone['vocab_size']} tokens and the tokenizer '{vocab}' makes "
                f"{len(tokenizer)}; give the tokenizer it was trained with: --vocab FOLDER"
            )
        return tokenizer
