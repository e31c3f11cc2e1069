"""A plug-in of pytest for a copy of the project to which something was added: the cases that are new there.

All others run in the project itself, in the same session. `ADDED` names what was added, `DESCRIBED` the
documents that tell of it. Of a test with many cases, those are kept that have one of these names in their id,
and of one without such cases the first: every test function of the chosen files runs.
"""

from __future__ import annotations

import os
import re


def pytest_collection_modifyitems(config, items):
    added = re.compile(rf"(?:^|[^a-z])(?:{os.environ['ADDED']})(?:$|[^a-z])")
    documents = os.environ["DESCRIBED"].split()
    cases: dict[str, list] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = set()
    for several in cases.values():
        named = {item: item.nodeid.partition("[")[2] for item in several}
        new = [i for i, n in named.items() if added.search(n) or any(document in n for document in documents)]
        kept |= {item.nodeid for item in new or several[:1]}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in kept])
    items[:] = [item for item in items if item.nodeid in kept]
