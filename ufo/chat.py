"""Free questions about an image, over several turns: what public evaluators ask of a model.

Language models alone answer them (`UFO.chat`); the chat format is the backbone's. `ufo/evaluators.py` has the
interfaces of lmms-eval and VLMEvalKit around it.
Messages are those of OpenAI's format: `{"role": "user", "content": text or parts}` in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ufo.head.decoding import decode
from ufo.tasks.base import Task
from ufo.tasks.vqa import VQA

if TYPE_CHECKING:
    from ufo.model import UFO

IMAGE = "<image>"  # where a message wants the image
Messages = str | Sequence[Mapping[str, Any]]


def read_messages(messages: Messages) -> tuple[str, list[str]]:
    """System text and turns (question, answer, question, ..., question) of a text or of OpenAI's messages.

    Raises ValueError that says what is wrong with them.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if isinstance(messages, Mapping) or not all(isinstance(message, Mapping) for message in messages):
        raise ValueError(
            'messages are a question, or a list like [{"role": "user", "content": "What is it?"}]'
        )
    system, turns = "", list[str]()
    for message in messages:
        role, text = message.get("role"), _text(message.get("content"))
        if role == "system" and not turns:
            system = text
            continue
        expected = ("user", "assistant")[len(turns) % 2]
        if role != expected:
            raise ValueError(f"message {len(turns) + 1} is from {role!r}; user and assistant must take turns")
        turns.append(text)
    if not turns or len(turns) % 2 == 0:
        raise ValueError("the last message must be the user's, as the model answers it")
    marked = [i for i, text in enumerate(turns) if IMAGE in text]
    if marked not in ([], [0]) or turns[0].count(IMAGE) > 1:
        raise ValueError(f"a conversation is about one image; name it once, in the first message ({IMAGE})")
    return system, turns


def _text(content: Any) -> str:
    """The text of a message; `<image>` where one of its parts is an image."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ValueError(f"the content of a message is a text or a list of parts, not {content!r:.60}")
    written = []
    for part in content:
        kind = str(part.get("type")) if isinstance(part, Mapping) else type(part).__name__
        if kind == "text":
            written.append(str(part["text"]))
        elif kind in ("image", "image_url"):
            written.append(IMAGE)
        else:
            raise ValueError(
                f"a message has a part of the kind '{kind}'; there are text, image and image_url"
            )
    return "\n".join(written)


@torch.no_grad()
def answer(model: UFO, images: Tensor, messages: Messages, task: Task) -> str:
    """What the model says next about one image uint8 `[1, 3, H, W]`, already in the size of `task`."""
    backbone, words = model.backbone, model.tokenizer
    if not backbone.answers_continue_prompt:
        raise ValueError(
            f"a {type(backbone).__name__} has no free text to chat in; ask one of its tasks with predict(), "
            "or load a language model (InternVL, LLaVA, Qwen-VL)"
        )
    system, turns = read_messages(messages)
    first = turns[0] if IMAGE in turns[0] else f"{IMAGE}\n{turns[0]}"
    text = _with_system(backbone, system, first)
    for said, asked in zip(turns[1::2], turns[2::2], strict=True):
        text += said + words.end + backbone.follow_up(asked)
    ids, mask = words.encode_prompts([backbone.quirks.asked(text)])
    height, width = images.shape[-2:]
    backbone.check_prompt(ids, mask, height, width, task.max_length)
    device = backbone.device
    context = backbone.encode(
        images.to(device), ids.to(device), mask.to(device), None, causal=task.causal_image
    )
    return words.decode(decode(backbone, context, words, task).ids.tolist())[0].strip()


def _with_system(backbone: Any, system: str, question: str) -> str:
    """The chat format around a first question, with another system text where the messages bring one."""
    if not system:
        return backbone.chat(question)
    before, backbone.system = backbone.system, system
    try:
        return backbone.chat(question)
    finally:
        backbone.system = before


def chat_task(model: UFO, max_length: int | None = None, image_size: int | None = None) -> Task:
    """How questions are answered: the model's own task for them, or one tile; what is given wins."""
    known = next((task for task in model.tasks.values() if isinstance(task, VQA)), None)
    usual = {"image_size": model.backbone.window_pixels, "interpolation": "bicubic", "antialias": True}
    settings = {**(known.settings if known else usual), "num_beams": 1, "constrained": False}
    given = {"max_length": max_length, "image_size": image_size}
    return VQA(**{**settings, **{key: value for key, value in given.items() if value}})
