"""What comments, docstrings, configs and documents cite is in the repository, down to the section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("ufo", "conf", "tests", "docs", "benchmarks", "scripts", "hydra_plugins")
SUFFIXES = {".py", ".yaml", ".md", ".sh"}
# a name with the ending of a document, and the section behind it
CITED = re.compile(r"(?<![\w/{*])((?:\w[\w.-]*/)*\w[\w.-]*\.md)\b(?:#([\w-]+))?")
# of documents that a test or a command writes itself
WRITTEN = {"readme.md", "report.md", "data.md", "output.md", "OUTPUT.md", "RUNS/output.md"}


def _files() -> Iterator[Path]:
    yield from (p for p in ROOT.iterdir() if p.suffix in SUFFIXES | {".toml"})
    for folder in FOLDERS:
        yield from (p for p in sorted((ROOT / folder).rglob("*")) if p.suffix in SUFFIXES)


def _anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as the usual renderers make them."""
    found = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in found}


def _documents() -> dict[str, Path]:
    """Documents by their name and by their path."""
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").glob("*.md")]
    paths += [*(ROOT / "benchmarks").glob("*.md"), *(ROOT / ".github").rglob("*.md")]
    return {key: p for p in paths for key in (p.name, str(p.relative_to(ROOT)))}


def test_cited_documents_are_here():
    here = _documents()
    absent = []
    for path in _files():
        if path == Path(__file__):
            continue
        for cited, anchor in CITED.findall(path.read_text()):
            document = here.get(cited) or here.get(cited.split("/")[-1])
            if document is None and cited not in WRITTEN:
                absent.append(f"{path.relative_to(ROOT)}: {cited}")
            elif document and anchor and anchor not in _anchors(document.read_text()):
                absent.append(f"{path.relative_to(ROOT)}: {cited}#{anchor}")
    assert not absent, "\n".join(absent)


@pytest.mark.parametrize("text", ["(vit.md section 2)", "see spec/traps.md 7", "`docs/gone.md#here`"])
def test_a_citation_is_noticed(text):
    assert CITED.search(text)


def test_no_comment_speaks_of_an_issue():
    # a reader has the repository and not what was once asked for
    asked = re.compile(r"\(issue\b|\bissue[s:]? (?:section|part|#?\d)|\btraps\.md|\bspec/")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in _files()
        if path != Path(__file__)
        for line in path.read_text().splitlines()
        if asked.search(line)
    ]
    assert not found, "\n".join(found)
