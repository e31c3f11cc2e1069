"""UFO-ViT's words: one plain sentence per task, numbers and masks without anything around.

The last three tasks are not the paper's: they follow the pattern of the others.
"""

from __future__ import annotations

from ufo.tasks.wording.base import Question, Wording

UFO_VIT = Wording(
    questions={
        "detection": Question("Task: detection; Class: {classes},background; Bin: 0 to {num_bins}"),
        "instance_segmentation": Question("Task: instance_segmentation; Class: {classes}."),
        "semantic_segmentation": Question("Task: semantic_segmentation; Class: {classes}."),
        "caption": Question("Task: caption; Give a caption for this image:"),
        "grounding": Question("Task: grounding; Description: {text}"),
        "referring_segmentation": Question("Task: referring_segmentation; Description: {text}"),
        "reasoning_sentence": Question("Task: reasoning_segmentation; Question: {text}"),
        "reasoning_phrase": Question("Task: reasoning_segmentation; Description: {text}"),
        "vqa": Question("Task: vqa; Question: {text}"),
    },
)
