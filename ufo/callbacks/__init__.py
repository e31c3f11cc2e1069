"""Lightning callbacks: one per metric, each usable on its own."""

from ufo.callbacks.answers import VQAScores
from ufo.callbacks.box_map import BoxMAP
from ufo.callbacks.caption import CaptionScores
from ufo.callbacks.grounding import GroundingAccuracy
from ufo.callbacks.mask_map import MaskMAP
from ufo.callbacks.metric import MetricCallback
from ufo.callbacks.miou import MeanIoU
from ufo.callbacks.referring import ReasoningScores, ReferringScores

__all__ = [
    "BoxMAP",
    "CaptionScores",
    "GroundingAccuracy",
    "MaskMAP",
    "MeanIoU",
    "MetricCallback",
    "ReasoningScores",
    "ReferringScores",
    "VQAScores",
]
