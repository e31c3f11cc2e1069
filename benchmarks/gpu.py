"""One table of what matters on a GPU: steps, prefix, decoding, language models, memory, what fits 24 GB.

    python benchmarks/gpu.py [--parts train infer] [--json after.json] [--versus before.json]

The part `digits`, whole trainings that are processes of their own, runs where it is asked for. Without CUDA,
or with --miniature, tiny networks run on the CPU: that shows that the script works and counts pieces of work
(`ufo.ops.launches`) for kernels; its times mean nothing. A row that runs out of memory or time says so, one
that fails too, and the script goes on.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from gpu_attention import attention
from gpu_digits import digits
from gpu_memory import fits, memory
from gpu_mllm import lora, mllm
from gpu_rows import Bench, Row
from gpu_vit import compiled, infer, train

# part: what yields its rows, and its time limit in seconds; together four minutes (--limit 2 for all rows)
# without the last
PARTS = {
    "train": (train, 40),
    "compiled": (compiled, 60),
    "infer": (infer, 60),
    "attention": (attention, 10),
    "mllm": (mllm, 25),
    "lora": (lora, 25),
    "memory": (memory, 10),
    "fits": (fits, 10),
    "digits": (digits, 120),
}
USUAL = [part for part in PARTS if part != "digits"]
COLUMNS = (
    "ms",
    "images/s",
    "boxes/s",
    "TFLOP",
    "of rate",
    "kernels",
    "busy ms",
    "GB",
    "estimated GB",
    "first s",
    "graphs",
)


class OverTimeError(BaseException):
    """A part has reached its limit; nothing that catches errors holds it up."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise OverTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(
    parts: list[str], bench: Bench, limit: float, only: list[str], save: Callable[[list[Row]], None]
) -> list[Row]:
    """The rows of all parts, those with one of the words `only` in their names; saved after each part.

    A part yields the name of a row and a function that measures it.
    """
    rows: list[Row] = []
    for part in parts:
        make, seconds = PARTS[part]
        name = ""
        try:
            with at_most(max(round(seconds * limit), 1)):
                for name, measure in make(bench):
                    if only and not any(word in name for word in only):
                        continue
                    rows.append(row(bench, part, name, measure))
                    bench.forget()
        except OverTimeError:
            rows.append(Row(part, name, {}, f"over the part's {seconds * limit:.0f} s, the rest is left out"))
        except torch.OutOfMemoryError:
            rows.append(Row(part, name or "all", {}, "out of memory before the first row"))
        bench.forget()
        save(rows)
    return rows


def write(file: Path, bench: Bench, rows: list[Row]) -> None:
    content = [{"key": r.key, "values": r.values, "note": r.note, "longest": r.longest} for r in rows]
    about = {"device": bench.name, "torch": torch.__version__, "rate": bench.rate, "rows": content}
    file.write_text(json.dumps(about, indent=1), encoding="utf-8")


def row(bench: Bench, part: str, name: str, measure: Callable[[], dict[str, float]]) -> Row:
    """Measure one row and say it on stderr, for what is cut off before the table; what fails says so."""
    start, bench.longest = time.perf_counter(), []
    try:
        found = Row(part, name, measure(), longest=bench.longest)
    except torch.OutOfMemoryError:
        found = Row(part, name, {}, "out of memory")
    except Exception as error:
        traceback.print_exc()
        found = Row(part, name, {}, f"failed: {type(error).__name__}")
    numbers = ", ".join(f"{_cell(found.values[c], None)} {c}" for c in COLUMNS if c in found.values)
    print(
        f"[{time.perf_counter() - start:.1f} s] {found.key}: {numbers}{found.note}",
        file=sys.stderr,
        flush=True,
    )
    return found


def table(rows: list[Row], before: dict[str, dict[str, float]]) -> str:
    """Markdown; with the rows of an earlier run each number is followed by its ratio to the earlier one."""
    used = [c for c in COLUMNS if any(c in row.values for row in rows)]
    lines = [f"| part | row | {' | '.join(used)} | |", "|" + "---|" * (len(used) + 3)]
    for row in rows:
        old = before.get(row.key, {})
        cells = [_cell(row.values.get(c), old.get(c)) for c in used]
        lines.append(f"| {row.part} | {row.name} | {' | '.join(cells)} | {row.note} |")
    return "\n".join(lines)


def _cell(value: float | None, old: float | None) -> str:
    if value is None:
        return ""
    ratio = f" ({value / old:.2f}x)" if old else ""
    return (f"{value:.0f}" if value >= 100 else f"{value:.3g}") + ratio


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("--parts", nargs="+", choices=PARTS, default=USUAL)
    made.add_argument("--rows", nargs="+", default=[], help="only rows with one of these words in their name")
    made.add_argument("--miniature", action="store_true", help="tiny networks; always so without CUDA")
    made.add_argument("--limit", type=float, default=1.0, help="times the parts' time limits")
    made.add_argument("--json", type=Path, help="also write the rows to this file")
    made.add_argument("--versus", type=Path, help="an earlier --json: ratios to it are printed")
    arguments = made.parse_args()
    before = {}
    if arguments.versus:
        earlier = json.loads(arguments.versus.read_text(encoding="utf-8"))
        before = {row["key"]: row["values"] for row in earlier["rows"]}
    start, bench = time.perf_counter(), Bench.here(arguments.miniature)
    print(f"{bench.name}, torch {torch.__version__}, {bench.rate / 1e12:.3g} TFLOP/s in a matrix product\n")
    save = partial(write, arguments.json, bench) if arguments.json else lambda rows: None
    rows = run(arguments.parts, bench, arguments.limit, arguments.rows, save)
    print(table(rows, before))
    print(f"\n{time.perf_counter() - start:.0f} s")
    failed = [row.key for row in rows if row.note.startswith("failed")]
    if failed:
        raise SystemExit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
