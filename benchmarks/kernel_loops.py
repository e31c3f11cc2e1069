"""What the attention kernels compile to for a GPU, without one: registers, spills, instructions of loops.

    python benchmarks/kernel_loops.py [--capability 90] [--head 64] [--side 70]

Triton (3.3 or newer) brings the assembler that this takes. Instructions are those that a warp issues for a
tile of 64 keys and 16 queries. Loads that are ahead of time are LDGSTS, those that a tile waits for LDG.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import triton
from common import show
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ufo.backbones import relative_kernels
from ufo.backbones.relative_launch import (
    FEW_QUERIES,
    KEYS,
    Split,
    compiler_options,
    padded_head,
    queries_of_program,
    register_limit,
)

FULL = {"lse_ptr", "delta_ptr", "of_row_ptr", "hidden_ptr"}  # in float32
# numbers that Triton finds to be multiples of 16 when it is called
EVEN = {"stride", "prompt", "out", "key"}
SIDES = {"windows": 14, "global": 70}  # of a base model at 1120 px, in patches


def kernels(head: int = 64, side: int = 70) -> dict[str, tuple[Any, dict[str, Any], dict[str, int]]]:
    """Of each row: the kernel, its constants and the compiler's options, as `relative_launch` has them."""
    of, options = {}, {}
    for name, length in (SIDES | {"global": side}).items():
        split, queries = Split.of(length, length), queries_of_program(length * length, head)
        of[name] = {
            **{"WIDE": split.wide > 0, "GROUP": split.group, "E": split.terms, "A": queries},
            **{"HEAD": head, "D": padded_head(head), "K": KEYS, "EVEN": split.wide % KEYS == 0},
        }
        options[name] = compiler_options(queries, head, split.terms)
    made: dict[str, tuple[Any, dict[str, Any], dict[str, int]]] = {}
    for name in ("global", "windows"):
        limit = register_limit(of[name]["A"])
        made[f"{name}: forward"] = (relative_kernels.forward, of[name], options[name] | limit)
    for name in ("global", "windows"):
        made[f"{name}: backward of queries"] = (relative_kernels.backward_of_queries, of[name], options[name])
    kinds = [("windows", of["windows"] | {"KIND": 1}), ("prompt", of["windows"] | {"KIND": 2, "E": 0})]
    if of["global"]["WIDE"]:
        kinds.insert(0, ("global", of["global"] | {"KIND": 0, "GROUP": 0, "E": KEYS}))
    for name, constants in kinds:
        row, of_keys = f"{name}: backward of keys", relative_kernels.backward_of_keys
        made[row] = (of_keys, constants | {"A": FEW_QUERIES}, compiler_options(FEW_QUERIES, head))
    return made


def compiled(kernel: Any, constants: dict[str, Any], options: dict[str, int], capability: int = 90) -> Any:
    """The kernel for bfloat16."""
    names = kernel.arg_names
    constants = {name: value for name, value in constants.items() if name in names}

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name.endswith("_ptr"):
            return "*fp32" if name in FULL else "*bf16"
        return "fp32" if name in ("scale", "factor") else "i32"

    def even(name: str) -> bool:
        return name.endswith("_ptr") or name in ("length", "filled") or name.partition("_")[0] in EVEN

    source = ASTSource(
        kernel,
        {name: kind(name) for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if even(name)},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def loops(machine_code: bytes) -> tuple[dict[str, int], list[Counter[str]]]:
    """Registers and bytes of spills of a kernel, and the instructions of its innermost loops."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(machine_code)
        said = [
            subprocess.run([tool, what, file.name], capture_output=True, text=True, check=True).stdout
            for what in ("-res-usage", "-sass")
        ]
    usage = {name: int(number) for name, number in re.findall(r"(REG|STACK|SHARED):(\d+)", said[0])}
    lines = [
        (int(at, 16), text) for at, text in re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", said[1], re.M)
    ]
    jumps = ((at, re.search(r"BRA.*?0x([0-9a-f]+)", text)) for at, text in lines)
    spans = [(int(jump[1], 16), at) for at, jump in jumps if jump and int(jump[1], 16) < at]
    inner = [
        span for span in spans if not any(span != o and span[0] <= o[0] and o[1] <= span[1] for o in spans)
    ]
    return usage, [
        Counter(
            re.sub(r"^@!?U?P\w+ ", "", text).split()[0].split(".")[0] for at, text in lines if a <= at <= b
        )
        for a, b in inner
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--capability", type=int, default=90, help="90: H100 and H200; 80: A100; 89: L4, RTX 40"
    )
    parser.add_argument("--head", type=int, default=64, help="columns of a head; 80: of a huge model")
    parser.add_argument("--side", type=int, default=70, help="of global windows, in patches; 70: 1120 px")
    arguments = parser.parse_args()
    rows = []
    for name, parts in kernels(arguments.head, arguments.side).items():
        made = compiled(*parts, capability=arguments.capability)
        usage, found = loops(made.asm["cubin"])
        counts = ", ".join(f"{loop.total()} ({loop['LDG']})" for loop in found)
        rows.append(
            [name, str(usage["REG"]), str(usage["STACK"]), f"{made.metadata.shared >> 10} KB", counts]
        )
    columns = ["kernel", "registers", "spilled bytes", "shared", "instructions of its loops (LDG)"]
    show(f"compiled for capability {arguments.capability}", columns, rows)


if __name__ == "__main__":
    main()
