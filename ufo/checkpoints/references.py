"""How large the structures of a pickle are when every reference to a shared part is followed.

A few hundred bytes can name one list a thousand times, in a list that is named a thousand times in turn. Such
a pickle is read at once, but to hash or to print what it holds takes for ever, and nesting without end
overflows the stack. So the opcodes are read beforehand, without building anything.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

LONGEST = 512 * 2**20  # bytes of the pickle in a checkpoint, which holds no tensor's values
DEEPEST = 200  # nested structures; a training log has about ten
_SPARE = 100_000  # parts that shared references may add to any file
_GROWS = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})


def _takes(opcode: pickletools.OpcodeInfo) -> tuple[int, bool]:
    kinds = [kind.name for kind in opcode.stack_before]
    return (kinds.index("mark"), True) if "mark" in kinds else (len(kinds), False)


# how many objects an opcode takes from the stack, and whether before them all down to the last mark
_TAKES = {opcode.name: _takes(opcode) for opcode in pickletools.opcodes}


class NestedError(ValueError):
    """A pickle whose structures nothing should walk."""


def check_references(path: Path, zipped: bool) -> None:
    """Raises NestedError where the pickle in a `torch.save` file holds structures that nobody should walk."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            found = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
            if sum(entry.file_size for entry in found) > LONGEST:
                raise NestedError("its pickle is too long for a checkpoint's")
            for entry in found:
                with archive.open(entry) as stream:
                    _check(stream)
        return
    with open(path, "rb") as stream:
        for _ in range(5):  # torch's older format: a number, a version, the machine, the content, names
            _check(stream)


def _check(stream: IO[bytes]) -> None:
    parts, opcodes = _structure(stream)
    limit = _SPARE + 10 * opcodes
    sizes, depths = {0: 1}, {0: 0}
    for start in range(1, len(parts)):
        for part in _children_first(parts, start, sizes):
            inside = [child for child in parts[part] if child in sizes]  # a cycle is cut
            sizes[part] = 1 + sum(sizes[child] for child in inside)
            depths[part] = 1 + max((depths[child] for child in inside), default=0)
            if sizes[part] > limit or depths[part] > DEEPEST:
                raise NestedError("its structures are nested as no checkpoint's are")


def _children_first(parts: list[list[int]], start: int, done: dict[int, int]) -> Iterator[int]:
    """`start` and all below it that are not yet done, each after what it holds."""
    pending, entered = [start], set()
    while pending:
        part = pending[-1]
        if part in done:
            pending.pop()
        elif part in entered:
            yield part
            pending.pop()
        else:
            entered.add(part)
            pending += [child for child in parts[part] if child not in done and child not in entered]


def _structure(stream: IO[bytes]) -> tuple[list[list[int]], int]:
    """What each structure of a pickle holds, as numbers of other ones, and how many opcodes there are.

    Number 0 stands for all that holds nothing.
    """
    parts: list[list[int]] = [[]]
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[Any, int] = {}
    count = 0
    for opcode, argument, _ in pickletools.genops(stream):
        count += 1
        name = opcode.name
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        elif opcode.stack_before or opcode.stack_after:
            stack += _applied(opcode, stack, marks, parts)
    return parts, count


def _applied(
    opcode: pickletools.OpcodeInfo, stack: list[int], marks: list[int], parts: list[list[int]]
) -> list[int]:
    """Take from the stack what an opcode takes; returns what it puts there."""
    needed, from_mark = _TAKES[opcode.name]
    taken: list[int] = []
    if from_mark:
        at = marks.pop()
        taken, stack[at:] = stack[at:], []
    for _ in range(needed):
        taken.append(stack.pop())
    if not opcode.stack_after:
        return []
    if opcode.name in _GROWS:
        target = taken.pop()  # the one below all the others grows
        if target:
            parts[target] += taken
        return [target]
    if not taken and not opcode.name.startswith("EMPTY_"):  # a number, a text, a name
        return [0]
    parts.append(taken)
    return [len(parts) - 1]
