"""Recordings of the published UFO-InternVL and UFO-LLaVA, and our model and batches set up as they were made.

Cases, sizes, prompts and choices are read from the files; the folder's README says what they hold.
Shapes: `B` images, `S` trained queries, `L` answer tokens, `C` width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from vit_recordings import FOLDER as VIT_FOLDER

from ufo.backbones.base import Backbone, Context
from ufo.backbones.internvl import InternVL
from ufo.backbones.llava import Llava
from ufo.checkpoints.official_mllm import merge, read_official_mllm
from ufo.hf_tokenizer import HFTokenizer, read_backend
from ufo.model import UFO
from ufo.ops.grid import Queries
from ufo.tasks import make_task, task_class
from ufo.tasks.base import Task
from ufo.tasks.semantic_segmentation import regions
from ufo.types import Batch

FOLDER = VIT_FOLDER.parent / "mllm"
ABSENT = f"no recordings in {FOLDER}; set UFO_GOLDEN_DIR to the folder that holds mllm/"
TASKS = {"refer_segmentation": "referring_segmentation", "reason_segmentation": "reasoning_segmentation"}
CLASSES = {"coco": "coco_classes.txt"}
IMAGE = "<image>"


def cases(kind: str) -> list:
    """Recorded cases of a kind (`loss` or `pred`) as parameters, or one that skips the test."""
    found = [f"{p.parent.name}/{p.name}" for p in sorted(FOLDER.glob(f"*/*_{kind}_*")) if p.is_dir()]
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=ABSENT))]


@dataclass
class Family:
    """What the files do not say of a family: names of special tokens, widths that no tensor tells."""

    backbone: type[Backbone]
    tokenizer: str
    end: str
    pad: str
    config: dict[str, Any]


FAMILIES = {
    "internvl": Family(InternVL, "internlm2_like", "<|im_end|>", "</s>", {"rms_norm_eps": 1e-5}),
    "llava": Family(Llava, "llama_like", "</s>", "<pad>", {"rms_norm_eps": 1e-5}),
}


@lru_cache
def tokenizer(name: str) -> HFTokenizer:
    """The recorded vocabulary; tokens that the file lists none for get names of no meaning."""
    family = FAMILIES[name]
    known = json.loads((FOLDER / "tokenizer" / f"{name}_ids.json").read_text(encoding="utf-8"))
    path = FOLDER / "tokenizer" / f"{family.tokenizer}.model"
    backend = read_backend(path.read_bytes(), path.suffix)
    pieces = backend.get_vocab_size()
    by_id = {i: text for text, i in known["ids"].items()}
    added = [by_id.get(i, f"<unused{i}>") for i in range(pieces, known["vocab"])]
    words = HFTokenizer(backend, added=added, end=family.end, pad=family.pad)
    assert {t: words.token_id(t) for t in known["ids"]} == known["ids"]
    return words


class Case:
    """One recorded folder."""

    def __init__(self, name: str):
        self.name = name
        self.family_name = name.split("_")[0]
        self.family = FAMILIES[self.family_name]
        self.meta = json.loads((FOLDER / name / "meta.json").read_text(encoding="utf-8"))
        with np.load(FOLDER / name / "tensors.npz") as file:
            self.tensors = {k: torch.from_numpy(file[k]) for k in file.files}
        self.sample = self.meta["samples"][0]
        self.recorded_task = self.sample["task_name"]
        self.task_name = TASKS.get(self.recorded_task, self.recorded_task)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    # ---------------------------------------------------------------- texts

    @cached_property
    def texts(self) -> list[str]:
        """Whole texts: prompts of queries, prompts with their answers otherwise."""
        for key in ("get_prompt_sample", "get_prompt", "get_conversations"):
            if key in self.meta:
                return self.meta[key]
        return []

    @property
    def questions(self) -> list[str]:
        """What was asked, without the chat format."""
        if self.task_name == "vqa":
            return [s["conversations"][0]["value"] for s in self.meta["samples"]]
        before = "user\n" if self.family_name == "internvl" else " User: "
        return [t.split(before, 1)[1].split(f"\n{IMAGE}", 1)[0] for t in self.texts]

    @property
    def answers(self) -> list:
        """Answers of single-answer tasks; of a conversation its turns after the first question."""
        if self.task_name == "vqa":
            talks = [[turn["value"] for turn in s["conversations"][1:]] for s in self.meta["samples"]]
            return [[(text, i % 2 == 0) for i, text in enumerate(turns)] for turns in talks]
        opening = "assistant" + self.family.backbone.opening
        if self.family_name == "llava":
            opening = " ASSISTANT" + self.family.backbone.opening
        return [t.rsplit(opening, 1)[1].removesuffix(self.family.end) for t in self.texts]

    # ---------------------------------------------------------------- our side

    def backbone(self, **compat: bool) -> Backbone:
        """Our backbone with the recorded weights."""
        native, config = _weights(self.name.split("/")[0])
        vision = config["vision_config"]
        backbone = self.family.backbone(
            vocab_size=config["text_config"]["vocab_size"],
            config=config,
            compat={
                "end_of_longest_only": True,
                "embedding_of_first": True,
                "padded_positions": True,
                **compat,
            },
        )
        assert vision["patch_size"] in (14, [14, 14])
        backbone.net.load_state_dict(native)
        return backbone

    def task(self, **more) -> Task:
        """Our task with the recorded settings, as far as the task has them."""
        settings = self.sample["git_cfg"]
        rows, cols = settings["grid_resolution_perwin"]
        assert rows == cols
        values = {
            "image_size": self.sample["img_shape"][0],
            "max_length": 30,
            "num_bins": self.sample["head_cfg"].get("num_bins"),
            "grid_per_window": rows if settings["grid_interpolate"] else 0,
            "samples_per_window": settings["samples_grids_eachwin"],
            "causal_image": self.task_name == "vqa" and self.name.startswith("internvl_lora"),
            **more,
        }
        if not settings["grid_interpolate"]:
            del values["samples_per_window"]
        known = {f.name for f in fields(task_class(self.task_name)) if f.init}
        return make_task(self.task_name, **{k: v for k, v in values.items() if k in known and v is not None})

    def model(self, task: Task | None = None, **compat: bool) -> UFO:
        task = task or self.task()
        model = UFO(self.backbone(**compat), tokenizer(self.family_name), {task.name: task}, mask_points=0)
        return model

    @property
    def classes(self) -> tuple[str, ...]:
        """The class list, as the prompt for the whole list names it."""
        text = self.meta.get("get_prompt", [""])[0]
        if not text:  # a sampled list: the same classes as the case with the whole list
            other = FOLDER / self.name.replace("_sampledprompt", "") / "meta.json"
            text = json.loads(other.read_text(encoding="utf-8")).get("get_prompt", [""])[0]
        question = text.split(f"\n{IMAGE}")[0]
        if self.task_name == "semantic_segmentation":
            return tuple(question.rsplit("(", 1)[1].split(")")[0].split(","))
        listed = question.split("categories: ")[-1]
        return tuple(listed.split(". The coordinate")[0].removesuffix(".").split(","))

    def batch(self) -> Batch:
        """Images, annotations and texts."""
        count = len(self.meta["samples"])

        def each(name: str) -> list[Tensor] | None:
            return [self[f"gt{i}_{name}"] for i in range(count)] if f"gt0_{name}" in self else None

        semantic = each("semseg")
        return Batch(
            task=self.task_name,
            source="golden",
            classes=self.classes if "get_prompt_sample" in self.meta or "get_prompt" in self.meta else (),
            images=self["images_uint8"],
            texts=[s.get("gt_caption", s.get("text", "")) for s in self.meta["samples"]],
            boxes=each("bboxes"),
            labels=[x.long() for x in each("labels") or ()],
            masks=each("masks"),
            semantic=None if semantic is None else torch.stack([s.view(s.shape[-2:]) for s in semantic]),
            sizes=[tuple(s["ori_shape"]) for s in self.meta["samples"]],
        )

    # ---------------------------------------------------------------- grids

    def order(self, grid: Queries) -> Tensor:
        """Index in our grid of each recorded query `[Q]`: theirs go tile by tile."""
        distance = (self["grid_reference"][0][:, None] - grid.references[0]).abs().sum(-1)
        assert distance.amin(1).max() < 1e-5
        return distance.argmin(1)

    @contextmanager
    def recorded_choices(self, model: UFO) -> Iterator[None]:
        """The recorded questions and query choices take the place of our own draws."""
        task = model.task(self.task_name)
        patches = [patch.object(type(task), "prompts", lambda *_, **__: self.questions)]
        if "batch_select_index" in self:
            grid = model.grid(task, *self["images_uint8"].shape[-2:])
            chosen = self.order(grid)[self["batch_select_index"]]
            patches.append(patch("ufo.tasks.dense.sample_per_window", lambda *_, **__: chosen))
            if self.task_name == "semantic_segmentation":
                patches.append(patch.object(type(task), "assign", self._assign_regions))
        elif self.task_name in ("referring_segmentation", "reasoning_segmentation"):
            answers = iter(self.answers)
            patches.append(patch("ufo.tasks.wording.base.Wording.write_mask", lambda *_, **__: next(answers)))
        for one in patches:
            one.start()
        try:
            yield
        finally:
            for one in patches:
                one.stop()

    def _assign_regions(self, batch, i, grid, generator) -> Tensor:
        labels, _ = regions(batch.semantic[i])
        recorded = self["grid_target_tokens"][i][:, 0]  # [Q], the class of each query
        ours = torch.full_like(recorded, -1)
        place = (recorded[:, None] == labels).int()
        found = torch.where(place.any(1), place.argmax(1), -1)
        positive = self["grid_assign_inds"][i].view(-1) >= 0
        ours[self.order(grid)] = torch.where(positive, found, -1)
        return ours


@lru_cache(maxsize=3)
def _weights(folder: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Native weights with their LoRA merged, and the config they are of."""
    family = folder.split("_")[0]
    known = json.loads((FOLDER / "tokenizer" / f"{family}_ids.json").read_text(encoding="utf-8"))["ids"]
    patch_id = known["<IMG_CONTEXT>" if family == "internvl" else "<image>"]
    key = "image_token_id" if family == "internvl" else "image_token_index"
    state = load_file(FOLDER / f"{folder}_tiny.safetensors")
    heads = {"text_config": {"num_attention_heads": 4}, "vision_config": {"num_attention_heads": 2}}
    native, lora, described = read_official_mllm(state, {**heads, key: patch_id})
    return merge(native, lora), described["config"]


