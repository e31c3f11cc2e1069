"""torchmetrics Metrics that torchmetrics lacks, and the tokenisation of captions."""

from ufo.metrics.captions import CIDEr, RougeL
from ufo.metrics.coco_ap import CocoAP
from ufo.metrics.grounding import BoxAccuracy
from ufo.metrics.ptb import ptb_tokenize, ptb_words
from ufo.metrics.segmentation import SegmentationScores, class_histograms

__all__ = [
    "BoxAccuracy",
    "CIDEr",
    "CocoAP",
    "RougeL",
    "SegmentationScores",
    "class_histograms",
    "ptb_tokenize",
    "ptb_words",
]
