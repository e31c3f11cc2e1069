"""The yaml of a source for data in one of the forms that the loaders read (docs/your_data.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATASETS = "ufo.data.datasets"
# the tasks that each kind of annotation is for
BOXES, MASKS, CLASS_MAPS = "detection", "instance_segmentation", "semantic_segmentation"
CAPTIONS, BOX_TEXTS, MASK_TEXTS, TALKS = "caption", "grounding", "referring_segmentation", "vqa"
LOADERS: dict[str, tuple[str, dict[str, str]]] = {
    BOXES: ("CocoDataset", {"annotations": "{split}.json"}),
    MASKS: ("CocoDataset", {"annotations": "{split}.json"}),
    CLASS_MAPS: (
        "SemanticDataset",
        {"labels": "maps", "classes": "classes.txt", "split": "maps_{split}.txt"},
    ),
    CAPTIONS: ("CaptionDataset", {"annotations": "captions_{split}.json"}),
    BOX_TEXTS: ("JsonlDataset", {"annotations": "expressions_{split}.jsonl"}),
    MASK_TEXTS: ("JsonlDataset", {"annotations": "expressions_{split}.jsonl"}),
    TALKS: ("JsonlDataset", {"annotations": "{split}.jsonl"}),
}
"""By task: the loader, and its arguments as files in the folder of the data."""
TRANSFORMS = {BOXES: "cropped", MASKS: "cropped"}
"""By task: how pictures are varied; `plain` for the others, whose texts may say where a thing is."""


@dataclass
class SourceFile:
    """A source of one task, and what of its loader's arguments is not as in `LOADERS` (None: left out)."""

    task: str
    train: dict[str, Any] = field(default_factory=dict)
    val: dict[str, Any] = field(default_factory=dict)

    def text(self, key: str, name: str, images: Path, folder: Path, about: str) -> str:
        """The yaml of the source `key` (`# @package sources.KEY`); data of the name `name`."""
        loader, arguments = LOADERS[self.task]
        lines = [
            f"# @package sources.{key}",
            f"# {about}",
            f"defaults: [/transform@transform: {TRANSFORMS.get(self.task, 'plain')}]",
            f"name: {_quoted(f'{name}/{self.task}')}",
            f"task: {self.task}",
            "weight: 1.0",
            "batch_size: 4",
            "dataset:",
            f"  images: {_quoted(str(images))}",
            f"  folder: {_quoted(str(folder))}",
        ]
        for split in ("train", "val"):
            given = {k: "${..folder}/" + v.format(split=split) for k, v in arguments.items()}
            given = {"images": "${..images}", **given, **getattr(self, split)}
            given = {k: v for k, v in given.items() if v is not None}
            lines += [
                f"  {split}:",
                f"    _target_: {DATASETS}.{loader}",
                "    _partial_: true",
                *(f"    {k}: {v if _refers(v) else _quoted(v)}" for k, v in given.items()),
                *(["    train: true"] if split == "train" else []),
            ]
        return "\n".join(lines) + "\n"


def source_key(name: str, task: str, main: bool) -> str:
    """What a source is called: as the data for the main task, with the task's name for the others."""
    return name if main else f"{name}_{task}"


def _refers(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("${..folder}/", "${..images}"))


def _quoted(value: Any) -> str:
    """A value for yaml and OmegaConf: `${` in a path is no reference."""
    if isinstance(value, str):
        return json.dumps(value.replace("${", "\\${"), ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)
