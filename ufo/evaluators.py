"""A UFO language model behind the interfaces of public evaluators, lmms-eval and VLMEvalKit.

They bring the benchmarks and their scores (paper table 5: GQA, MMBench, MMVP, HallusionBench), this module
what they call. Neither is imported: docs/evaluators.md has the few lines that register the classes with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ufo.model import UFO

MAX_NEW_TOKENS = 64  # where an evaluator asks for no number; its benchmarks expect a word or a letter


class LmmsEval:
    """What lmms-eval asks of a model: a text for each request (`generate_until`).

    A request's `args` are `(context, doc_to_messages, generation, doc_id, task, split)`, and
    `task_dict[task][split][doc_id]` is the record that `doc_to_messages` makes chat messages of.

    Args:
        pretrained: a checkpoint for `ufo.load`, or a loaded model.
        device, base: as for `ufo.load`.
        image_size: pixels per side; default: those of the model's own task for questions.
    """

    is_simple = False  # requests are chat messages, not a text with a list of pictures

    def __init__(
        self,
        pretrained: str | Path | UFO,
        device: str = "cpu",
        base: str | None = None,
        image_size: int | None = None,
        batch_size: int | str = 1,
    ) -> None:
        super().__init__()
        self.model = _loaded(pretrained, device, base)
        self.image_size = None if image_size is None else int(image_size)
        self.task_dict: dict[str, Any] = {}  # the evaluator fills it
        self._rank, self._world_size = 0, 1

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers to requests about one image each, in their order."""
        return [self._answer(request.args) for request in requests]

    def _answer(self, request: Sequence[Any]) -> str:
        _, doc_to_messages, generation, doc_id, task, split = request
        messages = doc_to_messages(self.task_dict[task][split][doc_id])
        images = [part["url"] for m in messages for part in _parts(m) if part.get("type") == "image"]
        if len(images) != 1:
            raise ValueError(f"{task}: a request with {len(images)} images; UFO answers about one")
        said = self.model.chat(
            images[0], messages, int(generation.get("max_new_tokens") or MAX_NEW_TOKENS), self.image_size
        )
        until = generation.get("until") or ()
        for stop in [until] if isinstance(until, str) else until:
            said = said.split(stop)[0] if stop else said
        return said

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not for this model: benchmarks that compare likelihoods have a form that generates."""
        raise NotImplementedError("UFO generates answers; choose the benchmark's form with generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not for this model."""
        raise NotImplementedError("UFO answers single requests; choose a benchmark with generate_until")


class VLMEval:
    """What VLMEvalKit asks of a model: `generate(message, dataset)`.

    A message is a list of `{"type": "image" | "text", "value": path or text}`.
    """

    is_api = False
    INTERLEAVE = False

    def __init__(
        self, model_path: str | Path | UFO, device: str = "cpu", base: str | None = None, **options: Any
    ) -> None:
        self.model = _loaded(model_path, device, base)
        self.max_length = int(options.pop("max_new_tokens", MAX_NEW_TOKENS))
        self.image_size = options.pop("image_size", None)
        if options:
            raise ValueError(f"VLMEval has no option '{min(options)}'; it has max_new_tokens and image_size")

    def generate(self, message: Sequence[Mapping[str, str]], dataset: str | None = None) -> str:
        """The answer to a message about one image."""
        images = [part["value"] for part in message if part["type"] == "image"]
        if len(images) != 1:
            raise ValueError(f"{dataset}: a message with {len(images)} images; UFO answers about one")
        content = [
            {"type": "image"} if part["type"] == "image" else {"type": "text", "text": part["value"]}
            for part in message
        ]
        said = [{"role": "user", "content": content}]
        return self.model.chat(images[0], said, self.max_length, self.image_size)

    generate_inner = generate

    def use_custom_prompt(self, dataset: str) -> bool:
        """Whether the model writes a benchmark's prompts itself: the evaluator does."""
        return False

    def set_dump_image(self, dump_image: Any) -> None:
        """Where the evaluator would keep pictures of its records; paths come with the messages."""


def _loaded(model: str | Path | UFO, device: str, base: str | None) -> UFO:
    import ufo

    return ufo.load(model, device, base) if isinstance(model, (str, Path)) else model


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content")
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