class Trace:
    """What entered each decoder layer and left the final norm, once for the prefix, once for answers."""

    def __init__(self):
        self.calls: list[list[Tensor]] = []
        self.rope: list[Tensor] = []
        self.patches: Tensor | None = None
        self.context: Context | None = None

    @property
    def visible(self) -> Tensor:
        """bool `[B, N]`, what is no padding."""
        keys = self.context.memory[0].shared[0]
        shape = (len(keys), keys.shape[2])
        return torch.ones(shape, dtype=torch.bool) if self.context.visible is None else self.context.visible

    @property
    def prefix(self) -> list[Tensor]:
        """Per layer and after the norm `[B, N, C]`."""
        return self.calls[0]

    @property
    def answers(self) -> list[Tensor]:
        """Per layer and after the norm `[1, M, C]`."""
        return self.calls[1]

    @property
    def positions(self) -> tuple[Tensor, Tensor]:
        return self.rope[0], self.rope[1]


@contextmanager
def traced(backbone: Backbone) -> Iterator[Trace]:
    """Listen to a backbone."""
    trace, decoder = Trace(), backbone.decoder
    handles = []

    def entered(index):
        def hook(module, arguments):
            if index == 0:
                trace.calls.append([])
            trace.calls[-1].append(arguments[0].detach())

        return hook

    def left(module, arguments, output):
        trace.calls[-1].append(decoder.norm(output).detach())

    def rotated(module, arguments):
        trace.rope.append(arguments[1])

    def projected(module, arguments, output):
        trace.patches = output.detach()

    encode = backbone.encode

    def encoded(*arguments, **named):
        trace.context = encode(*arguments, **named)
        return trace.context

    for index, layer in enumerate(decoder.layers):
        handles.append(layer.register_forward_pre_hook(entered(index)))
    handles.append(decoder.layers[-1].register_forward_hook(left))
    handles.append(decoder.rotary_emb.register_forward_pre_hook(rotated))
    handles.append(backbone.net.model.multi_modal_projector.register_forward_hook(projected))
    try:
        with patch.object(backbone, "encode", encoded):
            yield trace
    finally:
        for handle in handles:
            handle.remove()


def placed(step, prefix: Tensor, answers: Tensor, recorded: Tensor) -> tuple[Tensor, Tensor]:
    """Our prefix `[B, N, C]` and packed answers `[1, M, C]` beside the recorded `[B, N + ..., C]`.

    Only what our model computes, and no padding, is compared.
    """
    case, forced = step.case, step.forced.result
    length = forced.inputs.shape[1]
    row, at = forced.packed // length, forced.packed % length
    if "batch_select_index" in case:
        queries = case["batch_select_index"].shape[1]
        begin = recorded.shape[1] - queries * (length + 1)  # theirs hold the end token as well
        image, place = row // queries, begin + (row % queries) * (length + 1) + at
    else:
        image, place = row, step.seen.context.start.position[row] + at
    visible = step.seen.visible
    theirs = recorded[:, : prefix.shape[1]][visible]
    return torch.cat([prefix[visible], answers[0]]), torch.cat([theirs, recorded[image, place]])
