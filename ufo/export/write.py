"""A folder with the parts of an export in the formats that are asked for, each compared with the model.

encoder.pt2 step.pt2              torch.export.load, any torch of about this version
encoder.aoti.pt2 step.aoti.pt2    AOTInductor: compiled for this machine
encoder.onnx step.onnx            onnxruntime
tokenizer.json                    of the library tokenizers
export.json                       what else a program must know: prompt, classes, queries, sizes
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ufo.export.check import check
from ufo.export.errors import ExportError
from ufo.export.parts import Encoder, Part, make_parts
from ufo.export.run import Run, compiled_program, onnx_session, torch_program
from ufo.files import replace_folder, write_json
from ufo.inference.asking import make_requests
from ufo.model import UFO

FORMATS = ("torch", "aoti", "onnx")
OLDEST = 2, 11
"""The first torch with which exporting has been tried and works."""
ONNX_NEEDS = ("onnx", "onnxscript", "onnxruntime")
DESCRIPTION = "export.json"


def export_model(
    model: UFO,
    folder: str | Path,
    task: str | None = None,
    *,
    text: str = "",
    classes: Sequence[str] | None = None,
    formats: Sequence[str] = ("torch",),
    say: Callable[[str], None] = print,
) -> Path:
    """Write the parts of a model for one task into a new folder, whole or not at all.

    Args:
        folder: that is not there yet.
        task: default: the model's first that needs no text.
        text: an example of it where the task needs one; the prompt stays an argument of the encoder.
        classes: names that the task asks for; default: the model's own. They become part of the graph.
        formats: of `FORMATS`.
        say: told what was written and how far it is from the model.

    Raises ExportError for what cannot be exported, or differs from the model; RequestError as `predict` does.
    """
    folder = Path(folder)
    if folder.exists():
        raise ExportError(f"{folder} is there already; name a folder that is not")
    _check_formats(formats)
    _check_model(model)
    (request, *_), _ = make_requests(model, task, [text], classes, strict=True)
    _check_torch(torch.__version__)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.part")
    scratch.mkdir()
    try:
        with model.evaluating():
            parts = make_parts(model, request)
            differences = _write_parts(parts, scratch, formats, say)
        (scratch / "tokenizer.json").write_text(model.tokenizer.to_json(), encoding="utf-8")
        write_json(scratch / DESCRIPTION, _describe(model, parts, request.classes, differences), indent=1)
        replace_folder(scratch, folder, aside=folder.with_name(f".{folder.name}.aside"))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _check_torch(version: str) -> None:
    """Raises ExportError for a torch that makes graphs of one length of an answer only, as 2.6 does."""
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ExportError(f"exporting needs torch {oldest} or a later one, and this is torch {version}")


def _check_formats(formats: Sequence[str]) -> None:
    """Raises ExportError for a format that there is not, or that cannot be written here."""
    unknown = next((kind for kind in formats if kind not in FORMATS), None)
    if unknown is not None:
        raise ExportError(f"there is no format '{unknown}'; there are {', '.join(FORMATS)}")
    if "onnx" in formats:
        missing = [name for name in ONNX_NEEDS if importlib.util.find_spec(name) is None]
        if missing:
            raise ExportError(
                f"ONNX needs {', '.join(missing)}: pip install 'ufo-vision[export]', or leave out onnx"
            )
    if "aoti" in formats and compiler() is None:
        raise ExportError(
            "AOTInductor needs a C++ compiler and there is none; install g++, or name another one in CXX"
        )


def compiler() -> str | None:
    """The C++ compiler that AOTInductor would call."""
    names = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _check_model(model: UFO) -> None:
    if model.backbone.lora:
        raise ExportError("adapters are not exported; merge them into the weights first: ufo convert --merge")


def _write_parts(
    parts: tuple[Part, Part], folder: Path, formats: Sequence[str], say: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """The files, and by format how far their numbers are from the model's."""
    programs = {part.name: _graph(part) for part in parts}
    found = {}
    for kind in formats:
        before = set(folder.iterdir())
        encoder, step = (
            WRITERS[kind](part, programs[part.name], folder / f"{part.name}{SUFFIX[kind]}") for part in parts
        )
        found[kind] = check(parts, (encoder, step), kind)
        worst = ", ".join(f"{name} {value:.1e}" for name, value in found[kind].items())
        size = sum(file.stat().st_size for file in set(folder.iterdir()) - before) / 1e6
        say(f"{kind}: {size:.1f} MB; largest difference to the model: {worst}")
    return found


def _graph(part: Part) -> torch.export.ExportedProgram:
    try:
        return part.program()
    except Exception as error:  # whatever tracing somebody's network may raise
        raise ExportError(
            f"torch.export cannot make a graph of the {part.name} ({_first_line(error)}); "
            "docs/export.md says what can be exported"
        ) from error


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"


# ---------------------------------------------------------------- formats


def _write_torch(part: Part, program: torch.export.ExportedProgram, path: Path) -> Run:
    torch.export.save(program, path)
    return torch_program(path)


def _write_aoti(part: Part, program: torch.export.ExportedProgram, path: Path) -> Run:
    # a documented name of AOTInductor, although the module's begins with an underscore
    from torch._inductor import aoti_compile_and_package

    try:
        with torch.no_grad():
            aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:  # of a compiler, a linker, or the one that writes for them
        raise ExportError(
            f"AOTInductor cannot compile the {part.name} here ({_first_line(error)}); leave out aoti"
        ) from error
    return compiled_program(path)


def _write_onnx(part: Part, program: torch.export.ExportedProgram, path: Path) -> Run:
    from ufo.export.onnx import write_onnx

    # in ONNX an output has a name of its own
    outputs = [f"next_{name}" if name in part.inputs else name for name in part.outputs]
    try:
        write_onnx(program, path, part.inputs, outputs)
    except Exception as error:  # an operation that ONNX does not have
        raise ExportError(
            f"ONNX cannot hold the {part.name} ({_first_line(error.__cause__ or error)}); leave out onnx"
        ) from error
    return onnx_session(path)


SUFFIX = {"torch": ".pt2", "aoti": ".aoti.pt2", "onnx": ".onnx"}
WRITERS: dict[str, Callable[[Part, torch.export.ExportedProgram, Path], Run]] = {
    "torch": _write_torch,
    "aoti": _write_aoti,
    "onnx": _write_onnx,
}


TEXT = "{text}"
"""Stands in `export.json` where the text of a question belongs."""


def _describe(
    model: UFO, parts: tuple[Part, Part], classes: Sequence[str], differences: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """All that a program needs beside the graphs: plain values."""
    encoder = parts[0].module
    assert isinstance(encoder, Encoder)
    task, tokenizer = encoder.task, model.tokenizer
    queries = None if encoder.queries is None else encoder.queries.references[0].tolist()
    return {
        "task": task.name,
        "classes": list(classes),
        "prompt": encoder.ids[0].tolist(),
        "question": model.backbone.chat(task.prompt(classes, TEXT if task.needs_text else "")),
        "image_size": task.image_size,
        "interpolation": task.interpolation,
        "antialias": task.antialias,
        "max_length": task.max_length,
        "end": tokenizer.end_id,
        "mask": tokenizer.mask_id,
        "mask_tokens": task.mask_tokens,
        "num_bins": task.largest_bin or None,
        "queries": queries,
        "inputs": {part.name: list(part.inputs) for part in parts},
        "outputs": {part.name: list(part.outputs) for part in parts},
        "torch": torch.__version__,
        "differences": differences,
    }
