"""Recordings of the published UFO-InternVL and UFO-LLaVA, and our model and batches set up as they were made.

Cases, sizes, prompts and choices are read from the files; the folder's README says what they hold.
Shapes: `B` images, `S` trained queries, `R = B*S` rows, `T` fed answer tokens, `N` prefix, `C` width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from itertools import count
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from mllm_trace import traced
from safetensors.torch import load_file
from torch import Tensor
from vit_recordings import FOLDER as VIT_FOLDER
from vit_recordings import ROOT

from ufo.backbones.base import Backbone
from ufo.backbones.internvl import InternVL
from ufo.backbones.llava import Llava
from ufo.checkpoints.mllm_weights import merge, read_released_mllm
from ufo.hf_tokenizer import HFTokenizer, read_backend
from ufo.model import UFO
from ufo.ops.grid import Queries
from ufo.tasks import make_task, task_class
from ufo.tasks.base import Task
from ufo.tasks.dense import ImageObjects
from ufo.types import Batch

FOLDER = VIT_FOLDER.parent / "mllm"
ABSENT = f"no recordings in {FOLDER}; set UFO_GOLDEN_DIR to the folder that holds mllm/"
TASKS = {"refer_segmentation": "referring_segmentation", "reason_segmentation": "reasoning_segmentation"}
IMAGE = "<image>"


def names(kind: str) -> list[str]:
    """Recorded cases of a kind, `loss` or `pred`: `<folder>/<case>`."""
    return [f"{p.parent.name}/{p.name}" for p in sorted(FOLDER.glob(f"*/*_{kind}_*")) if p.is_dir()]


def smallest(folder: str, *kinds: str) -> Case:
    """The shortest recorded step of a folder that has its texts, of the first of the kinds that has one.

    A conversation was recorded as tokens alone; of predictions only those of one image have no padding.
    """
    for kind in kinds:
        cases = [Case(name) for name in names(kind) if name.startswith(f"{folder}/")]
        found = [case for case in cases if case.texts and "final_normed" in case]
        if kind == "pred":
            found = [case for case in found if len(case["final_normed"]) == 1]
        if found:
            return min(found, key=lambda case: case["final_normed"].numel())
    pytest.skip(f"{FOLDER / folder} has no recorded step with its texts")


def or_skip(found: list) -> list:
    """Parameters of a test, or one that skips it."""
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
    backend = read_backend(path)
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
        before = "user\n" if self.family_name == "internvl" else " User: "
        return [t.split(before, 1)[1].split(f"\n{IMAGE}", 1)[0] for t in self.texts]

    @property
    def answers(self) -> list[str]:
        """What was answered to a prompt alone."""
        opening = {"internvl": "assistant", "llava": " ASSISTANT"}[
            self.family_name
        ] + self.family.backbone.learned_prompt_end
        return [t.rsplit(opening, 1)[1].removesuffix(self.family.end) for t in self.texts]

    # ---------------------------------------------------------------- our side

    @property
    def folder(self) -> str:
        return self.name.split("/")[0]

    def backbone(self, weights: tuple[dict[str, Tensor], dict[str, Any]] | None = None) -> Backbone:
        """Our backbone with the recorded weights, or others; with the published code's known bugs."""
        native, config = weights or merged_weights(self.folder)
        backbone = self.family.backbone(
            vocab_size=config["text_config"]["vocab_size"],
            config=config,
            compat={"end_of_longest_only": True, "embedding_of_first": True, "padded_positions": True},
        )
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
            "causal_image": self.task_name == "vqa" and self.folder == "internvl_lora",
            **more,
        }
        if not settings["grid_interpolate"]:
            del values["samples_per_window"]
        known = {f.name for f in fields(task_class(self.task_name)) if f.init}
        return make_task(self.task_name, **{k: v for k, v in values.items() if k in known and v is not None})

    def model(self, task: Task | None = None, backbone: Backbone | None = None) -> UFO:
        task = task or self.task()
        backbone = backbone or self.backbone()
        return UFO(backbone, tokenizer(self.family_name), {task.name: task}, mask_points=0)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class list of the recorded data set; of one that this project has not, as a prompt names it."""
        known = f"{self.sample['dataset_name'].removesuffix('_seg')}_classes.txt"
        if (path := ROOT / "conf" / "vocab" / known).is_file():
            return tuple(path.read_text(encoding="utf-8").splitlines())
        text = self.meta.get("get_prompt", [""])[0]
        if not text:  # a sampled list: the same classes as a case with the whole list
            text = self._whole_list()
        question = text.split(f"\n{IMAGE}")[0]
        if self.task_name == "semantic_segmentation":
            return tuple(question.rsplit("(", 1)[1].split(")")[0].split(","))
        listed = question.split("categories: ")[-1]
        return tuple(listed.split(". The coordinate")[0].removesuffix(".").split(","))

    def _whole_list(self) -> str:
        """The prompt of another case about the same data set and task, which names all classes."""
        for path in sorted((FOLDER / self.folder).glob("*/meta.json")):
            meta = json.loads(path.read_text(encoding="utf-8"))
            same = (meta["samples"][0].get(key) == self.sample[key] for key in ("dataset_name", "task_name"))
            if "get_prompt" in meta and all(same):
                return meta["get_prompt"][0]
        pytest.skip(f"no case of {self.folder} lists the classes of {self.name}")

    def batch(self) -> Batch:
        """Images, annotations and texts."""
        count = len(self.meta["samples"])

        def each(name: str) -> list[Tensor] | None:
            return [self[f"gt{i}_{name}"] for i in range(count)] if f"gt0_{name}" in self else None

        semantic, talks = each("semseg"), None
        if self.task_name == "vqa":
            talks = [[t["value"] for t in s["conversations"]] for s in self.meta["samples"]]
        return Batch(
            task=self.task_name,
            source="golden",
            classes=self.classes if "dataset_name" in self.sample else (),
            images=self["images_uint8"],
            texts=[talk[0].removeprefix(f"{IMAGE}\n") for talk in talks or ()]
            or [s.get("gt_caption", s.get("text", "")) for s in self.meta["samples"]],
            sentences=[s["is_sentence"] for s in self.meta["samples"] if "is_sentence" in s] or None,
            boxes=each("bboxes"),
            labels=[x.long() for x in each("labels") or ()],
            masks=each("masks"),
            semantic=None if semantic is None else torch.stack([s.view(s.shape[-2:]) for s in semantic]),
            sizes=[tuple(s["ori_shape"]) for s in self.meta["samples"]],
            conversations=talks,
        )

    @property
    def blocked(self) -> Tensor:
        """bool `[B, n, n]`, the keys that each recorded token may not see."""
        shape = self["attn_blocked_shape"].tolist()
        bits = np.unpackbits(self["attn_blocked_packbits"].numpy(), count=np.prod(shape))
        return torch.from_numpy(bits).view(shape)[:, 0].bool()

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
        patches = []
        if self.texts:
            patches.append(patch.object(type(task), "prompts", lambda *_, **__: self.questions))
        if "batch_select_index" in self:
            grid = model.grid(task, *self["images_uint8"].shape[-2:])
            chosen = self.order(grid)[self["batch_select_index"]]
            patches.append(patch("ufo.tasks.dense.sample_per_window", lambda *_, **__: chosen))
            if self.task_name == "semantic_segmentation":
                images = count()

                def assign(_: Task, objects: ImageObjects, *__: Any) -> Tensor:
                    return self._regions(next(images), objects, grid)

                patches.append(patch.object(type(task), "assign", assign))
        elif self.task_name in ("referring_segmentation", "reasoning_segmentation"):
            answers = iter(self.answers)
            patches.append(patch("ufo.tasks.wording.base.Wording.write_mask", lambda *_, **__: next(answers)))
        with ExitStack() as stack:
            for one in patches:
                stack.enter_context(one)
            yield

    def _regions(self, i: int, objects: ImageObjects, grid: Queries) -> Tensor:
        """The recorded assignment of the queries of image `i`."""
        recorded = self["grid_target_tokens"][i][:, 0]  # [Q], the class of each query
        place = (recorded[:, None] == objects.labels).int()
        ours = torch.full_like(recorded, -1)
        ours[self.order(grid)] = torch.where(place.any(1), place.argmax(1), -1)
        return ours


# ---------------------------------------------------------------- weights


@lru_cache(maxsize=3)
def merged_weights(folder: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Native weights with their LoRA merged, and the config they are of."""
    native, lora, described = read_weights(folder, heads(folder))
    return merge(native, lora), described["config"]


