"""Recordings of the published UFO-ViT, and our model, tasks and batches set up as they were made.

Cases, sizes, seeds and settings are read from the files; the folder's README says what they hold.
Shapes: `B` images, `S` sampled queries, `L` answer tokens, `C` width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from ufo.backbones.ufo_vit import UFOViT
from ufo.checkpoints.vit_names import architecture, convert_keys
from ufo.model import UFO
from ufo.ops.masks import rle_decode
from ufo.tasks import Task
from ufo.tasks.caption import Caption
from ufo.tasks.detection import Detection
from ufo.tasks.grounding import Grounding
from ufo.tasks.instance_segmentation import InstanceSegmentation
from ufo.tasks.semantic_segmentation import SemanticSegmentation
from ufo.tokenizer import UFOTokenizer
from ufo.types import Batch

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("UFO_GOLDEN_DIR", ROOT.parent / "shared" / "golden")) / "vit"
TASKS = {
    task.name: task for task in (Caption, Detection, Grounding, InstanceSegmentation, SemanticSegmentation)
}


ABSENT = f"no recordings in {FOLDER}; set UFO_GOLDEN_DIR to the folder that holds vit/"


@lru_cache(maxsize=4)
def load(name: str) -> dict[str, Any]:
    """One recorded file; skips the test that asks for it where the folder lacks it."""
    path = FOLDER / f"{name}.pt"
    if not path.is_file():
        pytest.skip(f"{path.name} was not recorded" if FOLDER.is_dir() else ABSENT)
    return torch.load(path, weights_only=True)


def load_json(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def as_parameters(found: list, what: str) -> list:
    """Recorded cases as parameters of a test, or one parameter that skips it with a reason."""
    reason = f"no recorded case of {what}" if FOLDER.is_dir() else ABSENT
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


def cases(kind: str, *tasks: str, keep: Callable[[dict], bool] = lambda recording: True) -> list:
    """Names of the recorded files `kind_*` of these tasks (default: all) that a test can use."""
    names = [path.stem for path in sorted(FOLDER.glob(f"{kind}_*.pt"))]
    fitting = [n for n in names if load(n)["task"] in (tasks or TASKS) and keep(load(n))]
    return as_parameters(fitting, f"{kind} {' '.join(tasks)}")


def parts(name: str, prefix: str = "") -> list:
    """Keys of the sub-cases (dicts) of a recorded file whose names start with `prefix`."""
    file = load(name) if (FOLDER / f"{name}.pt").is_file() else {}
    found = [key for key, value in file.items() if isinstance(value, dict) and key.startswith(prefix)]
    return as_parameters(found, f"{name} {prefix}")


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-4) -> None:
    """Equal to `rtol` of the value or, where that is small, of the tensor's typical value."""
    assert actual.shape == expected.shape
    typical = expected.double().square().mean().sqrt().item() if expected.numel() else 0.0
    torch.testing.assert_close(actual.to(expected.dtype), expected, rtol=rtol, atol=rtol * typical)


