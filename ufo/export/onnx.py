"""A graph of torch.export as ONNX, by torch's own translator; needs the extra `export`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram


def write_onnx(program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Translate and save; raises what torch raises for an operation that ONNX does not have."""
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its own progress
        translated = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
            verbose=False,
        )
    assert translated is not None, "a program without a file to write to is returned"
    translated.save(str(path))


def _stable_sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """Sorting as taking all of the largest: of equal ones ONNX takes the first one first."""
    from onnxscript import opset18

    op: Any = opset18  # its types know of no symbol
    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)
