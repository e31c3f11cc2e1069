"""Who may import whom is what docs/architecture.md says; seams keep what the design promises."""

from __future__ import annotations

import ast
import functools
import re

from test_docs import ROOT

# ---------------------------------------------------------------- who may know whom


@functools.cache
def imports() -> list[tuple[str, str]]:
    """(importing module, imported module) for all of `ufo/`, also inside of functions."""
    found = []
    for file in sorted((ROOT / "ufo").rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [(module, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: imports are absolute here"
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                found += [(module, name if _is_module(name) else node.module) for name in inner]
    return found


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def within(name: str, parts: list[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def table(head: str) -> dict[str, list[str]]:
    """A table of docs/architecture.md: the first cell's code -> the codes of the second one."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    rows = [line.strip("|").split("|") for line in lines]
    return {re.search(r"`([^`]+)`", first)[1]: re.findall(r"`([^`]+)`", rest) for first, rest in rows}


def test_project_imports__are_those_of_the_table():
    rules = table("| part | may import |")
    broken = []
    for module, imported in imports():
        if not within(imported, ["ufo"]):
            continue
        owners = [part for part in rules if part != "ufo" and within(module, [part])] or ["ufo"]
        own = owners[0]
        assert own != "ufo" or module == "ufo", f"docs/architecture.md has no row for {module}"
        if not (own != "ufo" and within(imported, [own])) and not within(imported, rules[own]):
            broken.append(f"{module} imports {imported}")
    assert not broken


def test_library_imports__are_those_of_the_table():
    rules = table("| library | only in |")
    broken = [
        f"{module} imports {imported}"
        for module, imported in imports()
        for library, places in rules.items()
        if within(imported, [library]) and not within(module, places)
    ]
    assert not broken


def test_seams__keep_what_the_design_promises():
    """The rules of the table themselves: ops know nothing, tasks and data no model, and so on."""
    rules = table("| part | may import |")
    model = {"ufo.model", "ufo.backbones", "ufo.head", "ufo.modules", "ufo.checkpoints"}
    assert rules["ufo.ops"] == []
    for part in ("ufo.tasks", "ufo.data", "ufo.metrics", "ufo.draw"):
        assert not [name for name in rules[part] if within(name, sorted(model))], part
    assert rules["ufo.kinds"] == ["ufo.types", "ufo.ops"]
    assert not [n for n in rules["ufo.callbacks"] if within(n, sorted(model))]
    seam = ("ufo.backbones.base", "ufo.backbones.context")
    assert not [n for n in rules["ufo.head"] if within(n, ["ufo.backbones"]) and n not in seam]
    assert not [n for n in rules["ufo.backbones"] if within(n, ["ufo.tasks", "ufo.data", "ufo.head"])]


def test_seams__are_types_and_not_questions_about_attributes():
    """What a backbone, a task or a tokenizer may leave out has a default in its base class."""
    asked = []
    for place in ("model.py", "head", "tasks", "kinds", "checkpoints"):
        path = ROOT / "ufo" / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                    continue
                if node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) > 2):
                    asked.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not asked
