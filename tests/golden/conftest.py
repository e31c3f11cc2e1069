"""The recordings of the reference as fixtures; every file in the folder is a case.

`UFO_GOLDEN_DIR` names the folder (default: beside the repository); without it the tests skip.
"""

from __future__ import annotations

import pytest
from vit_recordings import ABSENT, FOLDER, Recordings, as_parameters

KINDS = ("train", "infer", "post")


def pytest_generate_tests(metafunc):
    """`train_case`, `infer_case` and `post_case` run over the names of the recorded files."""
    for kind in KINDS:
        if f"{kind}_case" in metafunc.fixturenames:
            names = sorted(path.stem for path in FOLDER.glob(f"{kind}_*.pt"))
            metafunc.parametrize(f"{kind}_case", as_parameters(names, kind), scope="module")


@pytest.fixture(scope="session")
def recordings() -> Recordings:
    if not FOLDER.is_dir():
        pytest.skip(ABSENT)
    return Recordings()
