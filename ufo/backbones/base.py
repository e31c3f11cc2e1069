"""The seam between a backbone and everything else (prefix -> query -> answer, paper section 3).

    context = backbone.encode(images, prompts, queries)      once per image
    hidden  = backbone.answer(context, ids)                  any number of times, whole answers or chunks

Shapes: `B` images, `Q` queries per image, `R = B*Q` answer rows, `T` answer tokens, `n` prompt tokens,
`C` width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ufo.backbones.context import AnswerCache, Context, KeysValues
from ufo.backbones.layer_pass import Pass, compile_pass
from ufo.backbones.quirks import Quirks
from ufo.ops.grid import Queries
from ufo.tokenizer import Tokenizer


class Backbone(nn.Module, ABC):
    """Turns images and prompts into a `Context` and runs answer tokens against it. Knows no task.

    A new backbone defines the attributes and the four members of the first part. All others have a default
    that fits a network whose prompt is the question alone.
    """

    # ---------------------------------------------------------------- what every backbone defines

    width: int  # C
    window_pixels: int  # the image's sides are multiples of this

    @abstractmethod
    def encode(
        self,
        images: Tensor,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        queries: Queries | None = None,
        causal: bool = False,
        prompt: Sequence[KeysValues] | None = None,
    ) -> Context:
        """Encode images `[B, 3, H, W]` (uint8 RGB) after their prompts `[B or 1, n]`.

        `prompt_mask [B or 1, n]` is True where a prompt token may be seen. Dense tasks pass their `queries`;
        without them the answer attends to the image directly (Q = 1). `causal`: image tokens do not see later
        image tokens (language models only). `prompt` is what `read_prompt` has made of the prompts, where
        somebody asked it before.
        """

    @abstractmethod
    def answer(
        self,
        context: Context,
        ids: Tensor,
        packed: Tensor | None = None,
        cache: AnswerCache | None = None,
    ) -> Tensor:
        """Hidden states of answer tokens `ids [R, T]`, each of which predicts the next token.

        Returns `[R, T, C]`; with `packed [M]`, flat indices into R*T, only those positions are computed and
        `[M, C]` returned. With a `cache`, `ids` continue what the cache holds.
        """

    @property
    @abstractmethod
    def output_embedding(self) -> Tensor:
        """The matrix `[V, C]` whose product with a hidden state gives the token logits."""

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The arguments that build this backbone again (without weights)."""

    # ---------------------------------------------------------------- prompts

    wording: ClassVar[str] = "ufo_vit"  # how tasks phrase questions and answers, see `ufo.tasks.wording`
    # an answer without queries is the continuation of the prompt's text, not a text of its own
    answers_continue_prompt: ClassVar[bool] = False
    # the end of every prompt, which such a model learns to write itself
    learned_prompt_end: ClassVar[str] = ""

    def chat(self, question: str) -> str:
        """The whole prompt around a task's question: system text, place of the image, role marks."""
        return question

    def follow_up(self, question: str) -> str:
        """A further question of a conversation: the text between the end of one answer and the next."""
        return question

    def encode_prompt(self, ids: Tensor, mask: Tensor) -> Sequence[KeysValues] | None:
        """What `encode` needs of the prompts alone, in every layer; None where it reads all at once."""
        return None

    def read_prompt(self, ids: Tensor, mask: Tensor) -> Sequence[KeysValues] | None:
        """`encode_prompt`, or what it gave for the same prompt before."""
        return self.encode_prompt(ids, mask)

    def attach(self, tokenizer: Tokenizer) -> None:
        """Look up the tokens that this backbone must recognise; called once by the model.

        Raises ValueError where the tokenizer lacks one.
        """

    def check_prompt(self, ids: Tensor, mask: Tensor, height: int, width: int, answer: int) -> None:
        """Raises ValueError where prompts `[B or 1, n]`, still on the CPU, cannot be encoded.

        `answer` is how many tokens may follow, `height` and `width` are those of the image in pixels.
        """

    rounds_prompts: bool = False  # whether in training even a prompt that all images share may end in padding
    max_positions: int | None = None  # so many tokens a prompt may have; None: the network sets no bound
    patch_id: int = -1  # the token that stands for the image in a prompt; -1: none does
    patch_token: str = ""  # and its text

    def prompt_room(self, height: int, width: int, answer: int) -> int | None:
        """So many tokens a prompt may have beside an image of this size and an answer; None: no bound."""
        return self.max_positions

    # ---------------------------------------------------------------- images and answers

    quirks: Quirks = Quirks()  # departures of published code that these weights need

    def grid_windows(self, height: int, width: int) -> tuple[int, int]:
        """How many windows (rows, columns) an image of this size in pixels has.

        Raises ValueError where the size does not divide into whole windows.
        """
        unit = self.window_pixels
        if height % unit or width % unit:
            fits = max(round(height / unit), 1) * unit
            raise ValueError(
                f"image size {width}x{height} does not divide into windows of {unit} pixels; "
                f"use a multiple of {unit}, for example {fits}"
            )
        return height // unit, width // unit

    def answer_features(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """What masks are retrieved with `[R, T, C]`: the states that emitted the decoded ids `[R, T]`."""
        return hidden

    # ---------------------------------------------------------------- layers

    # what the backward pass computes again: no layer, every one (True), every N-th one
    gradient_checkpointing: bool | int = False
    compiles: bool = False  # the passes of training, see `ufo.backbones.layer_pass`

    def run_layer(self, index: int, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)`: a pass through layer `index`, made again in the backward pass if so set."""
        every = int(self.gradient_checkpointing)
        if every and index % every == 0 and self.training and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)

    def compiled(self, function: Pass) -> Pass:
        """The pass, compiled if so set; as written without gradients, where every call has other sizes."""
        return compile_pass(function) if self.compiles and torch.is_grad_enabled() else function

    def use_triton_attention(self, device: torch.device | None = None) -> None:
        """From now on images attend with kernels of their own on a `device`; default: where the weights are.

        Raises ValueError where it has none, Triton is missing, or nothing here would use them.
        """
        raise ValueError(
            f"triton_attention=true is for the relative positions of a UFO-ViT, which {type(self).__name__} "
            "does not have; leave it out"
        )

    # ---------------------------------------------------------------- weights

    @property
    def transformers_model(self) -> nn.Module | None:
        """The model of transformers inside, unmodified, whose files others read; None: a network of ours."""
        return None

    lora: dict[str, Any] | None = None  # settings if not all of it trains, see `ufo.backbones.lora`
    base: dict[str, Any] | None = None  # name and fingerprint of the frozen weights, if a file holds them

    def layer_of(self, parameter: str) -> int | None:
        """The transformer layer a parameter of this name belongs to, None outside the layers."""
        parts = parameter.split(".")
        if "layers" in parts:
            return int(parts[parts.index("layers") + 1])
        return None

    def is_text(self, parameter: str) -> bool:
        """Whether a parameter of this name belongs to the text side (embeddings, output head)."""
        return "embedding." in parameter

    def part_of(self, parameter: str) -> str:
        """vision, projector, embeddings or lm: what a parameter of this name belongs to."""
        if "projector" in parameter or "merger" in parameter:
            return "projector"
        if any(word in parameter for word in ("vision_tower.", ".visual.", "patch_embed", "pos_embed")):
            return "vision"
        return "embeddings" if self.is_text(parameter) else "lm"

    @property
    def device(self) -> torch.device:
        return self.output_embedding.device
