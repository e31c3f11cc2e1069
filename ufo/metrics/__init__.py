"""torchmetrics Metrics that torchmetrics lacks, and the tokenisation of captions."""

from ufo.metrics.answers import AnswerAccuracy, normalize_answer
from ufo.metrics.captions import CIDEr, RougeL
from ufo.metrics.coco_ap import CocoAP
from ufo.metrics.grounding import BoxAccuracy
from ufo.metrics.ptb import ptb_tokenize, ptb_words
from ufo.metrics.referring import ReasoningIoU, ReferringIoU, mask_overlap
from ufo.metrics.segmentation import SegmentationScores, class_histograms

__all__ = [
    "AnswerAccuracy",
    "BoxAccuracy",
    "CIDEr",
    "CocoAP",
    "ReasoningIoU",
    "ReferringIoU",
    "RougeL",
    "SegmentationScores",
    "class_histograms",
    "mask_overlap",
    "normalize_answer",
    "ptb_tokenize",
    "ptb_words",
]
