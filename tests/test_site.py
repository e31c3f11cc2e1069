"""The documents as a site, and that the page of errors quotes what the code says."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("project_site", ROOT / "scripts" / "site.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_document_has_a_place(site):
    tracked = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    documents = {name for name in tracked.stdout.split() if not name.startswith(".github")}
    if not documents:
        pytest.skip("not a git checkout")
    assert {page for pages in site.PAGES.values() for page in pages} == documents


def test_what_pages_link_to_is_there(site, tmp_path):
    site.stage(tmp_path)
    for page in sorted((tmp_path / "pages").rglob("*.md")):
        for target in re.findall(r"\]\((?!http|#|mailto)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page, target)


@pytest.mark.slow
def test_the_site_builds(site, tmp_path):
    """Zensical's strict mode fails for a link to a page that is not there."""
    pytest.importorskip("zensical")
    site.stage(tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "predictions.png" in page and "googleapis" not in page


def said_by_the_code() -> str:
    """All texts of the package; what is filled in at run time is an ellipsis."""
    texts = []
    for path in (ROOT / "ufo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_the_page_of_errors_quotes_the_code():
    own = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8").partition("## Not the project's own")[0]
    quoted = re.findall(r"^\| `([^`]+)` \|", own, re.MULTILINE)
    assert len(quoted) == 10
    said = said_by_the_code()
    for message in quoted:
        for part in message.replace("'", "…").replace("`", "…").split("…"):
            assert part.strip(" :,") in said, (message, part)