def read_weights(folder: str, config: dict[str, Any]):
    """What `read_released_mllm` makes of the recorded weights and a config."""
    family = folder.split("_")[0]
    known = json.loads((FOLDER / "tokenizer" / f"{family}_ids.json").read_text(encoding="utf-8"))["ids"]
    key, token = ("image_token_id", "<IMG_CONTEXT>") if family == "internvl" else ("image_token_index", IMAGE)
    return read_released_mllm(released_weights(folder), {**config, key: known[token]})


def released_weights(folder: str) -> dict[str, Tensor]:
    """Recorded weights by their official names."""
    return load_file(FOLDER / f"{folder}_tiny.safetensors")


@lru_cache
def native_names(folder: str) -> dict[str, list[str]]:
    """Official name of a weight or factor -> native names of its parts, found out with numbers as values."""
    config, weights = heads(folder), released_weights(folder)
    numbered = {k: torch.full_like(v, i) for i, (k, v) in enumerate(weights.items())}
    with patch(f"{__name__}.released_weights", lambda _: numbered):
        native, lora, _ = read_weights(folder, config)
    found: dict[str, list[str]] = {name: [] for name in weights}
    for name, value in {**native, **lora}.items():
        found[[*weights][int(value.flatten()[0])]].append(name)
    return found


