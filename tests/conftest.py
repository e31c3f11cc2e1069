"""Hooks of a whole session; fixtures are in tiny_fixtures.py, which imports torch and all of the project.

With pytest-xdist the first process only hands out the tests: it imports nothing, so that the others start
some seconds earlier.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported; no test asks the hub

ROOT = Path(__file__).parents[1]


def pytest_configure(config):
    hands_out = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if not hands_out:
        config.pluginmanager.import_plugin("tiny_fixtures")


def pytest_ignore_collect(collection_path, config):
    """Files that can have none of the tests that `-m` asks for are not even imported, in any process."""
    asked = config.getoption("markexpr", "")
    named = {Path(argument.partition("::")[0]).resolve() for argument in config.args}
    if not asked or not collection_path.match("test_*.py") or collection_path in named:
        return None
    text = collection_path.read_text(encoding="utf-8")
    left_out = re.findall(r"not (\w+)", asked)
    if asked == " and ".join(f"not {mark}" for mark in left_out):
        whole = re.search(r"^pytestmark = pytest\.mark\.(\w+)$", text, re.M)
        return True if whole and whole[1] in left_out else None
    marks = asked.split(" or ")
    if all(re.fullmatch(r"\w+", mark) for mark in marks):
        return None if any(f"mark.{mark}" in text for mark in marks) else True
    return None


def _untracked() -> set[tuple[str, int]]:
    """Files and folders of the checkout that git does not track, but for caches; empty without git.

    With the time of their last entry: a test that writes where an earlier session already did is seen
    as well. A training of the user's own may write into `runs/` and `data/` meanwhile.
    """
    listed = subprocess.run(
        ["git", "status", "--porcelain", "--ignored", "--untracked-files=normal"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = {line[3:] for line in listed.stdout.splitlines() if line[:2] in ("??", "!!")}
    # what Python and the tools write, and files that somebody edits meanwhile
    named = {name for name in found if "cache" not in name and not name.endswith((".py", ".egg-info/"))}
    return {(name, 0 if name in ("runs/", "data/") else _time(ROOT / name)) for name in named}


def _time(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def pytest_sessionstart(session):
    session.untracked = None if hasattr(session.config, "workerinput") else _untracked()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """A test writes into its `tmp_path`: a session that leaves anything in the checkout fails.

    Said after pytest's own summary, as the last line, where it is looked for.
    """
    yield
    left = set() if session.untracked is None else _untracked() - session.untracked
    if left:
        names = ", ".join(sorted(name for name, _ in left))
        print(f"\nERROR: tests left in the checkout: {names}; write into tmp_path")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
