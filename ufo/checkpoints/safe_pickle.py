"""Reading files that `torch.save` wrote, mmengine's `.pth` above all, without running what they pickle.

A released file holds `meta`, `state_dict`, `message_hub`. Only tensors and plain values
are rebuilt; mmengine's and numpy's log objects become stand-ins that forget what they are given.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ufo.checkpoints.errors import CheckpointError
from ufo.checkpoints.references import NestedError, check_references


class Ignored:
    """Stands for an object of a training log; takes any arguments and any state, keeps none."""

    def __new__(cls, *args: Any) -> Ignored:
        return super().__new__(cls)

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# What mmengine's logs are made of. Even the functions are classes here: calling one does nothing.
IGNORED = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.logging.message_hub.MessageHub",
    "mmengine.config.config.Config",
    "mmengine.config.config.ConfigDict",
    "builtins.getattr",  # how pickle names a method: the buffers list their statistics
    # what DeepSpeed puts beside the weights
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
    "numpy.ndarray",
    "numpy.dtype",
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")  # numpy 1 and 2
        for name in ("_reconstruct", "scalar")
    ),
)


def read_pickle(path: Path) -> dict[str, Any]:
    """The content of a `torch.save` file, tensors on the CPU.

    Raises CheckpointError for a file that is damaged, that holds code, or that is not a dict; nothing of it
    has been executed.
    """
    content = read_values(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"'{path}' holds a {type(content).__name__}, not a checkpoint's weights")
    return content


def read_values(path: Path) -> Any:
    """The same for a file that may hold anything that is no code: a list of batches, say."""
    try:
        # a file in torch's older format cannot be mapped into memory
        mapped = zipfile.is_zipfile(path)
        check_references(path, mapped)
        with torch.serialization.safe_globals([(Ignored, name) for name in IGNORED]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except NestedError as error:
        raise CheckpointError(f"'{path}' is not loaded: {error}; get the file from its authors") from error
    except Exception as error:
        raise CheckpointError(f"'{path}' {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return (
            f"is not loaded: it asks to run '{named[1]}', which weights do not need; nothing was run. "
            "Get the file from its authors, or save its state_dict alone"
        )
    first_sentence = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0][:120]
    if not _starts_like_one(path):
        return (
            f"is not a checkpoint: torch.save writes no such file ({first_sentence}); give a model folder, a "
            "run, a .ckpt or a .pth"
        )
    return f"cannot be read as a checkpoint; it may be cut short: copy it again ({first_sentence})"


def _starts_like_one(path: Path) -> bool:
    """Whether a file starts as torch.save's zip archives or older pickles do; an empty one was cut."""
    with open(path, "rb") as file:
        start = file.read(2)
    return not start or start[:1] == b"\x80" or start == b"PK"


def state_dict(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights of a file: its `state_dict`, or the file itself if it is nothing but weights.

    `module.`, which data-parallel training puts before all names, is taken off.

    Raises CheckpointError for anything but ordinary tensors.
    """
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"'{path}' holds no weights")
    strange = [name for name, value in state.items() if not _is_plain(value)]
    if strange:
        raise CheckpointError(f"'{path}' is not a set of weights: '{strange[0]}' is not an ordinary tensor")
    return {str(name).removeprefix("module."): value.detach() for name, value in state.items()}


def _is_plain(value: Any) -> bool:
    """A dense tensor with memory of its own: a few bytes must not pretend to be a huge tensor."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    return value.is_meta or value.nbytes <= value.untyped_storage().nbytes()


def trained_tasks(content: Mapping[str, Any]) -> list[str] | None:
    """The tasks that the config text in a file's `meta` lists; None where it does not tell."""
    meta = content.get("meta")
    text = meta.get("cfg") if isinstance(meta, Mapping) else None
    listed = re.search(r"support_tasks\W*[=:]?\s*\[([^\]]*)\]", text) if isinstance(text, str) else None
    return re.findall(r"""['"](\w+)['"]""", listed[1]) if listed else None
