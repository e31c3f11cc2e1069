"""What an offline run of Weights & Biases has in its file: protobuf records in LevelDB's log framing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER, BLOCK = 7, 32768  # of the file and of each record; blocks are padded


def records(folder: Path) -> Iterator[Any]:
    """The records of the one run in `folder`."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.rglob("*.wandb")
    data, at, message = path.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # the rest of a block is too short for a header
            at += BLOCK - at % BLOCK
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        message += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(message)
            message = b""


def finished(folder: Path) -> list[Any]:
    """All records of a run; wandb's own process may still be writing after `wandb.finish()`."""
    for _ in range(100):
        found = list(records(folder))
        if found and found[-1].HasField("exit"):
            return found
        time.sleep(0.1)
    raise AssertionError("the offline run was never completed")


def history(found: list[Any]) -> dict[str, dict[int, Any]]:
    """Logged values by key and step."""
    logged: dict[str, dict[int, Any]] = {}
    for record in found:
        row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        step = int(float(row.get("trainer/global_step", -1)))
        for key, value in row.items():
            logged.setdefault(key, {})[step] = json.loads(value)
    return logged