class Recordings:
    """What the files of the folder share: config, weights, texts, images."""

    @staticmethod
    def names(pattern: str) -> list[str]:
        """The recorded files of a kind."""
        return sorted(path.stem for path in FOLDER.glob(pattern))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The published config of the recorded model."""
        return load_json("small_model_cfg")["small_model_cfg"]

    @cached_property
    def state_dict(self) -> dict[str, Tensor]:
        """The recorded weights under their published names, float32."""
        parts = [load(name) for name in self.names("small_sd_*.pt")]
        state = {key: value for part in parts for key, value in part.items()}
        return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}

    @cached_property
    def texts(self) -> dict[str, Any]:
        return load_json("prompts_tokenizer")

    @cached_property
    def tokenizer(self) -> UFOTokenizer:
        [vocabulary] = FOLDER.glob("*vocab.txt")
        return UFOTokenizer.from_pretrained(vocabulary)

    def backbone(self) -> UFOViT:
        """The recorded network; what tensors do not tell is from the config."""
        config = self.config["backbone"]
        arch = config["arch"]
        recognised = architecture(self.state_dict, arch["global_attn_indexes"])
        backbone = UFOViT(
            **{
                **recognised,
                "depth": arch["num_layers"],
                "new_layers": len(config["new_more_layers"]),
                "mean_layers": config["mean_layers"],
                "drop_path_rate": config["drop_path_rate"],
                "text_dropout": config["text_cfg"]["hidden_dropout_prob"],
            }
        )
        backbone.load_state_dict(convert_keys(self.state_dict))
        return backbone

    def model(self, recording: dict[str, Any]) -> UFO:
        """The recorded network with the task of one recording."""
        return UFO(self.backbone(), self.tokenizer, {recording["task"]: self.task(recording)})

    def head(self, task: str) -> dict[str, Any]:
        """The published config of a task's head."""
        return self.config["head_list"][f"{task}_head"]

    def task(self, recording: dict[str, Any], **more) -> Task:
        """Our task with the settings of a recording, as far as the task has them."""
        name, meta = recording["task"], recording["meta"]
        head, grid = self.head(name), meta["git_cfg"]
        rows, columns = grid["grid_resolution_perwin"]
        assert rows == columns, "our query grids are square"
        recorded = {
            "image_size": meta["img_shape"][0],
            "max_length": meta["head_cfg"].get("max_length"),
            "num_bins": meta["head_cfg"].get("num_bins"),
            # the published single answer is a 1 x 1 grid whose only query sees the whole image
            "grid_per_window": rows if grid["global_only_image"] else 0,
            "samples_per_window": grid["samples_grids_eachwin"],
            "repeat": head.get("repeat_times"),
            "max_per_image": head.get("test_cfg", {}).get("max_per_img"),
            "nms_iou": head.get("nms", {}).get("iou_threshold"),
            "nms_sigma": head.get("nms", {}).get("sigma"),
            "nms_filter": head.get("nms", {}).get("filter_thr"),
            **more,
        }
        for cost in head.get("train_cfg", {}).get("assigner", {}).get("match_costs", ()):
            recorded["mask_cost" if "Mask" in cost["type"] else "point_cost"] = cost["weight"]
        known = {f.name for f in fields(TASKS[name])}
        return TASKS[name](**{k: v for k, v in recorded.items() if k in known and v is not None})

    def classes(self, recording: dict[str, Any]) -> tuple[str, ...]:
        """The class names of the recording's data set."""
        return tuple(self.texts["class_names"].get(recording["meta"].get("dataset_name"), ()))

    def batch(self, recording: dict[str, Any]) -> Batch:
        """The images of a recording without annotations; what is asked about them comes with it."""
        with np.load(FOLDER / "images_uint8_bgr.npz") as images:
            bgr = torch.from_numpy(images[recording["image_name"]])
        return Batch(
            task=recording["task"],
            source="golden",
            classes=self.classes(recording),
            images=bgr.flip(1),
            texts=self.asked(recording) or [""] * len(bgr),
        )

    def asked(self, recording: dict[str, Any]) -> list[str]:
        """The expressions; an inference file has those of the training file with its images."""
        if recording["task"] != "grounding":
            return []
        if "gt" not in recording:
            twins = [load(name) for name in self.names("train_*.pt")]
            same = [t for t in twins if t["image_name"] == recording["image_name"]]
            if not same:
                pytest.skip(f"the expressions asked about {recording['image_name']} were not recorded")
            recording = same[0]
        return [truth["text"] for truth in recording["gt"]]

    def training_batch(self, recording: dict[str, Any]) -> Batch:
        """The images with their annotations."""
        batch, truth = self.batch(recording), recording["gt"]
        if batch.task == "caption":
            batch.texts = list(truth)
        elif batch.task == "grounding":
            batch.boxes = [t["gt_bboxes"] for t in truth]
        elif batch.task == "semantic_segmentation":
            batch.semantic = torch.stack(list(truth))
        else:
            size = tuple(recording["meta"]["img_shape"])
            batch.boxes = [t["bboxes"] for t in truth]
            batch.labels = [t["labels"] for t in truth]
            batch.masks = [rle_decode(t.get("masks_rle", ()), size) for t in truth]
        return batch


