"""The files of RefCOCO and gRefCOCO that say which texts mean which annotations: a pickle, or JSON.

See docs/published_system.md#refer. A reference has `ann_id` (gRefCOCO: a list), `image_id`, `split` and
`sentences`, each with `sent`.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from ufo.data.datasets.base import read_json
from ufo.data.errors import DataError


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts and containers only: a pickle that names any other class is refused.

    Pickle needs no global name for dict, list, tuple, str, bytes and numbers, so none but `set` is
    looked up, and a name that is not looked up can't be called.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in {"builtins", "__builtin__"} and name in {"set", "frozenset"}:
            return {"set": set, "frozenset": frozenset}[name]
        raise pickle.UnpicklingError(f"it wants to run {module}.{name}")


def read_refs(path: str | Path) -> list[dict[str, Any]]:
    """The refs of RefCOCO's pickle or gRefCOCO's JSON; nothing that the file contains is executed.

    Raises DataError if it holds anything but plain data, is cut short or lacks a field.
    """
    refs = read_json(path) if Path(path).suffix == ".json" else _read_pickle(path)
    if not isinstance(refs, list) or not all(map(_is_ref, refs)):
        raise DataError(
            f"{path} is not a list of refs with ann_id, image_id, split and sentences with `sent`."
        )
    return refs


def _read_pickle(path: str | Path) -> Any:
    try:
        with open(path, "rb") as file:
            # The official files are Python 2 pickles, whose texts are bytes to decode.
            return _PlainUnpickler(file, encoding="utf-8", errors="replace").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"{path} is refused: {error}; refs files hold plain data only.") from error
    except Exception as error:  # a broken pickle can fail in any way
        raise DataError(f"{path} is not a refs pickle or is cut short ({error}).") from error


def _is_ref(ref: Any) -> bool:
    if not isinstance(ref, dict) or not {"ann_id", "image_id", "split", "sentences"} <= ref.keys():
        return False
    # what is nested here could be a few bytes that spell gigabytes
    meant, sentences = ref["ann_id"], ref["sentences"]
    means = meant if isinstance(meant, (list, tuple)) else [meant]
    ids = all(isinstance(key, (int, str)) for key in (*means, ref["image_id"], ref["split"]))
    return (
        ids
        and isinstance(sentences, (list, tuple))
        and all(isinstance(s, dict) and "sent" in s for s in sentences)
    )
