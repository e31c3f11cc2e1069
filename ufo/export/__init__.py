"""A model as files that run without this package: torch.export, AOTInductor, ONNX (`ufo export`).

Two parts are written for one task of a model: an encoder, from images to all that answers need and the first
token of each answer, and a step, which says one further token.
"""

from __future__ import annotations

from ufo.export.errors import ExportError
from ufo.export.write import FORMATS, export_model

__all__ = ["FORMATS", "ExportError", "export_model"]