@lru_cache
def heads(folder: str) -> dict[str, dict[str, int]]:
    """Numbers of attention heads, which no file tells: those that come closest to a recording.

    Nothing else is fitted, and every test must still agree.
    """
    case, numbers = smallest(folder, "loss", "pred"), (1, 2, 3, 4, 6, 8, 12, 16)

    def closest(part: str, recorded: str, **others: int) -> int:
        distance = {n: _distance(case, {**others, part: n}, recorded) for n in numbers}
        return min(distance, key=distance.get)

    possible = closest("text_config", "projector_out", vision_config=1)  # one that the widths allow
    chosen = {"vision_config": closest("vision_config", "projector_out", text_config=possible)}
    chosen["text_config"] = closest("text_config", "final_normed", **chosen)
    return {part: {"num_attention_heads": number} for part, number in chosen.items()}


@torch.no_grad()
def _distance(case: Case, numbers: dict[str, int], recorded: str) -> float:
    """How far a model with so many heads is from a recorded tensor."""
    config = {part: {"num_attention_heads": number} for part, number in numbers.items()}
    try:
        native, lora, described = read_weights(case.folder, config)
    except ValueError:  # the text's widths do not divide into so many
        return float("inf")
    if any(described["config"][part]["hidden_size"] % n for part, n in numbers.items()):
        return float("inf")
    backbone = case.backbone((merge(native, lora), described["config"]))
    with traced(backbone) as seen:
        case.model(backbone=backbone).encode(case["images_uint8"][:1], case.questions[:1], None)
    ours = seen.patches if recorded == "projector_out" else seen.prefix[-1]
    return float((ours - case[recorded][: len(ours), : ours.shape[1]]).abs().mean())