class Call(NamedTuple):
    """One call of a function that a test listens to."""

    arguments: tuple
    result: Any


def _recorder(function, calls: list[Call]):
    def record(*arguments, **named):
        calls.append(Call(arguments, function(*arguments, **named)))
        return calls[-1].result

    return record


@contextmanager
def spied(name: str) -> Iterator[list[Call]]:
    """All calls of the function of that dotted name."""
    calls: list[Call] = []
    original, _ = patch(name).get_original()
    with patch(name, _recorder(original, calls)):
        yield calls


class Trace:
    """What passed a backbone's layers, one entry per layer; the one place that knows its insides."""

    STEPS = ("_prompt_layer", "_update_queries", "_encode_layer", "_answer_layer", "answer")

    def __init__(self, backbone: UFOViT):
        self.backbone = backbone
        self.calls: dict[str, list[Call]] = {step: [] for step in self.STEPS}

    @property
    def text(self) -> list[Tensor]:
        """Prompt after each layer `[B or 1, n, C]`; nothing needs that of the last, so it is made here."""
        calls = self.calls["_prompt_layer"]
        outputs, mask = [call.result[0] for call in calls], calls[-1].arguments[2]
        with torch.no_grad():
            last, *_ = self.backbone._prompt_layer(self.backbone.layers[-1], outputs[-1], mask)
        return [x.detach() for x in (*outputs, last)]

    @property
    def image(self) -> list[Tensor]:
        """Patches after each layer `[B, H, W, C]`."""
        return [call.result[0].detach() for call in self.calls["_encode_layer"]]

    @property
    def entering(self) -> list[Tensor]:
        """Queries before each layer `[B, Q, C]`, with what is added there."""
        return [call.result.detach() for call in self.calls["_update_queries"]]

    @property
    def queries(self) -> list[Tensor]:
        """Queries after each layer `[B, Q, C]`."""
        return [call.result[1].detach() for call in self.calls["_encode_layer"]]

    @property
    def answers(self) -> list[Tensor]:
        """Answer tokens after each layer that they pass `[R, T, C]` or, packed, `[M, C]`."""
        return [call.result.detach() for call in self.calls["_answer_layer"]]


@contextmanager
def traced(backbone: UFOViT) -> Iterator[Trace]:
    """Listen to a backbone."""
    trace = Trace(backbone)
    recorders = {step: _recorder(getattr(backbone, step), calls) for step, calls in trace.calls.items()}
    with patch.multiple(backbone, **recorders):
        yield trace


@contextmanager
def recorded_draws(recording: dict[str, Any]) -> Iterator[None]:
    """The random draws of a training recording take the place of our own."""
    replaced = {
        "ufo.tasks.dense.sample_per_window": lambda *_, **__: recording["select_index"],
        "ufo.head.losses.sample_uncertain_points": lambda *_, **__: recording["points_coords"],
    }
    if "mask_random_cost_rand" in recording:
        replaced["ufo.tasks.semantic_segmentation.SemanticSegmentation.noise"] = _recorded_noise(recording)
    patches = [patch(name, function) for name, function in replaced.items()]
    with ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        yield


def class_order(matched: dict[str, Tensor], repeat: int) -> Tensor:
    """Columns of a recorded semantic cost `[Q, repeat*N]` in our order: classes ascending."""
    count = len(matched["gt_labels"]) // repeat
    order = matched["gt_labels"][:count].argsort()
    return (torch.arange(repeat)[:, None] * count + order).flatten()


def _recorded_noise(recording: dict[str, Any]):
    images = iter(zip(recording["mask_random_cost_rand"], recording["hungarian"], strict=True))

    def noise(task: SemanticSegmentation, queries: int, objects: int, generator) -> Tensor:
        recorded, matched = next(images)
        assert recorded.shape == (queries, objects)
        return recorded[:, class_order(matched, task.repeat)]

    return noise
